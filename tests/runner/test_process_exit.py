"""What Python does when it exits, a runner does when it ends; bounded."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import dask.config
import pytest

from tests.support.waiting import wait_for

pytestmark = pytest.mark.process

_KEPT: list[Any] = []


def leave(folder: Path) -> None:
    """Register and open what Python sees to at its end."""
    import atexit
    import gzip
    import logging.handlers
    import threading
    import weakref

    from tensorboardX import SummaryWriter

    class Thing:
        pass

    def say() -> None:
        print("goodbye from atexit")
        (folder / "atexit").write_text(threading.current_thread().name)

    def work() -> None:
        time.sleep(0.5)
        (folder / "thread").write_text("done")

    atexit.register(say)
    atexit.register(lambda: 1 / 0)  # in nobody else's way
    weakref.finalize(thing := Thing(), (folder / "finalize").write_text, "done")
    text, packed = open(folder / "text", "w"), gzip.open(folder / "packed.gz", "wt")  # noqa: SIM115
    text.write("not yet written")
    packed.write("packed")
    writer = SummaryWriter(str(folder / "tensorboard"))
    writer.add_scalar("loss", 0.5, 1)
    memory = logging.handlers.MemoryHandler(100, target=logging.FileHandler(folder / "log"))
    logging.getLogger("kept").addHandler(memory)
    logging.getLogger("kept").warning("remember")
    threading.Thread(target=work, daemon=False).start()
    _KEPT.extend((thing, text, packed, writer))


def printed(cluster: Any) -> str:
    """What the first runner has printed last; of a closed cluster, too."""
    return asyncio.run(cluster.backend.logs(["runner-1"])).get("runner-1", "")


def check(folder: Path) -> None:
    import gzip

    assert (folder / "atexit").read_text() == "MainThread"
    assert (folder / "finalize").read_text() == "done"
    assert (folder / "text").read_text() == "not yet written"
    assert gzip.decompress((folder / "packed.gz").read_bytes()) == b"packed"
    (events,) = (folder / "tensorboard").iterdir()
    assert b"loss" in events.read_bytes()
    assert "remember" in (folder / "log").read_text()
    assert (folder / "thread").read_text() == "done"


@pytest.mark.parametrize("how", ["close", "idle", "retire", "no fork", "SIGTERM"])
def test_handlers_run_and_files_are_flushed(how: str, flame: Any, tmp_path: Path) -> None:
    import os
    import signal

    idle = "0.2s" if how == "idle" else "60s"
    with dask.config.set({"flame.local.fork": how != "no fork"}):
        cluster, client = flame(max=1, idle_timeout=idle)
        client.submit(leave, tmp_path).result()
        if how == "retire":
            wait_for(lambda: not cluster.scheduler.tasks)  # else it would stay for its result
            client.retire_workers(list(cluster.scheduler.workers))
        elif how == "SIGTERM":
            os.kill(next(iter(client.run(os.getpid).values())), signal.SIGTERM)
        if how in ("idle", "retire", "SIGTERM"):
            wait_for(lambda: not cluster.runners)
        else:
            client.close()
            cluster.close()
    check(tmp_path)
    (ended,) = [e for e in cluster.events if e.kind in ("ended", "lost")]
    assert "exit code 0" in ended.reason
    assert "goodbye from atexit" in printed(cluster)


def test_handlers_of_preloaded_modules_run_once_in_each_runner(
    flame: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    (tmp_path / "leaves_a_handler.py").write_text(
        "import atexit, os\n"
        f"atexit.register(lambda: open(f'{tmp_path}/{{os.getpid()}}.end', 'a').write('x'))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    cluster, client = flame(min=2, max=2, preload=["leaves_a_handler"])
    client.wait_for_workers(2, timeout=60)
    import os

    pids = set(client.run(os.getpid).values())
    client.close()
    cluster.close()
    ends = {int(file.stem): file.read_text() for file in tmp_path.glob("*.end")}
    assert ends == dict.fromkeys(pids, "x")


def hang() -> None:
    import atexit

    atexit.register(time.sleep, 600)


def test_a_handler_that_hangs_is_broken_off_and_named(flame: Any) -> None:
    cluster, client = flame(max=1, shutdown_timeout="3s")
    client.submit(hang).result()
    client.close()
    start = time.monotonic()
    cluster.close()
    assert 2 < time.monotonic() - start < 60
    said = printed(cluster)
    assert "did not end within shutdown_timeout=3 s" in said


def test_one_that_takes_longer_than_workers_may_take_to_close_is_waited_for(
    flame: Any, tmp_path: Path
) -> None:
    def later() -> None:
        import atexit

        def work() -> None:
            time.sleep(3)
            (tmp_path / "done").touch()

        atexit.register(work)

    cluster, client = flame(max=1)
    client.submit(later).result()
    client.close()
    cluster.close()
    assert (tmp_path / "done").exists()


def forever(file: Path) -> None:
    import threading

    threading.Thread(target=time.sleep, args=(600,), daemon=False).start()
    file.touch()
    time.sleep(600)


def test_what_running_calls_have_started_is_not_waited_for(
    flame: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A thread that never ends, of a call that had ended, would be waited for for so long.
    (tmp_path / "waits_for_long.py").write_text(
        "from dask_flame.runner import process_exit\nprocess_exit._LEFT_RUNNING = 120.0\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    cluster, client = flame(max=1, preload=["waits_for_long"], shutdown_timeout="10m")
    running = client.submit(forever, tmp_path / "running")
    wait_for((tmp_path / "running").exists)
    client.close()
    start = time.monotonic()
    cluster.close()
    assert running.status != "finished"
    assert time.monotonic() - start < 60


def parallel(file: Path) -> None:
    import joblib

    joblib.Parallel(2, backend="loky")(joblib.delayed(abs)(n) for n in range(2))
    file.touch()
    time.sleep(600)


def test_processes_of_loky_are_ended_without_a_word(flame: Any, tmp_path: Path) -> None:
    """They are processes of multiprocessing that have no method to kill them."""
    cluster, client = flame(max=1)
    running = client.submit(parallel, tmp_path / "running")
    wait_for((tmp_path / "running").exists)
    client.close()
    cluster.close()
    assert running.status != "finished"
    assert "Error" not in printed(cluster)


def test_where_python_keeps_what_ends_the_threads_of_executors() -> None:
    import concurrent.futures.thread
    import threading

    names = [
        getattr(f, "__name__", getattr(getattr(f, "func", None), "__name__", ""))
        for f in threading._threading_atexits
    ]  # type: ignore[attr-defined]
    assert concurrent.futures.thread._python_exit.__name__ in names
