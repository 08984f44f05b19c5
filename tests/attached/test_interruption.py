"""Interrupts of cells are not lost, and leave the application and the attachment usable."""

from __future__ import annotations

import builtins
import contextlib
import logging
import sys
import threading
import time
from types import FrameType
from typing import Any

import pytest

from dask_flame.attached.application import awaiting, interruption
from dask_flame.attached.application.interruption import Guard, Work
from dask_flame.attached.application.server import Server
from dask_flame.attached.client.application import Application
from dask_flame.attached.client.channel import Answers, Channel
from dask_flame.attached.wire import SocketWire, pack
from dask_flame.errors import AttachError
from tests.support.waiting import wait_for

PRINTS = "while True: print('x')"


def interrupted(app: Application, code: str) -> str:
    """Run a cell, interrupt it as soon as it has begun, and return the name of its error."""
    begun = threading.Event()
    threading.Thread(target=lambda: begun.wait(60) and app.interrupt()).start()
    outcome = app.run_cell(f"print('begins')\n{code}", on_output=lambda _: begun.set(), timeout=600)
    assert outcome.error is not None
    return outcome.error.name


@pytest.mark.process
def test_an_interrupted_print_locks_nothing(app: Application) -> None:
    for _ in range(30):
        assert interrupted(app, PRINTS) == "KeyboardInterrupt"
    assert app.run("1") == 1


@pytest.mark.process
def test_an_interrupt_right_after_the_request_is_not_lost(app: Application) -> None:
    channel = app._channel
    assert isinstance(channel._wire, SocketWire)
    for number in range(30):
        # Both arrive together.
        requests = pack({"id": -1 - number, "do": "run", "source": "while True: pass"})
        requests += pack({"id": 0, "do": "interrupt"})
        answers = channel._waiting[-1 - number] = Answers(channel, -1 - number)
        channel._wire.socket.sendall(requests)
        answer, _ = answers.next()
        assert answer["error"]["name"] == "KeyboardInterrupt"
    for operation in ("run", "ask"):
        answers = channel.answers(
            operation,
            source="while True: pass",
            timeout=60,
            question="log",
            options={"follow": True},
        )
        answers.close()
        # The number of threads is that of before: nothing goes on.
        wait_for(lambda: not busy(app), what="nothing goes on")


def runs(app: Application) -> bool:
    """Return whether another cell can run."""
    try:
        return bool(app.run("True"))
    except AttachError:  # a cell runs already
        return False


def busy(app: Application) -> list[str]:
    names = [thread.name for thread in app.stacks().threads]
    return [name for name in names if name == "dask-flame-attached-cell"]


@pytest.mark.process
def test_a_display_that_cannot_be_sent_fails_in_its_cell(app: Application) -> None:
    app.run(
        "class Odd:\n    def __init__(self, data): self.data = data\n"
        "    def _repr_mimebundle_(self, **_): return {'application/json': self.data}\n"
        "deep = []\nfor _ in range(100_000): deep = [deep]\n"
    )
    for data, said in (
        ("{(1, 2): 3}", "not JSON"),
        ("['x' * 1000] * 20_000", "too large"),
        ("deep", "not JSON"),
    ):
        outcome = app.run_cell(f"display(Odd({data}))\nwhile True: pass", timeout=600)
        assert outcome.error is not None
        assert outcome.error.name == "AttachError"
        assert said in outcome.error.value
    app.run("del deep")
    assert app.run("1") == 1


@pytest.mark.process
def test_an_error_in_the_notebook_cancels_the_cell(app: Application) -> None:
    for error in (ValueError("of the notebook"), SystemExit()):

        def fail(output: dict[str, Any], error: BaseException = error) -> None:
            raise error

        with pytest.raises(type(error)):
            app.run_cell(f"print('begins')\n{PRINTS}", on_output=fail, timeout=None)
        wait_for(lambda: runs(app), what="the cell has ended")


@pytest.mark.process
def test_a_cell_in_a_call_of_c_is_left_when_it_is_interrupted(app: Application) -> None:
    app.run("import threading\nlock = threading.Lock()\nlock.acquire()")
    ended = threading.Event()

    def interrupts() -> None:
        while not ended.wait(0.1):
            app.interrupt()

    # One that comes before the call of C is caught.
    cell = "while True:\n    try: lock.acquire(); break\n    except KeyboardInterrupt: pass"
    threading.Thread(target=interrupts).start()
    try:  # not after the time limit, which is ten minutes
        error = app.run_cell(cell, timeout=600).error
    finally:
        ended.set()
    assert error is not None
    assert "was interrupted and does not stop" in error.value
    app.run("lock.release()")
    wait_for(lambda: runs(app), what="its thread has ended")


@pytest.mark.unit
def test_a_call_of_c_blocks_an_interrupt_and_a_handler_does_not() -> None:
    held, begun, caught = threading.Lock(), threading.Event(), threading.Event()
    held.acquire()

    def function() -> None:
        try:
            begun.set()
            held.acquire()
        except KeyboardInterrupt:  # raised when the call of C has returned
            caught.set()
            held.acquire()

    work = Work(function, "test")
    work.start()
    assert begun.wait(60)
    assert work.blocked_for() == 0
    work.interrupt()
    wait_for(lambda: work.blocked_for() > 0.01, what="it is in a call of C")
    held.release()
    caught.wait(60)
    wait_for(lambda: not work.blocked_for(), what="it has moved")
    before = time.monotonic()
    wait_for(lambda: work.blocked_for() or time.monotonic() > before + 0.2)
    assert not work.blocked_for()
    held.release()
    assert work.done.wait(60)


@pytest.mark.process
def test_ctrl_c_while_output_is_shown_interrupts_the_cell(app: Application) -> None:
    outputs: list[str] = []

    def take(output: dict[str, Any]) -> None:
        outputs.append(output["text"])
        if len(outputs) == 1:
            assert busy(app)  # a cell is among the threads
            raise KeyboardInterrupt

    outcome = app.run_cell(f"print('begins')\n{PRINTS}", on_output=take, timeout=600)
    assert outcome.error is not None
    assert outcome.error.name == "KeyboardInterrupt"


@pytest.mark.unit
@pytest.mark.parametrize(("known", "patience"), [(True, 600), (False, 0)])
def test_an_interrupt_leaves_no_lock_of_a_library_behind(
    monkeypatch: pytest.MonkeyPatch, known: bool, patience: float
) -> None:
    handler, guard, looks = logging.Handler(), Guard(), []
    assert handler.lock is not None
    may_lock = interruption._may_lock

    def looked(frame: FrameType, *, blocked: bool) -> bool:
        looks.append(found := may_lock(frame, blocked=blocked))
        return found

    monkeypatch.setattr(interruption, "_may_lock", looked)
    monkeypatch.setattr(interruption, "_KNOWS_INSTRUCTIONS", known)
    monkeypatch.setattr(interruption, "_PATIENCE", patience)
    monkeypatch.setattr(interruption, "_LONGER", 600)

    def run() -> None:
        def wait() -> None:
            handler.acquire()
            handler.release()
            while True:
                pass

        with contextlib.suppress(KeyboardInterrupt):
            guard.call(wait)

    thread = threading.Thread(target=run)
    interrupter = threading.Thread(target=guard.interrupt)
    with handler.lock:
        thread.start()
        wait_for(lambda: thread.ident and in_function(thread.ident) == "acquire")
        interrupter.start()
        wait_for(lambda: looks)
    thread.join()
    interrupter.join()
    assert looks[0]
    assert handler.lock.acquire(blocking=False)
    handler.lock.release()


@pytest.mark.unit
@pytest.mark.parametrize(
    ("name", "version", "has_lock", "known"),
    [
        ("cpython", (3, 11, 2), True, True),
        ("cpython", (3, 13, 0), True, True),
        ("cpython", (3, 13, 0), False, False),
        ("cpython", (3, 14, 0), True, False),
        ("pypy", (3, 11, 0), True, False),
    ],
)
def test_instructions_are_read_only_where_they_are_known(
    monkeypatch: pytest.MonkeyPatch, name: str, version: Any, has_lock: bool, known: bool
) -> None:
    monkeypatch.setattr(sys, "version_info", version)
    monkeypatch.setattr(sys.implementation, "name", name)
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: has_lock, raising=False)
    assert interruption._knows_instructions() is known


@pytest.mark.unit
def test_an_interpreter_that_is_not_known_is_interrupted_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(interruption, "_KNOWS_INSTRUCTIONS", False)
    monkeypatch.setattr(interruption, "opname", ())  # whatever its instructions are
    guard, begun = Guard(), threading.Event()

    def wait() -> None:
        begun.set()
        while True:
            pass

    def run() -> None:
        with contextlib.suppress(KeyboardInterrupt):
            guard.call(wait)

    thread = threading.Thread(target=run)
    thread.start()
    assert begun.wait(60)
    assert guard.interrupt()
    thread.join()


def in_function(thread: int) -> str:
    frame = sys._current_frames().get(thread)
    return "" if frame is None else frame.f_code.co_name


@pytest.mark.unit
def test_no_part_of_an_answer_is_lost_by_interrupts() -> None:
    class Silent(Channel):
        name = "silent"

        def __init__(self) -> None: ...

    answers = Answers(Silent(), 1)
    guard, taken, over = Guard(), [], threading.Event()

    def take() -> None:
        while len(taken) < 300:
            try:
                taken.append(answers.next()[0]["part"])
            except KeyboardInterrupt:
                continue

    def run() -> None:
        try:
            guard.call(take)
        except KeyboardInterrupt:  # between the blocks
            run()
        over.set()

    thread = threading.Thread(target=run)
    thread.start()
    for number in range(300):
        answers.put(({"is": "item", "part": number}, b""))
        guard.interrupt()
    assert over.wait(60)
    thread.join()
    assert taken == list(range(300))


@pytest.mark.unit
def test_the_end_of_an_application_waits_for_all_notebooks_together() -> None:
    events: list[str] = []

    class One:
        def shut(self) -> None:
            events.append("shut")

        def join(self, within: float) -> None:
            assert within <= 1
            events.append("join")

    server = Server("shop", readonly=False, log=None)
    server._attached = {One(): None, One(): None}
    server.close(1)
    assert events == ["shut", "shut", "join", "join"]


@pytest.mark.unit
def test_an_import_does_not_swallow_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    guard, imports = Guard(), builtins.__import__

    def swallowing(name: str, *args: Any) -> Any:
        if name == "asyncio":
            with contextlib.suppress(KeyboardInterrupt):
                guard.interrupt()
                for _ in range(1_000):
                    pass
        return imports(name, *args)

    async def nothing() -> None:
        pass

    monkeypatch.setattr(awaiting, "running_loop", lambda: None)
    monkeypatch.setattr(builtins, "__import__", swallowing)
    with pytest.raises(KeyboardInterrupt):
        guard.call(awaiting.awaited, nothing)
