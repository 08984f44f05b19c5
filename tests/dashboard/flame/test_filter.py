"""Expressions of the page's filter, in real JavaScript."""

from __future__ import annotations

import math
import operator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.node_help import Node, node, several

__all__ = ["node"]

pytestmark = pytest.mark.process


def call(name: str = "a", **more: Any) -> dict[str, Any]:
    parameters = [[key, value] for key, value in more.pop("parameters", {}).items()]
    measured = more.pop("metrics", {})
    metrics = [[key, best, 0, last, 1, 1] for key, (best, last) in measured.items()]
    row = {
        "key": name, "name": name, "arguments": "", "runner": "r-1", "pool": "", "state": "done",
        "why": "", "attempt": 1, "took": 5.0, "step": 3, "parameters": parameters,
        "metrics": metrics,
    }  # fmt: skip
    return row | more


def test_a_call_that_was_stopped_says_why(node: Node) -> None:
    by = "train-12 was stopped by dask_flame.stop()"
    for why, text in (
        (f"CallStopped('{by}')", "stopped"),
        (f"CallStopped('{by} before it began')", "stopped"),
        (
            f"CallStopped('{by}: accuracy 41 %: the median is 63 %')",
            "stopped: accuracy 41 %: the median is 63 %",
        ),
        (f'CallStopped("{by} before it began: it\'s enough")', "stopped: it's enough"),
        (f"CallStopped('{by}: a long rea…", "stopped: a long rea…"),
        ("CallStopped('no progress')", "stopped: CallStopped: no progress"),
        ("", "cancelled"),
    ):
        assert node("stateText", call(state="cancelled", why=why)) == text
    failed = call(state="failed", why=f"ValueError('{by}')")
    assert node("stateText", failed) == f"failed: {by}"


CALLS = [
    call(
        "small",
        parameters={"lr": 0.001, "act": "relu", "deep": True},
        metrics={"loss": (0.5, 0.7)},
    ),
    call(
        "large",
        parameters={"lr": 0.1, "act": "gelu, tanh", "deep": False},
        metrics={"loss": (0.123456, 2.0), "acc": (0.9, 0.8)},
        runner="r-2",
        took=90.0,
    ),
    call(
        "broken",
        parameters={"lr": 1, "act": "relu", "deep": None},
        state="failed",
        why="ValueError: no room",
        attempt=2,
    ),
]
FIND = "(text, calls, names) => calls.filter(parse(text, names)).map((a) => a.name)"
WRONG = "(text, names) => parse(text, names).wrong"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "small large broken"),
        ("a", "small large broken"),
        ("LARGE", "large"),
        ("done r-", "small large"),
        ("-done", "broken"),
        ('"no room"', "broken"),
        ('-"no room" -large', "small"),
        ("lr>0.01", "large broken"),
        ("lr >= 1e-3 lr<1", "small large"),
        ("lr=0.1", "large"),
        ("lr==.1", "large"),
        ("lr!=0.1", "small broken"),
        ("lr≠0.1", "small broken"),
        ("lr=0.1,1", "large broken"),
        ("act=relu", "small broken"),
        ('act="gelu, tanh"', "large"),
        ("act:GEL", "large"),
        ("-act:gel", "small broken"),
        ("deep=true", "small"),
        ("deep=none", "broken"),
        ("loss<=0.5", "small large"),
        ("best.loss<0.2", "large"),
        ("last.loss>1", "large"),
        # As it is shown in the table.
        ("loss=0.1235", "large"),
        ("acc>0", "large"),
        ("-acc>0", "small broken"),
        ("state:failed", "broken"),
        ("state!=failed", "small large"),
        ("runner=r-2", "large"),
        ("attempt>1", "broken"),
        ("duration>1min", "large"),
        ("duration<1m", "small broken"),
        ("why:room", "broken"),
        ("lr<0.5 state=done -small", "large"),
    ],
)
def test_what_is_found(node: Node, text: str, found: str) -> None:
    names = ["lr", "act", "deep", "loss", "acc"]
    assert node(FIND, text, CALLS, names) == found.split()
    assert node(WRONG, text, names) == ""


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("lr>", "lr> compares with nothing: lr>…"),
        ("lr>abc", "abc is no number"),
        ("layers=3", "nothing is called layers"),
        ("lr<1,2", "lr<1,2: one number, please"),
        ("lr>abc loss<", "abc is no number; loss< compares with nothing: loss<…"),
    ],
)
def test_a_wrong_expression_says_why_and_hides_nothing(node: Node, text: str, wrong: str) -> None:
    assert node(WRONG, text, ["lr", "loss"]) == wrong
    assert node(FIND, text, CALLS, ["lr", "loss"]) == ["small", "large", "broken"]


def test_keys_and_addresses_that_look_like_comparisons_are_found(node: Node) -> None:
    calls = [call("rate=0.1"), call("rate=0.2", runner="tcp://127.0.0.1:80")]
    assert node(FIND, "rate=0.1", calls) == ["rate=0.1"]
    assert node(FIND, "tcp://127", calls) == ["rate=0.2"]


texts = st.text(st.characters(codec="utf-8"), max_size=20)


@several
@given(text=texts | st.text('ab-"\\<>=!:, 1', max_size=20))
def test_no_text_raises_and_a_minus_excludes(node: Node, text: str) -> None:
    node(FIND, text, CALLS, ["lr"])
    quoted = node("quoted", text)
    assert node("terms", f"-{quoted}")[0]["not"] or not quoted.strip()


@several
@given(name=texts.filter(bool), values=st.lists(texts.filter(bool), min_size=1, max_size=3))
def test_quoted_names_and_values_are_taken_as_they_are(
    node: Node, name: str, values: list[str]
) -> None:
    text = node("withRange", "", name, {"values": values})
    (term,) = node("terms", text)
    assert (term["name"], term["operator"], term["values"]) == (name, "=", values)
    assert node("rangeIn", text, name)["values"] == values
    assert node("withRange", f"word {text}", name, None) == "word"


numbers = st.floats(allow_nan=False, width=64) | st.integers(-1000, 1000)
COMPARE = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


@several
@given(value=numbers, other=numbers, sign=st.sampled_from(list(COMPARE)))
def test_comparisons_are_those_of_numbers(
    node: Node, value: float, other: float, sign: str
) -> None:
    row = call(parameters={"x": value})
    assert bool(node(FIND, f"x{sign}{other!r}", [row], ["x"])) is COMPARE[sign](value, other)
    assert node(FIND, f"x={value!r}", [row], ["x"]) == ["a"]
    assert node(FIND, f"-x{sign}{other!r}", [row], ["x"]) != node(
        FIND, f"x{sign}{other!r}", [row], ["x"]
    )


def test_nothing_compares_with_what_is_not_there(node: Node) -> None:
    row = call(parameters={"x": math.nan})
    for sign in COMPARE:
        assert node(FIND, f"x{sign}0", [row], ["x"]) == []
        assert node(FIND, f"y{sign}0", [row], ["x", "y"]) == []
    assert node(FIND, "y!=0", [row], ["x", "y"]) == ["a"]


@several
@given(low=numbers, high=numbers)
def test_a_range_replaces_the_one_before(node: Node, low: float, high: float) -> None:
    first = node("withRange", 'state:done "lr" -lr>3', "lr", {"low": low, "high": high})
    found = node("rangeIn", first, "lr")
    given_back = [None if found[end] is None else float(found[end]) for end in ("low", "high")]
    # An infinite end is no end.
    assert given_back == [float(end) if math.isfinite(end) else None for end in (low, high)]
    again = node("withRange", first, "lr", {"low": 1})
    assert again == 'state:done "lr" -lr>3 lr>=1'


def test_a_range_of_no_categories_is_no_range(node: Node) -> None:
    assert node("withRange", "a act=b", "act", {"values": []}) == "a"
