"""The sweeps of the examples, small: to the end, and killed at three moments."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from dask_flame.testing import marked_processes
from tests.support.paths import ROOT
from tests.support.waiting import wait_for

pytest.importorskip("sklearn", reason="pip install scikit-learn")

#: Seconds within which a script ends on a busy machine.
WITHIN = 400

pytestmark = [pytest.mark.process, pytest.mark.timeout(2 * WITHIN)]

_TOKEN = "DASK_FLAME_TEST_SWEEP"


class Sweep:
    """One of the scripts, in a process of its own, with a folder for all temporary files."""

    def __init__(self, folder: Path, script: str, *arguments: str) -> None:
        self.token = uuid.uuid4().hex
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "examples" / script), *arguments, "--runners", "2"],
            env=os.environ | {_TOKEN: self.token, "TMPDIR": str(self.temporary)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def read_until(self, words: str) -> str:
        """Return what it prints, up to a line with these words."""
        said = ""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            said += line
            if words in line:
                return said
        raise AssertionError(said + (self.process.communicate()[1] or ""))

    def runners(self) -> list[psutil.Process]:
        found = marked_processes(self.token, variable=_TOKEN)
        return [process for process in found if process.pid != self.process.pid]

    def trains(self) -> bool:
        """Return whether a runner has loaded what trains the models."""
        for process in self.runners():
            with suppress(OSError):
                if "/sklearn/" in Path(f"/proc/{process.pid}/maps").read_text():
                    return True
        return False

    def nothing_left(self) -> None:
        wait_for(lambda: not marked_processes(self.token, variable=_TOKEN), what="no process")
        wait_for(lambda: not list(self.temporary.iterdir()), what=str(self.temporary))

    def close(self) -> None:
        for process in marked_processes(self.token, variable=_TOKEN):
            process.kill()
        self.process.communicate()


@pytest.fixture
def sweep(tmp_path: Path) -> Iterator[Callable[..., Sweep]]:
    started: list[Sweep] = []

    def new(*arguments: str) -> Sweep:
        started.append(Sweep(tmp_path, *arguments))
        return started[-1]

    yield new
    for one in started:
        one.close()


@pytest.mark.parametrize("moment", ["boot", "training", "end"])
def test_a_sweep_that_is_killed_leaves_nothing(moment: str, sweep: Callable[..., Sweep]) -> None:
    one = sweep("sweep.py", "--models", "6" if moment == "end" else "200")
    one.read_until("/flame")
    if moment == "boot":
        wait_for(one.runners, WITHIN, "the first process")
    elif moment == "training":
        wait_for(one.trains, WITHIN, "a model that is trained")
    else:
        said = one.read_until("of runners, busy for")
        found = re.search(r"^(\d) of 6 were stopped early", said, re.MULTILINE)
        assert found is not None, said
        shares = [float(share) for share in re.findall(r"^(\d+\.\d)%", said, re.MULTILINE)]
        assert shares == sorted(shares, reverse=True)
        assert len(shares) == min(5, 6 - int(found[1]))
        assert shares[0] > 80
    one.process.send_signal(signal.SIGKILL)
    one.process.wait()
    one.nothing_left()


def test_optuna_chooses_and_stops(sweep: Callable[..., Sweep]) -> None:
    pytest.importorskip("optuna_integration", reason="pip install optuna-integration")
    one = sweep("sweep_optuna.py", "--models", "2")
    out, err = one.process.communicate(timeout=WITHIN)
    assert one.process.returncode == 0, err
    assert re.search(r"^\d of 2 were stopped early", out, re.MULTILINE), out
    assert re.search(
        r"^\d+\.\d%  units=\d+ layers=\d rate=\S+ decay=\S+ batch=\d+$", out, re.MULTILINE
    )
    one.nothing_left()
