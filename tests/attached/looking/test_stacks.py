"""The stacks of threads and asyncio tasks, as the process itself reads them."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from dask_flame.attached.looking.stacks import source_text, stacks
from dask_flame.attached.looking.values import Stacks, TaskStack, ThreadStack
from dask_flame.attached.looking.wire import packed, unpacked
from dask_flame.core import redaction
from tests.support.waiting import wait_for

pytestmark = pytest.mark.unit


def _wait_in_a_function(begun: threading.Event, end: threading.Event) -> None:
    begun.set()
    end.wait()  # the line of the thread


async def _deep(begun: threading.Event, end: asyncio.Event) -> None:
    begun.set()
    await end.wait()  # the line of the task


async def _shallow(begun: threading.Event, end: asyncio.Event) -> None:
    await _deep(begun, end)


@pytest.fixture
def waiting() -> Iterator[threading.Thread]:
    begun, end = threading.Event(), threading.Event()
    thread = threading.Thread(target=_wait_in_a_function, args=(begun, end), name="a waiting one")
    thread.start()
    begun.wait()
    # Until it has come to the inner function.
    wait_for(lambda: "threading.py" in _thread(stacks(), thread.name).lines[-1].file)
    yield thread
    end.set()
    thread.join()


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop in a thread with a task that waits."""
    begun = threading.Event()
    made: list[asyncio.AbstractEventLoop] = []
    end = asyncio.Event()

    async def main() -> None:
        made.append(asyncio.get_running_loop())
        await asyncio.create_task(_shallow(begun, end), name="the shallow one")

    thread = threading.Thread(target=lambda: asyncio.run(main()), name="a loop")
    thread.start()
    begun.wait()
    yield made[0]
    made[0].call_soon_threadsafe(end.set)
    thread.join()


def _thread(found: Stacks, name: str) -> ThreadStack:
    return next(thread for thread in found.threads if thread.name == name)


def _task(found: Stacks, name: str) -> TaskStack | None:
    return next((task for task in found.tasks if task.name == name), None)


def test_a_thread_has_its_name_its_lines_and_their_text(waiting: threading.Thread) -> None:
    found = _thread(stacks("shop"), waiting.name)
    assert found.ident == waiting.ident
    assert found.native == waiting.native_id
    own = next(line for line in found.lines if line.function == "_wait_in_a_function")
    assert own.file == __file__
    assert own.source == "end.wait()  # the line of the thread"
    # The threading module's own beginning is left out.
    assert found.lines[0] == own


def test_a_thread_that_waits_in_a_function_of_the_application_is_not_idle(
    waiting: threading.Thread,
) -> None:
    # It may be what hangs.
    assert not _thread(stacks(), waiting.name).idle


def test_a_thread_that_waits_for_work_is_idle_unless_it_runs_a_call() -> None:
    with ThreadPoolExecutor(1, thread_name_prefix="pool") as pool:
        ident = pool.submit(threading.get_ident).result()
        wait_for(lambda: _thread(stacks(), "pool_0").idle)
        found = _thread(stacks(calls={ident: "train-1"}), "pool_0")
        assert not found.idle
        assert found.title == "pool_0, runs train-1"


def test_a_loop_without_a_running_task_is_idle(loop: asyncio.AbstractEventLoop) -> None:
    wait_for(lambda: _thread(stacks(), "a loop").idle)


def test_tasks_of_the_loops_of_all_threads_have_what_they_await(
    loop: asyncio.AbstractEventLoop,
) -> None:
    found = wait_for(lambda: _task(stacks(), "the shallow one"))
    assert (found.coroutine, found.loop, found.running) == ("_shallow", "a loop", False)
    assert [line.function for line in found.lines][:2] == ["_shallow", "_deep"]
    assert found.lines[1].source == "await end.wait()  # the line of the task"


def test_the_task_that_runs_is_told_from_those_that_wait() -> None:
    async def look() -> Stacks:
        return stacks(task_calls={"looks": "train-2"})

    async def main() -> Stacks:
        return await asyncio.create_task(look(), name="looks")

    found = asyncio.run(main())
    task = _task(found, "looks")
    assert task is not None
    assert (task.running, task.call) == (True, "train-2")
    assert sum(each.running for each in found.tasks) == 1


def test_the_frames_of_the_look_itself_are_not_shown() -> None:
    me = threading.current_thread()
    own = _thread(stacks(), me.name)
    assert own.lines[-1].function == "test_the_frames_of_the_look_itself_are_not_shown"
    assert all(t.ident != me.ident for t in stacks(without={me.ident or 0}).threads)


def test_calls_come_first_and_idle_threads_last(waiting: threading.Thread) -> None:
    with ThreadPoolExecutor(1, thread_name_prefix="pool") as pool:
        pool.submit(int).result()
        wait_for(lambda: _thread(stacks(), "pool_0").idle)
        found = stacks(calls={waiting.ident or 0: "train-1"})
        assert found.threads[0].name == waiting.name
        assert [t.idle for t in found.threads] == sorted(t.idle for t in found.threads)


def test_a_secret_in_a_line_is_not_shown() -> None:
    def connect(password: str, begun: threading.Event, end: threading.Event) -> None:
        begun.set()
        end.wait()

    def inside(begun: threading.Event, end: threading.Event) -> None:
        connect(begun=begun, end=end, password="hunter2-hunter2")

    begun, end = threading.Event(), threading.Event()
    thread = threading.Thread(target=inside, args=(begun, end), name="secretive")
    thread.start()
    try:
        begun.wait()
        found = stacks()
        lines = [line.source for line in _thread(found, "secretive").lines]
        assert any("connect(" in line and "…" in line for line in lines)
        assert "hunter2" not in f"{found!r}{found._repr_html_()}{packed(found)}"
    finally:
        end.set()
        thread.join()


def test_a_deep_recursion_keeps_its_ends() -> None:
    def down(n: int) -> Stacks:
        return stacks() if n == 0 else down(n - 1)

    lines = _thread(down(700), threading.current_thread().name).lines
    assert len(lines) == 201
    left_out = next(line for line in lines if "more frames" in line.function)
    assert int(left_out.function.split()[0].replace(",", "")) >= 500
    assert lines[-1].function.endswith("down")


def test_what_was_found_survives_json_and_fields_of_other_versions(
    waiting: threading.Thread,
) -> None:
    found = stacks("shop")
    values = json.loads(json.dumps(packed(found)))
    assert unpacked(Stacks, values) == found
    values["a field of the future"] = 1
    del values["note"]
    assert unpacked(Stacks, values) == found
    del values["threads"]
    with pytest.raises(TypeError, match="Stacks lacks threads"):
        unpacked(Stacks, values)


def test_text_and_html_have_the_same(waiting: threading.Thread) -> None:
    found = stacks("<shop>")
    assert "Thread a waiting one" in repr(found)
    assert "    end.wait()  # the line of the thread" in repr(found)
    html = found._repr_html_()
    assert "&lt;shop&gt;" in html
    assert "<shop>" not in html
    assert "end.wait()  # the line of the thread" in html


def test_a_secret_at_the_end_of_a_long_line_is_hidden() -> None:
    known = "correct horse battery"
    redaction.hide([known])
    try:
        assert "correct" not in source_text("x" * 185 + f" = '{known}'")
        assert "hunter" not in source_text("call(" + "1, " * 60 + "password='hunter2')")
        assert source_text("x" * 250) == "x" * 199 + "…"
    finally:
        redaction._known.pop(known)
