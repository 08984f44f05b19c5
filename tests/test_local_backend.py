from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import wait_for
from distributed import wait

from dask_flame.backends.local import LocalBackend
from dask_flame.testing import marked_processes
from dask_flame.testing.conformance import BackendConformance


class TestLocal(BackendConformance):
    @pytest.fixture
    def factory(self) -> type[LocalBackend]:
        return LocalBackend


def start_helpers(folder: str) -> int:
    """Start what a call may start: a child, one in a session of its own, one that is orphaned."""
    import subprocess

    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    subprocess.Popen(sleep)
    subprocess.Popen(sleep, start_new_session=True)
    orphan = (
        "import os, subprocess, sys; "
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], "
        "start_new_session=True)"
    )
    subprocess.run([sys.executable, "-c", orphan], check=True)
    Path(folder, "started").touch()
    time.sleep(600)
    return 0


def processes_of(cluster: Any) -> list[psutil.Process]:
    return marked_processes(f"{cluster.name}/")


@pytest.fixture
def helped(flame: Any, tmp_path: Path) -> Any:
    """A cluster with one busy runner whose call has started three processes."""
    cluster, client = flame(max=1)
    future = client.submit(start_helpers, str(tmp_path))
    wait_for((tmp_path / "started").exists)
    wait_for(lambda: len(processes_of(cluster)) == 4, what="a runner and three helpers")
    return cluster, client, future


def test_closing_the_cluster_ends_what_calls_have_started(helped: Any) -> None:
    cluster, client, _ = helped
    client.close()
    cluster.close()
    assert processes_of(cluster) == []


def test_ending_a_runner_ends_what_its_calls_have_started(helped: Any) -> None:
    cluster, _, _ = helped
    before = {p.pid for p in processes_of(cluster)}
    (runner,) = cluster.runners
    cluster.sync(cluster.backend.end, [runner])
    wait_for(lambda: not before & {p.pid for p in processes_of(cluster)}, 5)


def test_a_killed_runner_takes_what_its_calls_have_started_along(helped: Any) -> None:
    cluster, _, _ = helped
    before = {p.pid for p in processes_of(cluster)}
    ws = next(iter(cluster.scheduler.workers.values()))
    os.kill(ws.pid, signal.SIGKILL)
    wait_for(lambda: not before & {p.pid for p in processes_of(cluster)}, 5)
    assert any(e.kind == "lost" and "SIGKILL" in e.reason for e in cluster.events)


def test_a_killed_guard_takes_all_runners_along_and_the_calls_run_again(
    flame: Any, tmp_path: Path
) -> None:
    cluster, client = flame(max=1)
    assert client.submit(int, 7).result() == 7
    before = {p.pid for p in processes_of(cluster)}
    scratch = cluster.backend.scratch
    guard = psutil.Process(next(iter(before))).parent()
    assert guard is not None
    guard.kill()
    wait_for(lambda: not before & {p.pid for p in processes_of(cluster)}, 5)
    assert client.submit(int, 8).result(timeout=30) == 8
    assert not Path(scratch).exists()


def test_a_runner_that_holds_the_interpreter_ends_too(flame: Any) -> None:
    cluster, client = flame(max=1)

    def hold() -> None:
        import re

        re.match(r"(a+)+$", "a" * 60 + "b")  # one C call, for years, without a thread switch

    future = client.submit(hold)
    wait_for(lambda: cluster.runners and all(m.busy for m in cluster.runners.values()))
    time.sleep(0.2)
    del future
    client.close()
    cluster.close()
    assert processes_of(cluster) == []


def test_prints_are_shown_with_the_runner_they_came_from(
    flame: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    _, client = flame(max=1)
    wait(client.submit(print, "hello\nfrom afar", flush=True))
    seen = ""

    def shown() -> bool:
        nonlocal seen
        seen += capsys.readouterr().out
        return "[runner-1] hello\n[runner-1] from afar\n" in seen

    wait_for(shown)


def test_orders_travel_neither_in_arguments_nor_in_the_environment(flame: Any) -> None:
    cluster, client = flame(max=1, security=True)
    assert client.submit(int, 1).result() == 1
    key = cluster.security.tls_worker_key
    assert key
    for process in processes_of(cluster):
        assert key not in "\0".join(process.cmdline())
        assert key not in "\0".join(process.environ().values())


def test_a_guard_whose_driver_is_gone_before_it_starts_goes(tmp_path: Path) -> None:
    # The guard's parent is a shell that is dead by the time the guard looks.
    script = (
        "import os, socket, subprocess, sys\n"
        "from dask_flame.backends.local import guard\n"
        "ours, theirs = socket.socketpair()\n"
        "p = subprocess.Popen([sys.executable, '-P', guard.__file__, str(theirs.fileno()), 'x',"
        " 'none', str(os.getpid())], pass_fds=(theirs.fileno(),))\n"
        "print(p.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    pid = int(done.stdout)

    def gone() -> bool:
        with contextlib.suppress(psutil.Error):
            return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        return True

    wait_for(gone, 5)
