"""Odd things to give to calls, to return from them and to raise in them.

A recipe is plain data, of which the thing is made where it is wanted: in the driver, or in a call.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import io
import os
import socket
import sys
import threading
import time
import types
import weakref
from typing import Any

from hypothesis import strategies as st

from dask_flame.runner.main_module import MainModule

Recipe = tuple[Any, ...]

_RAISED: dict[str, type[BaseException]] = {
    kind.__name__: kind
    for kind in (
        ValueError,
        SystemExit,
        KeyboardInterrupt,
        GeneratorExit,
        RecursionError,
        OSError,
        ConnectionError,
        TimeoutError,
        StopIteration,
        AttributeError,
        NotImplementedError,
        MemoryError,
        ModuleNotFoundError,
        asyncio.CancelledError,
    )
}
_BASES: dict[str, type] = {
    kind.__name__: kind for kind in (object, dict, list, tuple, str, int, bytes, Exception)
}
_METHODS = [
    "__reduce__",
    "__reduce_ex__",
    "__getstate__",
    "__setstate__",
    "__repr__",
    "__str__",
    "__del__",
    "__sizeof__",
    "__hash__",
    "__eq__",
    "__len__",
    "__bool__",
    "__iter__",
    "__getattr__",
    "__dask_tokenize__",
    "__dask_graph__",
    "__array__",
    "__call__",
    "__await__",
]


def _load(recipe: Recipe) -> Any:
    """What an odd thing is pickled as: raises where it is read, or only in some processes."""
    where, kind, pid = recipe
    here = os.getpid() == pid
    if where == "anywhere" or (where == "elsewhere") != here:
        raise _RAISED[kind](kind)
    return "read"


def _method(kind: str) -> Any:
    def raises(*args: Any, **kwargs: Any) -> Any:
        raise _RAISED[kind]("a method of it")

    return raises


def _letting_go(kind: str) -> Any:
    def raises(*args: Any) -> None:
        # In the tests' own process it would be another test's warning, whenever that lets it go.
        if isinstance(sys.modules["__main__"], MainModule):
            raise _RAISED[kind]("a method of it")

    return raises


def make(recipe: Recipe) -> Any:
    """Make the thing of this recipe."""
    what, *rest = recipe
    return _MAKERS[what](*rest)


def _odd(base: str, methods: tuple[tuple[str, str], ...]) -> Any:
    named = {name: (_letting_go if name == "__del__" else _method)(kind) for name, kind in methods}
    if "__eq__" in named:
        named.setdefault("__hash__", object.__hash__)
    return type("Odd", (_BASES[base],), named)()


def _unreadable(where: str, kind: str) -> Any:
    recipe = where, kind, os.getpid()
    return type("Unreadable", (), {"__reduce__": lambda self: (_load, (recipe,))})()


def _deep(depth: int) -> Any:
    inner: list[Any] = []
    for _ in range(depth):
        inner = [inner]
    return inner


def _circle() -> Any:
    circle: list[Any] = []
    circle.append(circle)
    return circle


def _closed_file() -> Any:
    file = open(os.devnull)  # noqa: SIM115
    file.close()
    return file


def _closed_socket() -> Any:
    with socket.socket() as closed:
        return closed


def _metaclass(kind: str) -> Any:
    meta = type("Meta", (type,), {"__reduce__": _method(kind), "__repr__": _method(kind)})
    return meta("OfMeta", (), {})()


_MAKERS: dict[str, Any] = {
    "plain": lambda value: value,
    "odd": _odd,
    "unreadable": _unreadable,
    "metaclass": _metaclass,
    "deep": _deep,
    "circle": _circle,
    "big": lambda size: b"x" * size,
    "lock": threading.Lock,
    "condition": threading.Condition,
    "local": threading.local,
    "generator": lambda: (n for n in range(3)),
    "coroutine": lambda: types.coroutine(lambda: (yield))(),
    "frame": sys._getframe,
    "traceback": lambda: types.TracebackType(None, sys._getframe(), 0, 1),
    "module": lambda: time,
    "closed_file": _closed_file,
    "closed_socket": _closed_socket,
    "memory": lambda: memoryview(b"abc"),
    "lambda": lambda: lambda x: x,
    "partial": lambda: functools.partial(print, file=sys.stderr),
    "class": lambda: type("Local", (), {"lock": threading.Lock()}),
    "weakref": lambda: weakref.ref(threading.current_thread()),
    "thread": threading.current_thread,
    "stdout": lambda: sys.stdout,
    "collector": lambda: gc.collect,
    "text": io.StringIO,
    "list": lambda inner: [make(each) for each in inner],
    "dict": lambda inner: {n: make(each) for n, each in enumerate(inner)},
}

_kinds = st.sampled_from(sorted(_RAISED))
_leaves: st.SearchStrategy[Recipe] = st.one_of(
    st.tuples(
        st.just("odd"),
        st.sampled_from(sorted(_BASES)),
        st.lists(st.tuples(st.sampled_from(_METHODS), _kinds), max_size=2).map(tuple),
    ),
    st.tuples(st.just("unreadable"), st.sampled_from(["anywhere", "here", "elsewhere"]), _kinds),
    st.tuples(st.just("metaclass"), _kinds),
    st.tuples(st.just("deep"), st.sampled_from([10, 500, 5_000, 100_000])),
    st.tuples(st.just("big"), st.sampled_from([0, 200_000, 20_000_000])),
    st.sampled_from(
        [
            (name,)
            for name in _MAKERS
            if name
            not in ("plain", "odd", "unreadable", "metaclass", "deep", "big", "list", "dict")
        ]
    ),
    st.tuples(st.just("plain"), st.none() | st.integers() | st.text(max_size=5)),
)

#: Recipes of odd things, alone or in lists and dicts.
recipes: st.SearchStrategy[Recipe] = st.recursive(
    _leaves,
    lambda inner: st.tuples(
        st.sampled_from(["list", "dict"]), st.lists(inner, max_size=3).map(tuple)
    ),
    max_leaves=4,
)


class OddError(Exception):
    """Holds something odd."""

    def __init__(self, held: Any) -> None:
        super().__init__("odd", held)
        self.held = held


def fails(recipe: Recipe, kind: str) -> BaseException:
    """Make the error that a call raises."""
    if kind == "itself":
        thing = make(recipe)
        return thing if isinstance(thing, BaseException) else OddError(thing)
    if kind == "holds":
        return OddError(make(recipe))
    return _RAISED[kind](make(recipe))


#: How a call ends: what it makes of its recipe.
errors: st.SearchStrategy[str] = st.sampled_from(["itself", "holds", *sorted(_RAISED)])
