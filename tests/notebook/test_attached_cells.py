"""``%%flame on=NAME`` in a shell of IPython: cells, completion and help from an application."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dask_flame.attached import places
from dask_flame.attached.client.application import Application
from tests.notebook.test_magics import Notebook
from tests.notebook.test_magics import shell as shell  # a fixture
from tests.support.applications import SHOP, Program, program

pytestmark = pytest.mark.process


@pytest.fixture(autouse=True)
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Program]:
    monkeypatch.setenv(places.FOLDER, str(tmp_path / "sockets"))
    with program(SHOP, tmp_path / "shop.py") as running:
        yield running


def completed(shell: Notebook, cell: str) -> set[str]:
    from IPython.core.completer import provisionalcompleter

    with provisionalcompleter():
        return {one.text for one in shell.shell.Completer.completions(cell, len(cell))}


def test_a_cell_runs_in_the_application(shell: Notebook, shop: Program) -> None:
    value = shell.flame("print('hello'); import os; pid = os.getpid()\nbasket.goods", "on=shop")
    assert repr(value) == "['tea']"
    assert "hello\n" in shell.out
    assert "pid" not in shell
    assert shell.flame("total = 3", "on=shop get=pid,total") is None
    assert (shell["pid"], shell["total"]) == (shop.pid, 3)
    # Its first line is the magic's.
    said = shell.fails("def f():\n    return 1 / 0\nf()", "on=shop")
    assert "line 4, in <module>\n    f()" in said
    assert "ZeroDivisionError: division by zero" in said
    assert "dask_flame" not in said
    assert "was never closed" in shell.fails("x = (", "on=shop")
    assert "CallTimeout" in shell.fails("while True: pass", "on=shop timeout=0.2s")
    shell.ok("%flame on=shop")
    assert repr(shell.flame("os.getpid()")) == str(shop.pid)
    shell.ok("%flame on=none")
    assert "there is no Dask client" in shell.fails("1")
    shell.ok(f"import dask_flame\nmine = dask_flame.attach('shop', instance={shop.pid})")
    assert isinstance(shell["mine"], Application)
    assert repr(shell.flame("basket.goods", "on=mine")) == "['tea']"
    shell["mine"].detach()


def test_wrong_lines_are_refused(shell: Notebook) -> None:
    assert 'dask_flame.expose("cart")' in shell.fails("1", "on=cart")
    assert "for cells in an application" in shell.fails("1", "get=x")
    assert "is not a process id" in shell.fails("1", "on=shop instance=first")
    assert "has no instance 1:" in shell.fails("1", "on=shop instance=1")
    assert "magics, shell commands" in shell.fails("%time 1", "on=shop")
    assert "no cell has assigned 'lost'" in shell.fails("1", "on=shop get=lost")


def test_names_are_completed_and_described(
    shell: Notebook, shop: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell.ok("basket = 5")  # of the notebook: it is not asked
    assert completed(shell, "%%flame on=shop\nbasket.") == {"add", "goods", "total"}
    assert completed(shell, "%%flame on=shop\nx = 1\nprint(basket.go") == {"goods"}
    assert "add" not in completed(shell, "basket.")
    assert "add" not in completed(shell, "%%flame on=cart\nbasket.")
    shell.ok("%flame on=shop")
    assert completed(shell, "%%flame\nbasket.ad") == {"add"}
    shell.ok("%flame on=none")
    shown: list[Any] = []
    monkeypatch.setattr("IPython.core.page.page", shown.append)
    shell.flame("basket.add?", "on=shop")
    assert "Add goods." in shown[0]["text/plain"]
    shell.flame("basket.nothing?", "on=shop")
    assert "`basket.nothing` not found" in shell.out
    with contextlib.redirect_stdout(io.StringIO()):
        shell.ok("%unload_ext dask_flame")
    assert "add" not in completed(shell, "%%flame on=shop\nbasket.")
    shell.ok("%load_ext dask_flame")
    assert shop.end() == ""  # no getter was called


def test_a_kernel_asks_the_application_for_help(shell: Notebook) -> None:
    from dask_flame import notebook

    def before(code: str, cursor_pos: int, *rest: Any) -> dict[str, Any]:
        return {"found": False, "data": {}, "code": code}

    kernel = SimpleNamespace(do_inspect=before)
    shell.shell.kernel = kernel
    try:
        notebook.load(shell.shell)
        code = "%%flame on=shop\nbasket.add("
        answer = kernel.do_inspect(code, len(code), 0)
        assert answer["found"]
        assert "Add goods." in answer["data"]["text/plain"]
        assert kernel.do_inspect("basket.add(", 11)["code"] == "basket.add("
        assert not kernel.do_inspect(code, 3)["found"]
        notebook.unload(shell.shell)
        assert not hasattr(kernel, "do_inspect") or kernel.do_inspect is before
    finally:
        del shell.shell.kernel
        notebook.load(shell.shell)
