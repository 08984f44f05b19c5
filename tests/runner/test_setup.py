"""``setup=`` runs once on each new runner before its first call, and ends with the runner."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import dask.config
import psutil
import pytest
from distributed import Event, get_client, get_worker

import dask_flame
from dask_flame import FlameError, Pool, on
from dask_flame.errors import BootError, BootTimeout, PoolError
from dask_flame.runner.devices import VISIBLE
from tests.support.paths import ROOT
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process

linux = pytest.mark.skipif(sys.platform != "linux", reason="runners are forked on Linux only")


class Model:
    """Something that takes long to load."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.thread = threading.current_thread().name


def note(file: Path, text: object) -> None:
    with file.open("a") as f:
        f.write(f"{text}\n")


def notes(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


def there() -> tuple[int, int, int, str]:
    model = dask_flame.setup_result()
    return os.getpid(), model.pid, id(model), model.thread


def kinds(cluster: Any, *wanted: str) -> list[Any]:
    return [event for event in cluster.events if event.kind in wanted]


def printed(cluster: Any) -> str:
    """What the first runner has printed last; of a closed cluster, too."""
    return str(asyncio.run(cluster.backend.logs(["runner-1"]))["runner-1"])


# The result


@linux
@pytest.mark.parametrize("fork", [True, False])
def test_each_runner_has_its_own_for_all_its_calls(fork: bool, flame: Any) -> None:
    with dask.config.set({"flame.local.fork": fork}):
        cluster, client = flame(min=2, max=2, setup=Model)
        client.wait_for_workers(2, timeout=60)
        first = client.gather(client.map(lambda _: there(), range(20), pure=False))
        assert all(pid == made for pid, made, _, _ in first)
        assert len({pid for pid, *_ in first}) == len({(pid, what) for pid, _, what, _ in first})
        assert {thread for *_, thread in first} == {"flame-setup"}
        wait_for(lambda: all(boot.after("registered") for boot in cluster.boots))
        for boot in cluster.boots:
            steps = [step for step, _ in boot.steps if step != "first call"]
            assert steps == ["accepted", "up", "setting up", "setup", "registered"]


def test_it_is_reached_from_threads_coroutines_and_forks_of_a_call(flame: Any) -> None:
    _, client = flame(max=1, concurrency=2, setup=Model)

    def in_thread() -> int:
        seen: list[int] = []
        thread = threading.Thread(target=lambda: seen.append(id(dask_flame.setup_result())))
        thread.start()
        thread.join()
        return seen[0]

    def in_fork() -> tuple[int, int]:
        ours, theirs = multiprocessing.get_context("fork").Pipe()

        def say() -> None:
            theirs.send((os.getpid(), dask_flame.setup_result().pid))

        process = multiprocessing.get_context("fork").Process(target=say)
        process.start()
        there, made = ours.recv()
        process.join()
        assert there != made
        return made, os.getpid()

    async def in_coroutine() -> int:
        return id(await asyncio.create_task(asyncio.to_thread(dask_flame.setup_result)))

    def both(gate: Any) -> int:
        gate.set()
        return id(dask_flame.setup_result())

    _, pid, one, _ = client.submit(there).result(timeout=60)
    assert client.submit(in_thread).result(timeout=60) == one
    assert client.submit(in_coroutine).result(timeout=60) == one
    assert client.submit(in_fork).result(timeout=60) == (pid, pid)
    futures = client.map(both, [Event("a", client=client), Event("b", client=client)])
    assert client.gather(futures) == [one, one]


def test_placed_objects_and_the_idle_check_reach_it(flame: Any, tmp_path: Path) -> None:
    def may_end() -> bool:
        note(tmp_path / "asked", dask_flame.setup_result().pid)
        return True

    class Placed:
        def __init__(self) -> None:
            self.first = id(dask_flame.setup_result())

        def look(self) -> tuple[int, int, int]:
            return self.first, id(dask_flame.setup_result()), os.getpid()

    with dask.config.set({"distributed.scheduler.validate": False}):  # see test_slots
        cluster, _ = flame(max=1, setup=Model, idle_timeout="100ms", idle_check=may_end)
    placed = dask_flame.place(Placed)
    first, now, pid = placed.look().result(timeout=60)
    assert first == now
    del placed
    gc.collect()
    wait_for(lambda: not cluster.runners)
    assert set(notes(tmp_path / "asked")) == {str(pid)}


def test_a_pool_without_setup_says_the_line_to_write(flame: Any) -> None:
    _, client = flame(pools={"plain": Pool(max=1), "loaded": Pool(max=1, setup=Model)})
    with pytest.raises(FlameError) as caught:
        client.submit(dask_flame.setup_result).result(timeout=60)
    assert str(caught.value) == (
        "the pool 'plain' of this runner has no setup=; "
        'write FlameCluster(pools={"plain": Pool(setup=load_model)})'
    )
    with on("loaded"):
        assert client.submit(there).result(timeout=60)
    _, client = flame(max=1)
    with pytest.raises(FlameError, match=r"(?m)no setup=; write FlameCluster\(setup=load_model\)$"):
        client.submit(dask_flame.setup_result).result(timeout=60)


def test_a_call_finds_none_in_a_process_that_it_starts(flame: Any) -> None:
    def start() -> str:
        code = "import dask_flame; dask_flame.setup_result()"
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=env)
        return done.stderr.decode()

    _, client = flame(max=1, setup=Model)
    assert "this process is not a runner, nor forked from one" in client.submit(start).result(
        timeout=60
    )


def test_its_output_is_shown_and_reports_in_it_do_no_harm(
    flame: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def load() -> str:
        print("loading")
        dask_flame.report(step=1, loss=0.5)
        os.write(1, b"from below\n")
        with pytest.raises(FlameError, match=r"^setup=load has not returned or yielded yet; write"):
            dask_flame.setup_result()
        return "loaded"

    cluster, client = flame(max=1, setup=load)
    assert client.submit(dask_flame.setup_result).result(timeout=60) == "loaded"
    seen = ""

    def shown() -> bool:
        nonlocal seen
        seen += capsys.readouterr().out
        return "[runner-1] loading\n" in seen and "[runner-1] from below\n" in seen

    wait_for(shown)
    wait_for(lambda: printed(cluster) == "loading\nfrom below\n")


def test_it_has_all_gpus_of_the_runner(flame: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VISIBLE, "0,1")

    async def waits() -> tuple[int, ...]:
        return tuple(dask_flame.devices())

    for setup in (lambda: tuple(dask_flame.devices()), waits):
        _, client = flame(max=1, gpus=2, concurrency=2, setup=setup)

        def both() -> tuple[Any, int]:
            return dask_flame.setup_result(), len(dask_flame.devices())

        assert client.submit(both).result(timeout=60) == ((0, 1), 1)


def test_it_is_pickled_again_for_new_runners_and_can_be_changed(flame: Any) -> None:
    parts = ["first"]
    cluster, client = flame(max=1, single_use=True, setup=lambda: list(parts))
    assert client.submit(dask_flame.setup_result, pure=False).result(timeout=60) == ["first"]
    parts.append("second")
    assert client.submit(dask_flame.setup_result, pure=False).result(timeout=60) == [
        "first",
        "second",
    ]
    cluster.resize(setup=functools.partial(str, "third"))
    assert client.submit(dask_flame.setup_result, pure=False).result(timeout=60) == "third"
    (policy,) = kinds(cluster, "policy")
    assert policy.reason == "resize: min=0, max=1, setup=str"
    with pytest.raises(PoolError, match="setup=open is called without arguments"):
        cluster.resize(setup=open)
    assert cluster.resize(setup=None).setup is None
    with pytest.raises(FlameError, match="no setup="):
        client.submit(dask_flame.setup_result, pure=False).result(timeout=60)


def test_what_cannot_be_pickled_any_more_fails_the_boot(flame: Any) -> None:
    parts: list[Any] = []
    _, client = flame(max=1, boot_attempts=1, setup=lambda: list(parts))
    parts.append(threading.Lock())
    with pytest.raises(BootError, match=r"setup=<lambda> cannot be sent to runners"):
        client.submit(abs, 1).result(timeout=60)
    parts.clear()
    assert client.submit(abs, -2).result(timeout=60) == 2


def test_restart_sets_up_again(flame: Any, tmp_path: Path) -> None:
    def load() -> Iterator[int]:
        yield os.getpid()
        note(tmp_path / "ended", os.getpid())

    _, client = flame(min=1, max=1, setup=load)
    first = client.submit(dask_flame.setup_result).result(timeout=60)
    client.restart()
    second = client.submit(dask_flame.setup_result).result(timeout=60)
    assert first != second
    wait_for(lambda: notes(tmp_path / "ended") == [str(first)])


# Asynchronous functions


async def loop_of_calls() -> int:
    return id(asyncio.get_running_loop())


def test_a_coroutine_runs_on_the_loop_of_the_calls(flame: Any) -> None:
    async def load() -> int:
        await asyncio.sleep(0)
        return id(asyncio.get_running_loop())

    _, client = flame(max=1, setup=load)
    loop = client.submit(loop_of_calls).result(timeout=60)
    assert client.submit(dask_flame.setup_result).result(timeout=60) == loop


def test_an_async_generator_runs_in_one_task_to_its_end(flame: Any, tmp_path: Path) -> None:
    async def load() -> AsyncIterator[Any]:
        variable = contextvars.ContextVar[str]("variable")
        token = variable.set("set")
        async with asyncio.TaskGroup() as group:
            queue: asyncio.Queue[int] = asyncio.Queue()
            answers: asyncio.Queue[int] = asyncio.Queue()

            async def serve() -> None:
                while (number := await queue.get()) >= 0:
                    answers.put_nowait(number + 1)

            group.create_task(serve())
            yield queue, answers, variable
            queue.put_nowait(-1)
        variable.reset(token)  # raises in another context
        print("the async end")
        (tmp_path / "ended").touch()

    async def ask(number: int) -> tuple[int, str]:
        queue, answers, variable = dask_flame.setup_result()
        queue.put_nowait(number)
        return await answers.get(), variable.get("not set")

    cluster, client = flame(max=1, idle_timeout="200ms", setup=load)
    assert client.submit(ask, 4).result(timeout=60) == (5, "not set")
    wait_for(lambda: not cluster.runners)
    assert (tmp_path / "ended").exists()
    assert printed(cluster) == "the async end\n"


# The end


def loads(folder: Path) -> Callable[[], Iterator[str]]:
    """Return a function that notes each part of its life."""
    import atexit

    def load() -> Iterator[str]:
        atexit.register(lambda: note(folder / "life", "atexit"))
        note(folder / "life", f"begin {threading.current_thread().name}")
        yield "loaded"
        print("unloading")
        note(folder / "life", f"end {threading.current_thread().name}")

    return load


LIFE = ["begin flame-setup", "end flame-setup", "atexit"]


@pytest.mark.parametrize("how", ["close", "idle", "retire", "SIGTERM", "single_use", "no fork"])
def test_what_follows_the_yield_runs_when_the_runner_ends(
    how: str, flame: Any, tmp_path: Path
) -> None:
    idle = "200ms" if how == "idle" else "60s"
    with dask.config.set({"flame.local.fork": how != "no fork"}):
        cluster, client = flame(
            max=1, idle_timeout=idle, single_use=how == "single_use", setup=loads(tmp_path)
        )
        future = client.submit(lambda: (dask_flame.setup_result(), os.getpid()))
        result, pid = future.result(timeout=60)
        assert result == "loaded"
        del future
        if how == "retire":
            wait_for(lambda: not cluster.scheduler.tasks)  # else it would stay for its result
            client.retire_workers(list(cluster.scheduler.workers))
        elif how == "SIGTERM":
            os.kill(pid, signal.SIGTERM)
        if how in ("close", "no fork"):
            client.close()
            cluster.close()
        else:
            wait_for(lambda: not cluster.runners)
    assert notes(tmp_path / "life") == LIFE
    assert printed(cluster) == "unloading\n"
    (ended,) = kinds(cluster, "ended", "lost")
    assert "exit code 0" in ended.reason


def test_it_may_take_longer_than_a_worker_to_close(flame: Any, tmp_path: Path) -> None:
    def load() -> Iterator[None]:
        yield
        time.sleep(6)  # longer than any other limit at the end of a runner or a cluster
        (tmp_path / "ended").touch()

    cluster, client = flame(min=1, max=1, setup=load)
    client.wait_for_workers(1, timeout=60)
    client.close()
    cluster.close()
    assert (tmp_path / "ended").exists()


def test_a_runner_without_time_to_end_runs_nothing(flame: Any, tmp_path: Path) -> None:
    cluster, client = flame(max=1, idle_timeout="200ms", shutdown_timeout=0, setup=loads(tmp_path))
    assert client.submit(dask_flame.setup_result).result(timeout=60) == "loaded"
    wait_for(lambda: not cluster.runners)
    assert notes(tmp_path / "life") == ["begin flame-setup"]


def test_a_runner_that_closes_while_it_registers_ends_it_too(flame: Any, tmp_path: Path) -> None:
    cluster, client = flame(min=2, max=2, setup=loads(tmp_path))
    wait_for(lambda: len(notes(tmp_path / "life")) == 2)
    wait_for(lambda: any("setup" in dict(boot.steps) for boot in cluster.boots))
    done = sum("setup" in dict(boot.steps) for boot in cluster.boots)
    client.close()
    cluster.close()
    assert sum(line.startswith("end") for line in notes(tmp_path / "life")) >= done


def test_an_error_at_the_end_is_printed_and_holds_nothing_up(flame: Any, tmp_path: Path) -> None:
    def load() -> Iterator[None]:
        yield
        sys.exit("no way out")

    cluster, client = flame(max=1, idle_timeout="200ms", setup=load)
    assert client.submit(dask_flame.setup_result).result(timeout=60) is None
    wait_for(lambda: not cluster.runners)
    said = printed(cluster)
    assert said.startswith("Traceback")
    assert said.count("File ") == 1
    assert said.endswith("of setup=load has failed: SystemExit: no way out\n")
    (ended,) = kinds(cluster, "ended")
    assert "exit code 0" in ended.reason


@pytest.mark.parametrize("kind", ["thread", "loop"])
def test_an_end_that_hangs_is_broken_off_in_time_for_the_handlers_of_atexit(
    kind: str, flame: Any, tmp_path: Path
) -> None:
    import atexit

    def hang() -> None:
        time.sleep(600)

    async def hang_too() -> None:
        await asyncio.sleep(600)

    def load() -> Iterator[None]:
        atexit.register((tmp_path / "atexit").touch)
        yield
        hang()

    async def load_too() -> AsyncIterator[None]:
        atexit.register((tmp_path / "atexit").touch)
        yield
        await hang_too()

    setup = load if kind == "thread" else load_too
    cluster, client = flame(max=1, idle_timeout="200ms", shutdown_timeout="10s", setup=setup)
    assert client.submit(dask_flame.setup_result).result(timeout=60) is None
    wait_for(lambda: not cluster.runners)
    said = printed(cluster)
    assert said.startswith(
        f"what follows the yield of setup={setup.__name__} has not ended within 7 s of "
        "shutdown_timeout=10 s, and was broken off here:\n"
    )
    assert f"in {setup.__name__}" in said
    if kind == "thread":
        assert "in hang" in said
    assert "CancelledError" not in said
    assert (tmp_path / "atexit").exists()
    (ended,) = kinds(cluster, "ended")
    assert "exit code 0" in ended.reason


def test_all_that_runs_at_the_end_shares_one_limit(flame: Any) -> None:
    import atexit

    def load() -> Iterator[None]:
        atexit.register(time.sleep, 600)
        yield
        time.sleep(600)

    cluster, client = flame(max=1, idle_timeout="200ms", shutdown_timeout="10s", setup=load)
    assert client.submit(dask_flame.setup_result).result(timeout=60) is None
    wait_for(lambda: not cluster.runners)
    said = printed(cluster)
    assert "what follows the yield of setup=load has not ended within 7 s" in said
    assert "what runs when Python exits (atexit, weakref.finalize) did not end" in said
    (ended,) = kinds(cluster, "ended")
    assert "exit code 0" in ended.reason  # and not killed


def test_a_second_yield_is_said(flame: Any) -> None:
    def load() -> Iterator[int]:
        yield 1
        yield 2

    cluster, client = flame(max=1, idle_timeout="200ms", setup=load)
    assert client.submit(dask_flame.setup_result).result(timeout=60) == 1
    wait_for(lambda: not cluster.runners)
    said = "setup=load has yielded twice; what follows the second yield was not run\n"
    assert printed(cluster) == said


def test_kill_9_of_a_runner_runs_nothing_and_the_next_is_set_up(flame: Any, tmp_path: Path) -> None:
    _, client = flame(max=1, setup=loads(tmp_path))
    pid = client.submit(os.getpid, pure=False).result(timeout=60)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not psutil.pid_exists(pid))
    assert client.submit(os.getpid, pure=False).result(timeout=60) != pid
    assert notes(tmp_path / "life") == ["begin flame-setup"] * 2


# Failures


def test_a_failure_reaches_the_calls_with_its_traceback(flame: Any, tmp_path: Path) -> None:
    def open_model() -> None:
        raise FileNotFoundError("no model.pt here")

    def load() -> None:
        note(tmp_path / "tried", os.getpid())
        open_model()

    cluster, client = flame(max=2, boot_attempts=2, setup=load)
    futures = client.map(abs, [-1, -2])
    for future in futures:
        with pytest.raises(BootError) as caught:
            future.result(timeout=60)
        said = str(caught.value)
        assert "2 boots failed in a row (boot_attempts): runner-" in said
        assert "setting up after" in said
        cause = "setup=load has failed: FileNotFoundError: no model.pt here; it printed last:"
        assert cause in said.splitlines()[0]
        assert said.count("in open_model") == said.count("in load") == 1
        assert said.count("File ") == 2  # of the user's code, and none of ours
        assert "\n    setup=load has failed: FileNotFoundError: no model.pt here\n" in said
    assert len(notes(tmp_path / "tried")) == 3  # a wave of two, then one
    assert any("no model.pt here" in event.text for event in kinds(cluster, "failed"))
    wait_for(lambda: {boot.ended for boot in cluster.boots if boot.failed} == {"exit code 1"})
    assert {boot.last for boot in cluster.boots if boot.failed} == {"setting up"}
    # Runners that were set up are not needed to try again.
    cluster.resize(setup=Model)
    assert client.submit(abs, -3).result(timeout=60) == 3


def returns_none() -> Iterator[None]:
    return
    yield


async def returns_none_too() -> AsyncIterator[None]:
    return
    yield


async def raises() -> None:
    await asyncio.sleep(0)
    raise ValueError("not now")


class Unreadable:
    def __reduce__(self) -> Any:
        return __import__, ("no_such_module",)


@pytest.mark.parametrize(
    ("setup", "said"),
    [
        (functools.partial(sys.exit, 3), "setup=exit has failed: SystemExit: 3"),
        (returns_none, "FlameError: setup=returns_none is a generator function, and has ended wi"),
        (returns_none_too, "FlameError: setup=returns_none_too is a generator function, and has"),
        (raises, "setup=raises has failed: ValueError: not now"),
        (
            functools.partial(print, Unreadable()),
            "setup=print has failed: ModuleNotFoundError: No module named 'no_such_module'",
        ),
        (functools.partial(os._exit, 4), "exit code 4"),
        (get_worker, "ValueError: No worker found"),
    ],
    ids=["SystemExit", "no yield", "no async yield", "coroutine", "unreadable", "_exit", "worker"],
)
def test_other_failures(setup: Any, said: str, flame: Any) -> None:
    _, client = flame(max=1, boot_attempts=1, setup=setup)
    with pytest.raises(BootError) as caught:
        client.submit(abs, 1).result(timeout=60)
    assert said in str(caught.value)


def test_threads_that_it_left_behind_do_not_delay_its_failure(flame: Any) -> None:
    def load() -> None:
        threading.Thread(target=time.sleep, args=(600,)).start()
        raise ValueError("not now")

    cluster, client = flame(max=1, boot_attempts=1, shutdown_timeout="10m", setup=load)
    with pytest.raises(BootError, match="not now"):
        client.submit(abs, 1).result(timeout=60)
    wait_for(lambda: [boot.ended for boot in cluster.boots] == ["exit code 1"])


def test_a_runner_that_dies_in_it_is_booted_again(flame: Any, tmp_path: Path) -> None:
    def load() -> str:
        note(tmp_path / "tried", os.getpid())
        if len(notes(tmp_path / "tried")) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return "loaded"

    cluster, client = flame(max=1, setup=load)
    assert client.submit(dask_flame.setup_result).result(timeout=60) == "loaded"
    first, second = cluster.boots
    assert first.failed
    assert "SIGKILL" in first.ended
    assert not second.failed
    assert second.phases["setup"] > 0


@pytest.mark.parametrize("kind", ["thread", "loop", "blocked loop"])
def test_one_that_takes_too_long_is_named_with_the_timeout(kind: str, flame: Any) -> None:
    async def waits() -> None:
        await asyncio.sleep(600)

    async def blocks() -> None:
        time.sleep(600)  # noqa: ASYNC251 - what is tested

    setups = {"thread": lambda: time.sleep(600), "loop": waits, "blocked loop": blocks}
    cluster, client = flame(
        max=1, boot_timeout="10s", boot_attempts=1, preload=["json"], setup=setups[kind]
    )
    with pytest.raises(BootTimeout) as caught:
        client.submit(int, 1).result(timeout=60)
    said = str(caught.value)
    assert "its setup= has not ended within boot_timeout=10 s; where it takes" in said
    assert 'write boot_timeout="40s"' in said
    assert "preload=[" not in said
    assert cluster.boots[0].last == "setting up"


def test_it_is_shown_while_it_runs(flame: Any, tmp_path: Path) -> None:
    def load() -> None:
        while not (tmp_path / "go on").exists():
            time.sleep(0.01)

    cluster, client = flame(max=1, setup=load)
    future = client.submit(abs, -1)
    wait_for(lambda: cluster.boots and cluster.boots[0].last == "setting up")
    assert repr(cluster.boots[0]).rpartition(", ")[2].startswith("setting up ")
    (tmp_path / "go on").touch()
    assert future.result(timeout=60) == 1
    (ready,) = wait_for(lambda: kinds(cluster, "ready"))
    assert ", setting up " in ready.reason
    assert ", setup " in ready.reason
    assert set(cluster.boots.medians()) >= {"setting up", "setup", "registered"}


def test_a_sigterm_in_it_fails_the_boot(flame: Any, tmp_path: Path) -> None:
    def load() -> None:
        note(tmp_path / "pid", os.getpid())
        if len(notes(tmp_path / "pid")) == 1:
            time.sleep(600)

    cluster, client = flame(max=1, setup=load)
    future = client.submit(abs, -1)
    (pid,) = wait_for(lambda: notes(tmp_path / "pid"))
    os.kill(int(pid), signal.SIGTERM)
    assert future.result(timeout=60) == 1
    assert cluster.boots[0].ended == "killed by SIGTERM"
    assert cluster.boots[0].failed


def test_closing_the_cluster_does_not_wait_for_it(flame: Any, tmp_path: Path) -> None:
    def load() -> None:
        note(tmp_path / "pid", os.getpid())
        time.sleep(600)

    cluster, client = flame(max=1, setup=load)
    future = client.submit(abs, -1)
    (pid,) = wait_for(lambda: notes(tmp_path / "pid"))
    client.close()
    cluster.close()
    assert not psutil.pid_exists(int(pid))
    assert future.status != "finished"


DRIVER = """
import os, sys, time
from dask.distributed import Client
from dask_flame import FlameCluster

def load():
    with open(sys.argv[1], "a") as f:
        f.write(f"{os.getpid()}\\n")
    if sys.argv[2] == "during":
        time.sleep(600)
    yield
    time.sleep(600)

path = sys.argv[1:]

def setup(argv=path):
    sys.argv[1:] = argv
    yield from load()

cluster = FlameCluster(max=1, dashboard_address=None, setup=setup)
client = Client(cluster)
future = client.submit(abs, -1)
if sys.argv[2] == "after":
    future.result()
print("ready", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("when", ["during", "after"])
def test_kill_9_of_the_driver_leaves_nothing(when: str, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    driver = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(DRIVER), str(file), when],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    with driver:
        try:
            assert driver.stdout is not None
            assert driver.stdout.readline() == "ready\n"
            (pid,) = wait_for(lambda: notes(file))
        finally:
            driver.kill()
    wait_for(lambda: not psutil.pid_exists(int(pid)))


def test_calls_of_its_own_are_for_later(flame: Any) -> None:
    """It has no client: its runner is not part of the cluster yet."""
    _, client = flame(max=1, boot_attempts=1, setup=lambda: get_client(timeout=1))
    with pytest.raises(BootError, match="setup=<lambda> has failed: ValueError"):
        client.submit(abs, 1).result(timeout=60)
