"""Names of the live application are completed and described."""

from __future__ import annotations

import builtins
import functools
import sys
import threading
import time
from typing import Any

import pytest

from dask_flame.attached.application import completion
from dask_flame.attached.application.completion import (
    complete,
    find,
    inspected,
    is_complete,
)
from dask_flame.attached.client.application import Application
from tests.support.applications import Program


class Basket:
    """Goods to buy."""

    def __init__(self) -> None:
        self.goods = ["tea"]

    def add(self, good: str, *, count: int = 1) -> None:
        """Add goods."""

    @property
    def total(self) -> int:
        raise AssertionError("the getter was called")


class Lazy:
    """Has attributes that run code of the application."""

    @functools.cached_property
    def rates(self) -> int:
        raise AssertionError("the getter was called")


class Proxy:
    """Runs code of the application for each attribute."""

    goods = ("tea",)

    def __getattribute__(self, name: str) -> Any:
        if name in ("goods", "rates"):
            raise AssertionError("the getter was called")
        return super().__getattribute__(name)


NAMES = {
    "basket": Basket(),
    "lazy": Lazy(),
    "proxy": Proxy(),
    "sys": sys,
    "__builtins__": builtins,
}


@pytest.fixture(params=["IPython", "without"])
def ipython(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "without":
        module = "dask_flame.attached.application.ipython"
        monkeypatch.setitem(sys.modules, module, None)
        monkeypatch.setitem(sys.modules, "IPython.core.inputtransformer2", None)
    return str(request.param)


@pytest.mark.unit
@pytest.mark.usefixtures("ipython")
@pytest.mark.parametrize(
    ("code", "start", "expected"),
    [
        ("basket.", 7, {"add", "goods", "total"}),
        ("x = 1\nprint(basket.go", 19, {"goods"}),
        ("bask", 0, {"basket"}),
        ("basket.goods.app", 13, {"append"}),
        ("basket.total.", 13, set()),
        ("nothing.", 8, set()),
    ],
)
def test_names_are_completed(code: str, start: int, expected: set[str]) -> None:
    found = complete(code, len(code), NAMES)
    assert {name for name in found["matches"] if not name.startswith("_")} == expected
    if expected:
        assert (found["start"], found["end"]) == (start, len(code))


@pytest.mark.unit
@pytest.mark.usefixtures("ipython")
def test_objects_are_described() -> None:
    text = inspected("basket.add", 10, NAMES, 0)["data"]["text/plain"]
    assert "basket.add(good: 'str', *, count: 'int' = 1)" in text
    assert "Add goods." in text
    # In the arguments of a function, it is the function.
    code = "basket.add('tea', (1, 2), "
    assert inspected(code, len(code), NAMES, 0)["name"] == "basket.add"
    assert '"""Add goods."""' in inspected("basket.add", 3 + 7, NAMES, 1)["data"]["text/plain"]
    assert not inspected("basket.nothing", 14, NAMES, 0)["found"]
    assert not inspected("basket.total", 12, NAMES, 0)["found"]
    assert find("len", NAMES) == (True, len)


@pytest.mark.unit
@pytest.mark.usefixtures("ipython")
def test_no_code_of_the_application_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    monkeypatch.setattr(
        functools.cached_property, "__get__", lambda *_: called.append("rates"), raising=True
    )
    assert not inspected("lazy.rates", 10, NAMES, 0)["found"]
    assert complete("lazy.rates.", 11, NAMES)["matches"] == []
    assert not inspected("lazy.rates.real", 15, NAMES, 0)["found"]
    assert inspected("proxy.goods", 11, NAMES, 0)["found"]
    assert called == []


@pytest.mark.unit
def test_tab_does_not_wait_for_ipython(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    loading = threading.Thread(target=over.wait)
    loading.start()
    monkeypatch.setattr(completion, "_loading", loading)
    monkeypatch.setitem(sys.modules, "dask_flame.attached.application.ipython", None)
    try:
        assert set(complete("basket.", 7, NAMES)["matches"]) == {"add", "goods", "total"}
        assert is_complete("for x in y:")["status"] == "incomplete"
        assert loading.is_alive()
    finally:
        over.set()
        loading.join()


@pytest.mark.unit
@pytest.mark.usefixtures("ipython")
def test_code_is_complete_or_not() -> None:
    assert is_complete("x = 1")["status"] == "complete"
    assert is_complete("for x in y:")["status"] == "incomplete"
    assert is_complete("x = = 1")["status"] == "invalid"


@pytest.mark.process
def test_completion_comes_from_the_application(app: Application, shop: Program) -> None:
    found = app.complete("basket.")
    assert set(found) == {"add", "goods", "total"}
    assert (found.start, found.end) == (7, 7)
    app.run("basket.goods.append('milk'); mine = basket")
    assert "goods" in app.complete("mine.g")
    assert "mine" in app.complete("min")
    assert "Add goods." in app.inspect("basket.add(")["data"]["text/plain"]
    # It is quick enough for the Tab key; the first one may load IPython.
    times: list[float] = []
    for _ in range(20):
        begun = time.perf_counter()
        app.complete("basket.")
        times.append(time.perf_counter() - begun)
    print(f"completion: {sorted(times)[10] * 1e3:.1f} ms")
    # A cell runs meanwhile.
    outputs: list[Any] = []

    def take(output: dict[str, Any]) -> None:
        outputs.append("goods" in app.complete("basket."))
        app.interrupt()

    app.run_cell("print(1)\nwhile True: pass", on_output=take)
    assert outputs == [True]
    assert shop.end() == ""  # no getter was called
