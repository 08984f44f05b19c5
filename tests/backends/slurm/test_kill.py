"""Nothing on Slurm outlives a driver that is killed, not even jobs that wait."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dask
import pytest

from dask_flame.backends.slurm.identity import Identity
from dask_flame.backends.slurm.options import complete
from dask_flame.backends.slurm.script import script
from tests.backends.slurm.stage import spec
from tests.support import drivers
from tests.support.drivers import watchdog_of
from tests.support.slurm_world import SlurmWorld
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process


@contextmanager
def driver(phase: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a driver; kill it at the end."""
    module = "tests.backends.slurm.driver"
    with drivers.driver(module, phase, str(folder), variables=settings()) as process:
        yield process


def settings() -> dict[str, str]:
    return {
        f"DASK_FLAME__SLURM__{name.upper()}": str(dask.config.get(f"flame.slurm.{name}"))
        for name in ("folder", "interface", "poll")
    }


def flame(*arguments: str) -> str:
    """Run ``dask flame``."""
    done = subprocess.run(
        [sys.executable, "-m", "dask", "flame", *arguments, "--backend", "slurm"],
        capture_output=True,
        text=True,
        env=drivers.environment(**settings()),
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def states(slurm: SlurmWorld) -> list[str]:
    return sorted(line.split()[1] for line in slurm.jobs() if line.startswith("flame-victim-"))


def has(slurm: SlurmWorld, phase: str, folder: Path) -> bool:
    if phase in ("pending", "booting"):
        # With the first job in the queue, none runs yet; in the other case, their Python starts.
        wanted = ["PENDING", "PENDING", "RUNNING", "RUNNING"]
        return states(slurm) == wanted if phase == "booting" else bool(states(slurm))
    if phase == "closed":
        return states(slurm) == ["PENDING", "PENDING"]
    return len(list(folder.glob("runs-*"))) == 2


def all_gone(slurm: SlurmWorld) -> bool:
    return not slurm.jobs() and not slurm.processes()


@pytest.mark.parametrize("phase", ["pending", "closed", "booting", "running", "ending"])
def test_jobs_are_gone_after_a_kill_in_any_phase(
    phase: str, slurm: SlurmWorld, tmp_path: Path
) -> None:
    with driver(phase, tmp_path) as process:
        wait_for(lambda: has(slurm, phase, tmp_path), what=phase)
        watchdog = watchdog_of(process)
        if phase == "ending":
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("end\n")
            process.stdin.flush()
            while process.stdout.readline() != "ending\n":
                pass
        process.kill()
        process.wait()
    wait_for(lambda: all_gone(slurm), within=120, what="all is gone")
    wait_for(lambda: not watchdog.is_running())
    assert not list((tmp_path / "shared").iterdir())


def test_without_the_watchdog_jobs_end_by_themselves_and_so_do_those_that_begin(
    slurm: SlurmWorld, tmp_path: Path
) -> None:
    # As if the computer of the driver had lost its power.
    with driver("booting", tmp_path) as process:
        wait_for(lambda: has(slurm, "booting", tmp_path))
        wait_for(lambda: len(list(tmp_path.glob("runs-*"))) == 2)
        watchdog_of(process).kill()
        process.kill()
        process.wait()
    wait_for(lambda: all_gone(slurm), within=120, what="all is gone")
    # What is left are files without a private key of a job.
    (left,) = (tmp_path / "shared").iterdir()
    assert not list(left.glob("[0-9]*.json"))
    assert "folder" in flame("sweep", "--yes")
    assert not list((tmp_path / "shared").iterdir())


def test_sweep_ends_jobs_that_wait_in_vain(slurm: SlurmWorld, tmp_path: Path) -> None:
    with driver("closed", tmp_path) as process:
        wait_for(lambda: has(slurm, "closed", tmp_path))
        assert "live" in flame("ps")
        watchdog_of(process).kill()
        process.kill()
        process.wait()
    assert "orphaned" in flame("ps", "--runners")
    said = flame("sweep", "--yes")
    assert said.count("job ") == 2
    assert all_gone(slurm)
    assert not list((tmp_path / "shared").iterdir())


def test_a_cluster_that_is_stopped_tells_its_driver(slurm: SlurmWorld, tmp_path: Path) -> None:
    with driver("running", tmp_path) as process:
        wait_for(lambda: has(slurm, "running", tmp_path))
        assert "stopped" in flame("stop", "victim")
        assert all_gone(slurm)
        assert process.poll() is None
        process.kill()
        process.wait()
        wait_for(lambda: not list((tmp_path / "shared").iterdir()), what="the folder is gone")


def test_a_job_that_is_ended_while_it_starts_leaves_no_folder(tmp_path: Path) -> None:
    # The signal comes after its folder was made, and before its runner was started.
    early = 'mktemp() { command mktemp "$@"; kill -USR1 $$; }'
    python, scratch = tmp_path / "python", tmp_path / "scratch"
    python.write_text("#!/bin/sh\nexec sleep 600\n")
    python.chmod(0o755)
    scratch.mkdir()
    options = complete(
        {
            "python": str(python),
            "local_directory": str(scratch),
            "job_script_prologue": [early],
        }
    )
    text = script([spec("one")], options, Identity.new("x"), "/f", wave=1, drain=90)
    done = subprocess.run(["bash", "-c", text], timeout=60, stderr=subprocess.DEVNULL)
    assert done.returncode == 137
    assert not list(scratch.iterdir())
