"""However a call ends, and whatever it was given: it fails alone, and says why."""

from __future__ import annotations

import asyncio
import pickle
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import dask
import msgpack
import numpy
import pytest
from dask._task_spec import Task
from distributed import Client, SchedulerPlugin, WorkerPlugin, get_worker
from distributed.protocol import ToPickle

import dask_flame
from dask_flame import FlameCluster
from dask_flame.errors import CallFailed
from dask_flame.serialization.packed import PackedTask
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.process, pytest.mark.shared_cluster(concurrency=2)]

Made = tuple[FlameCluster, Client]
Make = Callable[..., Made]


class Own(BaseException):
    pass


@pytest.fixture
def no_checks() -> Iterator[None]:
    """Actors may wait for a runner: distributed lets them, but its own checks deny it."""
    with dask.config.set({"distributed.scheduler.validate": False}):
        yield


def waits() -> None:
    while True:
        time.sleep(0.05)  # where it can be interrupted


def exits() -> None:
    sys.exit(3)


def interrupted() -> None:
    raise KeyboardInterrupt("no key was pressed")


def own() -> None:
    raise Own("mine")


def generator_exit() -> None:
    raise GeneratorExit


def cancelled() -> None:
    raise asyncio.CancelledError


def measured() -> Any:
    class Sly:
        def __sizeof__(self) -> int:
            sys.exit(4)

    return Sly()


ENDS: list[tuple[Callable[[], Any], type[BaseException]]] = [
    (exits, SystemExit),
    (interrupted, KeyboardInterrupt),
    (own, Own),
    (generator_exit, GeneratorExit),
    (cancelled, asyncio.CancelledError),
    (measured, SystemExit),
]


async def awaited(call: Callable[[], Any]) -> Any:
    await asyncio.sleep(0)
    return call()


def recursive() -> None:
    recursive()


def deep_cause() -> None:
    error: BaseException = ValueError("first")
    for n in range(3000):
        error.__cause__, error = None, error
        following = ValueError(n)
        following.__cause__ = error
        error = following
    raise error


def own_cause() -> None:
    error = ValueError("its own cause")
    raise error from error


def cannot_be_pickled() -> None:
    class Locked(Exception):
        def __init__(self, text: str) -> None:
            super().__init__(text)
            self.lock = threading.Lock()

    raise Locked("with a lock")


def cannot_be_shown() -> None:
    class Hidden(Exception):
        def __str__(self) -> str:
            raise SystemExit(1)

        __repr__ = __str__

    raise Hidden


def pickles_by_exit() -> None:
    class Exits(Exception):
        def __reduce__(self) -> Any:
            sys.exit(5)

    raise Exits("its pickle exits")


def _only_there(pid: int, text: str) -> Exception:
    import os

    if os.getpid() != pid:
        raise ImportError("No module named 'only_on_runners'")
    return ValueError(text)


def read_on_its_runner_only() -> None:
    import os

    class Local(Exception):
        def __reduce__(self) -> Any:
            return _only_there, (os.getpid(), str(self))

    raise Local("only there")


def no_utf8() -> None:
    b"\xff".decode()


def no_syntax() -> None:
    compile("1 +", "<text>", "eval")


#: Calls whose error cannot be sent as it is; its class in the driver, and words of its text.
ERRORS: list[tuple[Callable[[], None], type[Exception], str]] = [
    (recursive, RecursionError, "maximum recursion"),
    (deep_cause, ValueError, "2999"),
    (own_cause, ValueError, "its own cause"),
    (no_utf8, UnicodeDecodeError, "can't decode byte 0xff"),
    (no_syntax, SyntaxError, "invalid syntax"),
    (cannot_be_pickled, Exception, "^with a lock"),
    (cannot_be_shown, CallFailed, "Hidden .*cannot be shown"),
    (pickles_by_exit, CallFailed, "Exits: its pickle exits .*SystemExit: 5"),
    (read_on_its_runner_only, CallFailed, "only there.*No module named 'only_on_runners'"),
]


def pid() -> int:
    import os

    return os.getpid()


def test_a_call_that_ends_without_an_exception_fails_alone(shared: Made) -> None:
    cluster, client = shared
    with dask_flame.on(rerun=False):
        neighbour = client.submit(waits)
    runner = client.submit(pid).result()
    for call, kind in ENDS:
        for future in (client.submit(call), client.submit(awaited, call)):
            error = future.exception(timeout=60)
            assert isinstance(error, CallFailed), call
            assert isinstance(error.__cause__, kind), call
            assert kind.__name__ in str(error)
            if kind is SystemExit:
                assert error.__cause__.code in (3, 4)
    with pytest.raises(CallFailed, match=r"SystemExit\(3\)"):
        dask_flame.call(exits)
    assert client.submit(pid, pure=False).result() == runner
    assert neighbour.status == "pending"
    assert [event for event in cluster.events if event.kind in ("lost", "ended")] == []
    neighbour.cancel()


def test_an_error_that_cannot_be_sent_is_told_by_its_text(shared: Made) -> None:
    cluster, client = shared
    for call, kind, text in ERRORS:
        for future in (client.submit(call), client.submit(awaited, call)):
            with pytest.raises(kind, match=text):
                future.result(timeout=60)
    assert list(cluster.runners) == ["runner-1"]


def test_where_it_failed_is_shown_from_the_users_own_line_on(shared: Made) -> None:
    _, client = shared
    frame = client.submit(exits).exception().__traceback__
    error = client.submit(own_cause)
    error.exception()
    tb = error.traceback()
    assert tb.tb_frame.f_code.co_name == "own_cause"
    assert frame is None or "packed" not in frame.tb_frame.f_code.co_filename


class Unreadable:
    """What a runner cannot read: it needs a module that the driver alone has."""

    def __reduce__(self) -> Any:
        return _import_in_the_driver, (pid(),)


def _import_in_the_driver(driver: int) -> Any:
    if pid() != driver:
        raise ModuleNotFoundError("No module named 'only_in_the_driver'")
    return Unreadable()


class ExitsWhenRead:
    def __reduce__(self) -> Any:
        return sys.exit, (7,)


def takes(*args: Any, **kwargs: Any) -> str:
    return "ran"


def test_a_call_that_a_runner_cannot_read_fails_with_the_import_error(shared: Made) -> None:
    cluster, client = shared
    with dask_flame.on(rerun=False):
        neighbour = client.submit(waits)
    for call in (lambda: client.submit(takes, Unreadable(), pure=False),
                 lambda: client.submit(takes, {"deep": [Unreadable()]}, pure=False),
                 lambda: client.map(takes, [Unreadable()], pure=False)[0]):  # fmt: skip
        with pytest.raises(ModuleNotFoundError, match="only_in_the_driver") as caught:
            call().result(timeout=60)
        assert "its runner could not read" in caught.value.__notes__[0]
    assert client.submit(takes, pure=False).result(timeout=60) == "ran"
    assert neighbour.status == "pending"
    assert list(cluster.runners) == ["runner-1"]
    neighbour.cancel()


def test_what_ends_a_process_when_it_is_read_ends_none(flame: Make) -> None:
    """In the scheduler, which is in the driver, and in the driver."""
    cluster, client = flame(max=1)
    with pytest.raises(RuntimeError, match="deserialization of the task graph") as caught:
        client.submit(takes, ExitsWhenRead(), pure=False).result(timeout=60)
    assert "SystemExit: 7" in str(caught.value.__cause__)
    with pytest.raises(Exception, match="SystemExit: 7"):
        client.submit(ExitsWhenRead).result(timeout=60)
    with pytest.raises(CallFailed, match=r"SystemExit\(8\)"):
        client.run(sys.exit, 8)
    with pytest.raises(CallFailed, match=r"SystemExit\(9\)"):
        client.run_on_scheduler(sys.exit, 9)
    assert client.submit(takes, pure=False).result(timeout=60) == "ran"
    assert list(cluster.runners) == ["runner-1"]


class Quits:
    def __init__(self, now: bool = False) -> None:
        if now:
            sys.exit(1)

    def quit(self) -> None:
        sys.exit(2)

    def lock(self) -> Any:
        return threading.Lock()

    def fine(self) -> str:
        return "fine"


def test_an_object_that_exits_stays(flame: Make, no_checks: None) -> None:
    cluster, _ = flame(max=1)
    with pytest.raises(CallFailed, match=r"SystemExit\(1\)"):
        dask_flame.place(Quits, now=True)
    placed = dask_flame.place(Quits)
    with pytest.raises(CallFailed, match=r"SystemExit\(2\)"):
        placed.quit().result(timeout=60)
    with pytest.raises(TypeError, match="lock"):
        placed.lock().result(timeout=60)
    assert placed.fine().result(timeout=60) == "fine"
    assert list(cluster.runners) == ["runner-1"]


def test_a_clock_does_not_run_while_a_call_is_read(shared: Made) -> None:
    _, client = shared
    with dask_flame.on(timeout="0.5s"):
        assert client.submit(takes, SlowToRead()).result(timeout=60) == "ran"


class SlowToRead:
    def __reduce__(self) -> Any:
        return _slowly, (pid(),)


def _slowly(driver: int) -> Any:
    if pid() != driver:
        time.sleep(1)  # as an import does
    return SlowToRead()


def _name() -> str:
    return str(get_worker().name)


def test_reading_a_call_holds_up_no_other(shared: Made, tmp_path: Path) -> None:
    """Not the event loop, by which the runner is told of others and says that it lives."""
    cluster, client = shared
    client.submit(_name).result()
    slow = client.submit(takes, ReadLater(tmp_path / "read"), pure=False)
    assert client.submit(_name, pure=False).result(timeout=60) == "runner-1"
    assert slow.status == "pending"
    slow.cancel()
    # An import that is interrupted may leave a lock behind: it stops when it has been read.
    wait_for(lambda: cluster.scheduler.load("runner-1").cancelled == 1)
    (tmp_path / "read").touch()
    wait_for(lambda: cluster.scheduler.load("runner-1").cancelled == 0)


class ReadLater:
    def __init__(self, when: Path) -> None:
        self.when = when

    def __reduce__(self) -> Any:
        return _later, (pid(), self.when)


def _later(driver: int, when: Path) -> Any:
    while pid() != driver and not when.exists():
        time.sleep(0.05)
    return ReadLater(when)


def test_annotations_that_a_message_cannot_carry_stay_with_the_scheduler(shared: Made) -> None:
    cluster, client = shared
    with dask.annotate(mark=Unreadable(), plain=[1, {"a": None}]):
        seen = client.submit(_annotations, key="seen").result(timeout=60)
    assert seen["plain"] == (1, {"a": None})
    assert "mark" not in seen
    assert list(cluster.runners) == ["runner-1"]


def _annotations() -> Any:
    return get_worker().state.tasks["seen"].annotations


def test_other_executors_are_given_packed_calls_too(shared: Made) -> None:
    _, client = shared
    with dask.annotate(executor="offload"):
        assert client.submit(takes).result(timeout=60) == "ran"
        with pytest.raises(CallFailed, match=r"SystemExit\(3\)"):
            client.submit(exits).result(timeout=60)


def test_what_cannot_be_packed_says_so_where_it_runs() -> None:
    class Task:
        is_coro = False

        def __reduce__(self) -> Any:
            raise TypeError("not this one")

    packed = PackedTask.pack(Task())
    with pytest.raises(CallFailed, match="cannot be pickled: TypeError: not this one"):
        packed({})


def test_a_call_travels_as_plain_values_unless_it_has_buffers() -> None:
    packed = PackedTask.pack(Task("key", sum, [1, 2]), "v")
    read = PackedTask.of(msgpack.loads(msgpack.dumps(packed.plain), use_list=False))
    assert (read({}), read.version, read.is_coro) == (3, "v", False)
    assert PackedTask(b"", [bytearray(b"large")]).plain is None
    assert PackedTask.of(packed) is packed


def test_runners_are_sent_plain_values(flame: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, client = flame(max=1)
    scheduler: Any = cluster.scheduler
    sent: list[dict[str, Any]] = []
    message_of = scheduler._task_to_msg

    def noted(ts: Any) -> dict[str, Any]:
        sent.append(message_of(ts))
        return sent[-1]

    monkeypatch.setattr(scheduler, "_task_to_msg", noted)
    assert client.submit(sum, [1, 2]).result(timeout=60) == 3
    assert client.submit(numpy.size, numpy.ones(10_000)).result(timeout=60) == 10_000
    assert [type(message["run_spec"]) for message in sent] == [tuple, ToPickle]


def of_main(code: str) -> Any:
    """Return the function `f` of this code, as one of a notebook."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(code, namespace)
    return namespace["f"]


def read(packed: PackedTask) -> PackedTask:
    found: PackedTask = pickle.loads(pickle.dumps(packed))
    return found


def test_a_function_of_a_notebook_is_pickled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    function = of_main("def f(x, *, y=0):\n    return x + y")
    pickled: list[Any] = []
    dumps = cloudpickle.dumps

    def noted(value: Any, *args: Any, **kwargs: Any) -> bytes:
        pickled.append(value)
        return dumps(value, *args, **kwargs)

    monkeypatch.setattr(cloudpickle, "dumps", noted)
    packed = [PackedTask.pack(Task(f"f-{x}", function, x, y=2), "v") for x in range(3)]
    assert pickled == [function]
    calls = list(map(read, packed))
    assert [call({}) for call in calls] == [2, 3, 4]
    assert [call.opened.key for call in calls] == ["f-0", "f-1", "f-2"]
    assert calls[0].version == "v"
    assert calls[0].opened.func is not calls[1].opened.func


def test_a_function_and_its_argument_may_share_an_object() -> None:
    function = of_main("kept = []\ndef f(x):\n    return x is kept")
    assert read(PackedTask.pack(Task("f", function, 1)))({}) is False
    assert read(PackedTask.pack(Task("f", function, function.__globals__["kept"])))({}) is True


def test_a_function_that_has_gone_is_not_kept() -> None:
    function = of_main("def f():\n    pass")
    PackedTask.pack(Task("f", function))
    gone = weakref.ref(function)
    function.__globals__.clear()
    del function
    assert gone() is None


async def exits_beside() -> str:
    async def exits_in_a_task() -> None:
        sys.exit(6)

    task = asyncio.ensure_future(exits_in_a_task())
    asyncio.get_running_loop().call_soon(sys.exit, 7)
    await asyncio.wait({task})
    return "goes on"


def interrupts_itself() -> str:
    signal.raise_signal(signal.SIGINT)
    time.sleep(0.1)
    return "goes on"


def test_what_a_call_leaves_on_the_event_loop_does_not_end_it(shared: Made) -> None:
    cluster, client = shared
    with dask_flame.on(rerun=False):
        neighbour = client.submit(waits)
        for call in (exits_beside, interrupts_itself):
            assert client.submit(call).result(timeout=60) == "goes on"
    assert neighbour.status == "pending"
    assert list(cluster.runners) == ["runner-1"]
    neighbour.cancel()


class Odd:
    def __init__(self) -> None:
        self.never = iter(())

    def stops(self) -> Any:
        return next(self.never)

    def is_cancelled(self) -> None:
        raise asyncio.CancelledError

    async def is_cancelled_later(self) -> None:
        raise asyncio.CancelledError

    def closes(self) -> None:
        raise GeneratorExit

    @property
    def exits(self) -> Any:
        sys.exit(4)

    def fine(self) -> str:
        return "fine"


def test_methods_of_an_object_answer_whatever_they_raise(flame: Make, no_checks: None) -> None:
    cluster, _ = flame(max=1)
    placed = dask_flame.place(Odd)
    with pytest.raises(RuntimeError, match="StopIteration"):
        placed.stops().result(timeout=60)
    for method in ("is_cancelled", "is_cancelled_later", "closes"):
        with pytest.raises(CallFailed, match=r"CancelledError|GeneratorExit"):
            getattr(placed, method)().result(timeout=60)
    with pytest.raises(CallFailed, match=r"SystemExit\(4\)"):
        _ = placed.exits
    assert placed.fine().result(timeout=60) == "fine"
    assert list(cluster.runners) == ["runner-1"]


class Exits(WorkerPlugin):
    def __init__(self, hook: str) -> None:
        self.name = f"exits-{hook}"
        setattr(self, hook, self._exit)

    def _exit(self, *args: Any, **kwargs: Any) -> None:
        if len(args) == 0 or "boom" in str(args[0]):
            sys.exit(3)


def test_hooks_of_plugins_that_exit_end_no_runner(flame: Make) -> None:
    cluster, client = flame(max=1, concurrency=2)
    with dask_flame.on(rerun=False):
        neighbour = client.submit(waits)
    runner = client.submit(pid).result()
    with pytest.raises(CallFailed, match=r"SystemExit\(3\)"):
        client.register_plugin(Exits("setup"))
    client.register_plugin(Exits("transition"))
    assert client.submit(takes, key="boom").result(timeout=60) == "ran"
    client.register_plugin(Exits("teardown"))
    with pytest.raises(CallFailed, match=r"SystemExit\(3\)"):
        client.unregister_worker_plugin("exits-teardown")
    assert client.submit(pid, pure=False).result() == runner
    assert neighbour.status == "pending"
    assert list(cluster.runners) == ["runner-1"]
    neighbour.cancel()


class StartsByExit(SchedulerPlugin):
    name = "starts-by-exit"

    def start(self, scheduler: Any) -> None:
        sys.exit(3)


def test_what_runs_on_the_drivers_loop_does_not_end_it(flame: Make) -> None:
    _, client = flame(max=1)
    with pytest.raises(Exception, match="SystemExit"):
        client.scatter(ExitsWhenRead(), timeout=60)
    with pytest.raises(CallFailed, match=r"SystemExit\(3\)"):
        client.register_plugin(StartsByExit())
    heard = threading.Event()

    def hears(event: Any) -> None:
        heard.set()
        sys.exit(3)

    client.subscribe_topic("exits", hears)
    wait_for(lambda: client.log_event("exits", 1) or heard.wait(0.1))
    client.unsubscribe_topic("exits")
    with dask.annotate(priority=lambda key: sys.exit(3)):
        exits_in_the_scheduler = dask.delayed(takes)()
    with pytest.raises(CallFailed, match=r"SystemExit\(3\)"):
        exits_in_the_scheduler.compute(optimize_graph=False)
    assert client.submit(takes, pure=False).result(timeout=60) == "ran"


async def stops_the_loop() -> str:
    asyncio.get_running_loop().stop()
    await asyncio.sleep(0.01)
    return "goes on"


def test_a_call_that_stops_its_loop(shared: Made) -> None:
    cluster, client = shared
    assert client.submit(stops_the_loop).result(timeout=60) == "goes on"
    assert list(cluster.runners) == ["runner-1"]


def test_a_key_that_no_message_can_carry_fails_its_call_alone(shared: Made) -> None:
    _, client = shared
    other = client.submit(time.sleep, 0.5)
    for key in ("file-\udcff.txt", ("file-\udcff.txt", 1)):
        bad = client.submit(abs, -1, key=key)
        with pytest.raises(CallFailed, match="half of a surrogate pair"):
            bad.result(timeout=60)
        del bad
    for key in (("a", 2**70), ("a", ("b", -(2**64)))):
        bad = client.submit(abs, -1, key=key)
        with pytest.raises(CallFailed, match="more than 64 bits"):
            bad.result(timeout=60)
        del bad
    assert other.result(timeout=60) is None
    assert client.submit(abs, -3).result(timeout=60) == 3


def with_a_lock() -> None:
    error = ValueError("with a lock")
    error.lock = threading.Lock()  # type: ignore[attr-defined]
    error.kept = 3  # type: ignore[attr-defined]
    raise error


def from_a_lock() -> None:
    try:
        cannot_be_pickled()
    except Exception as cause:
        raise ValueError("from a lock") from cause


def test_an_error_keeps_its_class_where_what_it_holds_cannot_be_sent(shared: Made) -> None:
    _, client = shared
    with pytest.raises(ValueError, match="with a lock") as caught:
        client.submit(with_a_lock).result(timeout=60)
    assert caught.value.kept == 3  # type: ignore[attr-defined]
    assert "its lock" in caught.value.__notes__[0]
    with pytest.raises(ValueError, match="from a lock") as caught:
        client.submit(from_a_lock).result(timeout=60)
    assert "its cause (Locked: with a lock)" in caught.value.__notes__[0]
