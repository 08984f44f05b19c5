"""A notebook runs cells inside an application, which they do not harm."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import dask_flame
from dask_flame.attached.client.application import Application
from dask_flame.errors import AttachError, CellError
from tests.support.applications import Program, program
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process

LOOP = """
import asyncio, sys, threading
import dask_flame

ticks = 0

async def boom():
    await asyncio.sleep(0)
    raise ValueError("of the application")

async def main():
    global ticks, loop
    loop = asyncio.get_running_loop()
    dask_flame.expose("loop")
    print("ready", flush=True)
    ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    while not ended.done():
        await asyncio.sleep(0.005)
        ticks += 1

asyncio.run(main())
"""


def text_of(outputs: list[dict[str, Any]], stream: str = "stdout") -> str:
    return "".join(one["text"] for one in outputs if one.get("name") == stream)


def test_a_cell_runs_inside(app: Application, shop: Program, capsys: Any) -> None:
    assert app.ask("about")["pid"] == app.pid == shop.pid
    assert app.run("print('hello'); import os\nnumber = os.getpid()\nbasket.goods") == ["tea"]
    assert capsys.readouterr().out == "hello\n"
    assert app["number"] == shop.pid
    assert app.names() == ["os", "number"]
    app.run("basket.goods.append('milk')")
    assert app.run(lambda good: [*sys.modules["__main__"].basket.goods, good], "jam") == [
        "tea",
        "milk",
        "jam",
    ]
    # Nothing of it was printed by the application, or is left there.
    app.detach()
    with dask_flame.attach("shop") as other:
        assert other.names() == []
        with pytest.raises(AttachError, match="no cell has assigned 'number'"):
            other.fetch("number")
    assert shop.end() == ""
    log = shop.log
    for entry in (
        "has attached",
        f"pid {os.getpid()}",
        "runs cell 2: \"basket.goods.append('milk')\"",
        "cell 2 has ended: ok",
        "has detached",
    ):
        assert entry in log


def test_outputs_come_while_the_cell_runs(app: Application) -> None:
    outputs: list[dict[str, Any]] = []

    def take(output: dict[str, Any]) -> None:
        outputs.append(output)
        if "first" in output.get("text", ""):
            app.interrupt()  # it would not end otherwise

    outcome = app.run_cell(
        "import sys\ntry:\n    print('first')\n    while True: pass\n"
        "except KeyboardInterrupt: print('last', file=sys.stderr)\n"
        "display({'a': 1})\nbasket",
        on_output=take,
        timeout=None,
    )
    assert outcome.ok, outcome
    assert text_of(outputs) == "first\n"
    assert text_of(outputs, "stderr") == "last\n"
    assert outputs[-1]["data"]["text/plain"] == "{'a': 1}"
    assert "Basket" in outcome.value["text/plain"]
    assert app.run_cell("print('quiet'); 5", on_output=take, quiet=True).value == {}


def test_an_error_has_its_source_lines(app: Application) -> None:
    source = "def divide(by):\n    return 1 / by\n\ndivide(0)"
    with pytest.raises(CellError) as caught:
        app.run(source)
    assert type(caught.value).__name__ == caught.value.name == "ZeroDivisionError"
    text = "\n".join(caught.value.traceback)
    assert "line 4, in <module>\n    divide(0)\n" in text
    assert "line 2, in divide\n    return 1 / by\n" in text
    assert "dask_flame" not in text
    for code, name in (("x = (", "SyntaxError"), ("import sys\nsys.exit(3)", "SystemExit")):
        error = app.run_cell(code).error
        assert error is not None
        assert error.name == name
    error = app.run_cell("import os\nos._exit(3)").error
    assert error is not None
    assert "would end the application" in error.value
    assert app.run("1 + 1") == 2


def test_a_time_limit_holds(app: Application) -> None:
    outcome = app.run_cell("while True: pass", timeout=0.2)
    assert outcome.error is not None
    assert outcome.error.name == "CallTimeout"
    assert "time limit of 0.2 s" in outcome.error.value
    with pytest.raises(AttachError, match='timeout="5m"'):
        app.run_cell("1", timeout="soon")


def test_large_values_and_output_are_refused(app: Application) -> None:
    app.run("big = bytes(3_000_000); lines = 30_000")
    with pytest.raises(AttachError, match="big has more than 1,000,000 bytes"):
        app.fetch("big", most=1_000_000)
    assert len(app.fetch("big")) == 3_000_000
    with pytest.raises(AttachError, match="stays in the application, as it cannot be pickled"):
        app.run("import threading\nthreading.Lock()")
    outputs: list[dict[str, Any]] = []
    app.run_cell("for number in range(lines): print(number)", on_output=outputs.append)
    assert "lines not shown" in text_of(outputs, "stderr")
    assert len(text_of(outputs)) < 300_000
    assert text_of(outputs).endswith("29999\n")


def test_what_the_application_prints_stays_there(app: Application, shop: Program) -> None:
    outputs: list[dict[str, Any]] = []
    app.run_cell(
        "import threading\n"
        "thread = threading.Thread(target=print, args=('of a thread',))\n"
        "thread.start(); thread.join()\nprint('of the cell')",
        on_output=outputs.append,
    )
    assert text_of(outputs) == "of the cell\n"
    assert app.run("type(__import__('sys').__stdout__).__name__") == "TextIOWrapper"
    assert shop.end() == "of a thread\n"


def test_cells_await_on_the_applications_loop(tmp_path: Path) -> None:
    with program(LOOP, tmp_path / "loop.py") as running, dask_flame.attach("loop") as app:
        assert app.run("import asyncio\nx = await asyncio.gather(asyncio.sleep(0, 1))\nx") == [1]
        assert app.run("await asyncio.sleep(0, asyncio.get_running_loop())\nprint('on')") is None
        # The cell's own code is in another thread, and the awaited code on the loop.
        here = "import threading\nasync def f(): return threading.current_thread().name\n"
        assert app.run(f"{here}[threading.current_thread().name, await f()]") == [
            "dask-flame-attached-cell",
            "MainThread",
        ]
        error = app.run_cell("await boom()").error
        assert error is not None
        assert error.name == "ValueError"
        assert "in boom\n" in "\n".join(error.traceback)
        assert "awaiting.py" not in "\n".join(error.traceback)
        in_context = "class A:\n    async def __aenter__(self): 1 / 0\n    __aexit__ = 1\n"
        in_context += "async with A(): pass"
        # None of these ends the loop, or keeps it from its work for long.
        for code, name in (
            ("async def f():\n    raise SystemExit\nawait f()", "SystemExit"),
            ("async def f():\n    while True: pass\nawait f()", "AttachError"),
            ("async def f():\n    while True: await asyncio.sleep(1)\nawait f()", "CallTimeout"),
            (in_context, "ZeroDivisionError"),
        ):
            error = app.run_cell(code, timeout=0.2 if name == "CallTimeout" else 60).error
            assert error is not None
            assert error.name == name, error
        # Nor do the tasks that it starts, also those of a task.
        for ends in ("SystemExit", "KeyboardInterrupt"):
            code = (
                f"async def f(): raise {ends}\n"
                "async def g(): return await asyncio.gather(f())\n"
                "async def h(): return await asyncio.create_task(g())\n"
                "await h()"
            )
            error = app.run_cell(code).error
            assert error is not None
            assert f"was ended by {ends}" in error.value
        task = (
            "async def f():\n    while True: pass\nasync def g(): await asyncio.create_task(f())\n"
        )
        error = app.run_cell(f"{task}await g()").error
        assert error is not None
        assert "was ended by KeyboardInterrupt" in error.value
        assert app.run("loop.get_task_factory()") is None
        before = app.run("ticks")
        wait_for(lambda: app.run("ticks") > before + 10, what="the loop goes on")
        assert running.end() == ""
        assert running.process.returncode == 0


def test_ctrl_c_in_the_notebook_interrupts_the_cell(
    app: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs: list[dict[str, Any]] = []

    def take(output: dict[str, Any]) -> None:
        outputs.append(output)
        if len(outputs) == 1:
            # While the main thread waits for more.
            threading.Timer(0.1, os.kill, (os.getpid(), 2)).start()

    error = app.run_cell("print('begins')\nwhile True: pass", on_output=take).error
    assert error is not None
    assert error.name == "KeyboardInterrupt"
    assert app.run("1") == 1
