from __future__ import annotations

import ast
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_flame.notebook.cells.names import changed, submodules, used

pytestmark = pytest.mark.unit


def needs(source: str) -> list[str]:
    return sorted(used(ast.parse(source)))


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("a = b", ["b"]),
        ("a = 1\na + 1", []),
        ("a += 1", ["a"]),
        ("a + (a := 1)", ["a"]),
        ("del a", ["a"]),
        ("import numpy as np\nnp.zeros(1)", []),
        ("def f(x, y=d): return x + g\nf(1)", ["d", "g"]),
        ("def f():\n    global n\n    n += 1", ["n"]),
        ("class A(B):\n    x = y\n    def m(self): return self.x + z", ["B", "y", "z"]),
        ("lambda p: p + q", ["q"]),
        ("[i + j for i in k]", ["j", "k"]),
        ("if c: a = 1\na", ["a", "c"]),
        ("if c: a = 1\nelse: a = 2\na", ["c"]),
        ("for i in r:\n    a = i\n    if a: break\na", ["a", "r"]),
        ("for i, x[j] in r: i", ["j", "r", "x"]),
        ("while w: a = 1\nelse: b", ["b", "w"]),
        ("with o() as f, p(f): a = f\na", ["o", "p"]),
        ("try: a = 1\nexcept E as e: e\na", ["E", "a"]),
        ("try: a = 1\nfinally: b = 1\n(a, b)", []),
        ("d['y'] = v", ["d", "v"]),
        ("await a\nasync for i in b: i", ["a", "b"]),
        ("match m:\n    case {'k': v}: v", ["m", "v"]),
        ("f'{a} {b:{c}}'", ["a", "b", "c"]),
        ("def f(): return later\nlater = 1\nf()", ["later"]),
        ("@d\ndef f(x: t): pass", ["d", "t"]),
    ],
)
def test_what_is_used_before_it_is_assigned(source: str, names: list[str]) -> None:
    assert needs(source) == names


_names = st.sampled_from("abcde")
_simple = st.one_of(
    st.tuples(_names, _names).map(lambda p: [f"{p[0]} = {p[1]}"]),
    st.tuples(_names, _names).map(lambda p: [f"{p[0]} = (lambda: {p[1]})()"]),
    _names.map(lambda n: [f"{n} += 1"]),
    _names.map(lambda n: [f"{n} = 1"]),
    _names.map(lambda n: [f"del {n}"]),
)


def _compound(inner: st.SearchStrategy[list[str]]) -> st.SearchStrategy[list[str]]:
    def block(lines: list[str]) -> list[str]:
        return [f"    {line}" for line in lines]

    pair = st.tuples(_names, inner, inner)
    return st.one_of(
        st.lists(inner, max_size=3).map(lambda blocks: sum(blocks, ["pass"])),
        pair.map(lambda p: [f"if {p[0]}:", *block(p[1]), "else:", *block(p[2])]),
        pair.map(lambda p: [f"for {p[0]} in (0, 1):", *block(p[1]), "    break", *p[2]]),
        pair.map(lambda p: ["try:", *block(p[1]), "except KeyError:", *block(p[2])]),
        pair.map(lambda p: ["try:", *block(p[1]), "finally:", *block(p[2])]),
        pair.map(lambda p: [f"while not {p[0]}:", *block(p[1]), "    break", *p[2]]),
    )


class _Recording(dict[str, Any]):
    """A namespace that gives 1 for what nobody has assigned, and notes it."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: set[str] = set()

    def __missing__(self, name: str) -> int:
        if name not in "abcde":
            raise KeyError(name)
        self.asked.add(name)
        self[name] = 1
        return 1

    def __delitem__(self, name: str) -> None:
        self[name]
        # It may be asked for again, as it would be by a cell that deletes a name and then uses it.
        self[name] = 1


@given(st.recursive(_simple, _compound, max_leaves=12))
def test_whatever_a_cell_asks_for_is_known_before(lines: list[str]) -> None:
    source = "\n".join(lines)
    names = _Recording()
    # A function's globals are not asked in this way: what they need is seen by the other tests.
    source = source.replace("(lambda: ", "(").replace(")()", ")")
    exec(compile(source, "<cell>", "exec"), {}, names)
    assert names.asked <= used(ast.parse(source)), source


def test_names_that_are_assigned_or_whose_items_or_attributes_are() -> None:
    source = """
df["y"] = 1
a.b.c += 1
for o.i in range(3): pass
with f() as w["x"]: pass
del d[0]
if 1: (e.x, [g[1], *h[2]]) = rest
unchanged.method()[0]
same += [1]
kept = kept
def inside(): hidden.x = 1; here = 1
class C: inner = 1
[n for n in range(3)]
"""
    names = {"df", "a", "o", "w", "d", "e", "g", "h", "same", "kept"}
    assert changed(ast.parse(source)) == names


def test_modules_reached_through_others() -> None:
    import os
    import xml.dom.minidom

    tree = ast.parse("xml.dom.minidom.parseString(x); os.path.join; nothing.at.all; xml.no.such")
    found = submodules(tree, {"xml": xml, "os": os, "nothing": 1}, sys.modules)
    assert found == {"xml.dom", "xml.dom.minidom", "os.path"}
