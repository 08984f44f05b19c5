from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from dask_flame.backends.local import LocalBackend
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process


def test_a_supervisor_that_is_killed_before_it_has_begun_is_started_again(flame: Any) -> None:
    class Unlucky(LocalBackend):
        starts = 0

        async def start(self) -> None:
            self.starts += 1
            starting = asyncio.ensure_future(super().start())
            if self.starts == 2:
                while self._supervisor is None:  # noqa: ASYNC110
                    await asyncio.sleep(0)
                self._supervisor.kill()
            await starting

    cluster, client = flame(max=1, backend=Unlucky)
    assert client.submit(int, 7).result(timeout=60) == 7
    cluster.backend._supervisor.kill()
    # Until its end is seen, the runner may do another call.
    wait_for(lambda: not cluster.observed and not cluster.scheduler.workers)
    assert client.submit(int, 8).result(timeout=60) == 8
    assert cluster.backend.starts == 3
    assert any(
        "the supervisor of the local runners did not start" in e.reason for e in cluster.events
    )


def test_a_supervisor_whose_driver_is_gone_before_it_starts_goes(tmp_path: Path) -> None:
    # The supervisor's parent is a shell that is dead by the time the supervisor looks.
    script = (
        "import os, socket, subprocess, sys\n"
        "from dask_flame.backends.local.supervisor import __main__ as program\n"
        "ours, theirs = socket.socketpair()\n"
        "p = subprocess.Popen([sys.executable, '-P', program.__file__, str(theirs.fileno()), 'x',"
        " str(os.getpid()), '', '', '0'], pass_fds=(theirs.fileno(),))\n"
        "print(p.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    pid = int(done.stdout)

    def gone() -> bool:
        with contextlib.suppress(psutil.Error):
            return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        return True

    wait_for(gone)
