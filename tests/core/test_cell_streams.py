"""The standard streams of a process while cells of several kinds run in it."""

from __future__ import annotations

import contextlib
import contextvars
import os
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from dask_flame.attached.application.outputs import Outputs
from dask_flame.core.cell_streams import current, redirected
from dask_flame.errors import AttachError, FlameError


class OfRunner:
    """Outputs that take those of other threads, as those of a cell on a runner do."""

    def __init__(self) -> None:
        self.closed = False
        self.said: list[tuple[str, str]] = []

    def text(self, stream: str, text: str) -> None:
        self.said.append((stream, text))

    def takes(self, thread: int) -> bool:
        return thread != threading.main_thread().ident

    def no_input(self) -> Exception:
        return FlameError("no input on a runner")


class Cell:
    """A cell that begins and ends when it is told to, in a context of its own."""

    def __init__(self, outputs: Any) -> None:
        self.outputs = outputs
        self._context = contextvars.Context()
        self._running = contextlib.ExitStack()
        self.do(lambda: self._running.enter_context(redirected(outputs)))

    def do(self, what: Callable[[], Any]) -> Any:
        return self._context.run(what)

    def end(self) -> None:
        self.do(self._running.close)


def streams() -> list[Any]:
    return [sys.stdin, sys.stdout, sys.stderr]


@pytest.mark.unit
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_cells_of_two_kinds_that_end_crosswise_leave_no_stream_behind(
    order: tuple[int, int], capsys: pytest.CaptureFixture[str]
) -> None:
    before = streams()
    cells = [Cell(OfRunner()), Cell(Outputs())]
    attached = cells[1].outputs
    for cell, text in zip(cells, ("runner", "attached"), strict=True):
        cell.do(lambda text=text: print(text))
    assert cells[0].outputs.said == [("stdout", "runner"), ("stdout", "\n")]
    assert [item["text"] for item in attached.drain()] == ["attached\n"]
    first, last = (cells[i] for i in order)
    first.end()
    last.do(lambda: print("still", file=sys.stderr))
    first.do(lambda: print("nobody's"))
    last.end()
    assert streams() == before
    said = last.outputs.drain() if last.outputs is attached else last.outputs.said
    assert "still" in str(said)
    assert capsys.readouterr().out == "nobody's\n"


@pytest.mark.unit
def test_a_thread_is_of_the_one_cell_that_takes_it(capsys: pytest.CaptureFixture[str]) -> None:
    def in_thread(text: str) -> None:
        thread = threading.Thread(target=print, args=(text,))
        thread.start()
        thread.join()

    runner = Cell(OfRunner())
    in_thread("one")
    attached = Cell(Outputs())
    in_thread("two")  # it could be either's
    runner.end()
    in_thread("three")
    attached.end()
    assert runner.outputs.said == [("stdout", "one"), ("stdout", "\n")]
    assert capsys.readouterr().out == "two\nthree\n"


@pytest.mark.unit
def test_each_kind_refuses_input_in_its_own_words() -> None:
    runner, attached = Cell(OfRunner()), Cell(Outputs())
    with pytest.raises(FlameError, match="no input on a runner"):
        runner.do(input)
    with pytest.raises(AttachError, match="a cell in an application cannot ask for input"):
        attached.do(input)
    assert runner.do(lambda: current(OfRunner)) is runner.outputs
    assert runner.do(lambda: current(Outputs)) is None
    attached.end()
    runner.end()


@pytest.mark.process
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no os.fork")
def test_a_forked_process_writes_to_the_streams_that_were_there() -> None:
    before = streams()
    cell = Cell(OfRunner())
    read, write = os.pipe()
    with warnings.catch_warnings(action="ignore"):  # about forks with threads
        child = cell.do(os.fork)
    if child == 0:
        os.write(write, str(streams() == before).encode())
        os._exit(0)
    os.close(write)
    with open(read, "rb") as told:
        assert told.read() == b"True"
    os.waitpid(child, 0)
    cell.end()
