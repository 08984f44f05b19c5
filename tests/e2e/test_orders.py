"""Several processes of a cluster killed at one instant: who is left ends the rest."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from dask_flame.backends.local.supervisor import __main__ as supervisor
from dask_flame.core.processes import mark_of
from dask_flame.testing import marked_processes
from tests.support.waiting import wait_for

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(sys.platform != "linux", reason="marks are hidden on Linux alone"),
]
_TOKEN = "DASK_FLAME_TEST_DRIVER"

# Two runners; one has started all that outlives its parent: a child in a session of its own, an
# orphan, a pool of loky's, a pool of multiprocessing's that has a tracker of shared memory.
DRIVER = """
import dask, multiprocessing, os, subprocess, sys, time
from multiprocessing import shared_memory
from dask.distributed import Client
from dask_flame import FlameCluster

def work(i):
    if i == 0:
        import joblib
        sleep = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]
        subprocess.Popen(sleep, start_new_session=True)
        daemon = "import os, time; os.fork() and os._exit(0); os.setsid(); time.sleep(600)"
        subprocess.run([sys.executable, "-S", "-c", daemon], check=True)
        joblib.Parallel(2, backend="loky")(joblib.delayed(abs)(i) for i in range(4))
        work.pool = multiprocessing.get_context("fork").Pool(1)
        work.shared = shared_memory.SharedMemory(create=True, size=8)
    open(os.path.join(os.environ["FLAME_SAID"], str(i)), "w").close()
    time.sleep(600)

if __name__ == "__main__":
    dask.config.set({"flame.home.memory": "64 KiB"})
    cluster = FlameCluster(max=2, idle_timeout="0.1s", dashboard_address=None)
    client = Client(cluster)
    results = client.map(bytes, [100_000] * 3, pure=False)
    while cluster.home.held < 3 or cluster.runners:
        time.sleep(0.01)
    assert cluster.home.disk >= 300_000, cluster.home.disk
    futures = client.map(work, range(2))
    print(cluster.backend._mark, flush=True)
    time.sleep(600)
"""


class Killed:
    """A driver with results on its disk and two busy runners, to be killed in part.

    Attributes
    ----------
    temporary : Path
        Where its folders are.
    """

    def __init__(self, folder: Path) -> None:
        self.temporary, self.said = folder / "temporary", folder / "said"
        self.temporary.mkdir()
        self.said.mkdir()
        self.token = uuid.uuid4().hex
        own = {"TMPDIR": str(self.temporary), "FLAME_SAID": str(self.said), _TOKEN: self.token}
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVER],
            stdout=subprocess.PIPE,
            env={**os.environ, **own},
            text=True,
        )
        assert self.process.stdout is not None
        self.cluster = self.process.stdout.readline().strip()
        wait_for(lambda: len(list(self.said.iterdir())) == 2, what="both calls run")
        self.runners = sorted(self._runners(), key=lambda r: len(r.children(recursive=True)))
        (supervisor,) = (
            p
            for p in self.remains()
            if "dask_flame/backends/local/supervisor" in " ".join(_line(p))
        )
        self.pids = {
            "driver": self.process.pid,
            "supervisor": supervisor.pid,
            "runner": self.runners[-1].pid,
            "other": self.runners[0].pid,
        }

    def _runners(self) -> Iterator[psutil.Process]:
        for process in marked_processes(f"{self.cluster}/"):
            parent = " ".join(_line(process.parent()))
            if (
                _line(process)[:1] == ["dask-flame"]
                and "dask_flame/backends/local/supervisor" in parent
            ):
                yield process

    def kill(self, who: tuple[str, ...]) -> None:
        """Kill these in this order, with nothing in between."""
        pids = [self.pids[name] for name in who]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)

    def remains(self) -> list[psutil.Process]:
        return marked_processes(self.token, variable=_TOKEN)

    def descendants(self) -> list[psutil.Process]:
        """What runners are and have started."""
        return marked_processes(f"{self.cluster}/")

    def folders(self) -> list[Path]:
        return list(self.temporary.glob("dask-flame-*"))

    def supervised(self) -> bool:
        """Whether a supervisor has promised to remove the driver's folder."""
        for folder in self.folders():
            with contextlib.suppress(FileNotFoundError), open(folder / ".supervised") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    return True
        return False

    def wait_for_no_folder(self) -> None:
        """Wait until no folder is left; otherwise say what is in them."""
        try:
            wait_for(lambda: not self.folders(), 60)
        except AssertionError:
            left = [sorted(map(str, [f, *f.rglob("*")])) for f in self.folders()]
            raise AssertionError(f"folders are left: {left}") from None

    def end(self) -> None:
        for process in self.remains():
            process.kill()
        self.process.communicate()


def _line(process: psutil.Process | None) -> list[str]:
    try:
        return [] if process is None else process.cmdline()
    except psutil.Error:
        return []


@pytest.fixture
def killed(tmp_path: Path) -> Iterator[Killed]:
    made = Killed(tmp_path)
    yield made
    made.end()


ORDERS = [
    order
    for n in (1, 2, 3)
    for some in itertools.combinations(("driver", "supervisor", "runner"), n)
    for order in itertools.permutations(some)
]


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_who_is_left_ends_the_rest(order: tuple[str, ...], killed: Killed) -> None:
    before = {p.pid for p in killed.descendants()}
    assert len(before) >= 2 + 1 + 1 + 2 + 1 + 1
    killed.kill(order)
    if "driver" in order:
        killed.process.wait()
        wait_for(lambda: not killed.remains(), 60, "no process is left")
        killed.wait_for_no_folder()
        return
    mine = before if "supervisor" in order else before - _of_the_other(killed)
    wait_for(lambda: not mine & {p.pid for p in killed.descendants()}, 60, "its children are gone")
    wait_for(killed.supervised, 60, "the driver has a supervisor, perhaps another one")
    killed.process.kill()
    killed.process.wait()
    wait_for(lambda: not killed.remains(), 60, "no process is left")
    killed.wait_for_no_folder()


def test_a_driver_that_is_slow_to_start_its_next_supervisor(killed: Killed) -> None:
    os.kill(killed.process.pid, signal.SIGSTOP)
    killed.kill(("supervisor",))
    wait_for(lambda: not killed.descendants(), 60, "the runners are gone")
    # Longer than any load explains: who removes the folder must not have given up by then.
    time.sleep(5)
    assert len(killed.folders()) == 1
    killed.process.kill()
    killed.process.wait()
    killed.wait_for_no_folder()
    wait_for(lambda: not killed.remains(), 60, "no process is left")


def test_a_driver_that_still_counts_as_parent(tmp_path: Path) -> None:
    # As for an instant after a kill: the kernel closes its files before it reparents its children.
    folder = tmp_path / "dask-flame-of-the-driver"
    folder.mkdir()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        words = [
            str(theirs.fileno()),
            "test-orders/1",
            str(os.getpid()),
            str(tmp_path),
            str(folder),
        ]
        started = subprocess.Popen(
            [sys.executable, "-P", supervisor.__file__, *words, "0"], pass_fds=[theirs.fileno()]
        )
        theirs.close()
        assert b"hello" in ours.recv(1 << 16)
        assert (folder / ".supervised").exists()
    assert started.wait(60) == 0
    assert not list(tmp_path.iterdir())


def _of_the_other(killed: Killed) -> set[int]:
    mark = mark_of(psutil.Process(killed.pids["other"]))
    return {p.pid for p in marked_processes(mark)}


def test_what_is_left_when_all_are_killed_is_swept(killed: Killed) -> None:
    # No process is left to do anything. The last one is killed before it can know of the others.
    for name in ("runner", "other", "supervisor", "driver"):
        os.kill(killed.pids[name], signal.SIGSTOP)
    killed.kill(("runner", "other", "supervisor", "driver"))
    killed.process.wait()
    left = killed.descendants()
    assert left
    folders = killed.folders()
    assert len(folders) == 2
    command = ["sweep", killed.cluster]
    env = {"TMPDIR": str(killed.temporary)}
    said = subprocess.run(
        [sys.executable, "-m", "dask", "flame", *command, "--yes"],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stdout + said.stderr
    assert all(f"folder {folder}" in said.stdout for folder in folders)
    assert not killed.descendants()
    assert not killed.folders()
