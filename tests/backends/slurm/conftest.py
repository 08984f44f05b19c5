"""A real Slurm for the tests of its backend; see :mod:`tests.support.slurm_world`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import dask.config
import pytest

from tests.support.slurm_world import SlurmWorld, slurm_world, why_impossible
from tests.support.waiting import wait_for

#: Configuration for a quick Slurm of which nobody else asks anything.
SETTINGS = {"flame.slurm.interface": "lo", "flame.slurm.poll": "300ms"}


@pytest.fixture(scope="session")
def world() -> Iterator[SlurmWorld]:
    """Daemons for all tests of this session."""
    if why := why_impossible():
        pytest.skip(f"no Slurm: {why}")
    with slurm_world() as started:
        yield started


@pytest.fixture
def slurm(
    world: SlurmWorld, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[SlurmWorld]:
    """A Slurm with two idle nodes; at the end, no job and no file of a cluster may be left."""
    with used(world, monkeypatch, tmp_path):
        yield world


@pytest.fixture
def own_slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[SlurmWorld]:
    """A Slurm for one test alone, which may break it."""
    if why := why_impossible():
        pytest.skip(f"no Slurm: {why}")
    with slurm_world() as started, used(started, monkeypatch, tmp_path):
        yield started


@contextlib.contextmanager
def used(world: SlurmWorld, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Have commands and clusters use a Slurm."""
    for name, value in world.environment.items():
        monkeypatch.setenv(name, value)
    for name in [name for name in os.environ if name.startswith(("SLURM_JOB", "SBATCH_"))]:
        monkeypatch.delenv(name)
    folder = tmp_path / "shared"
    with dask.config.set({**SETTINGS, "flame.slurm.folder": str(folder)}):
        yield
    wait_for(lambda: not world.jobs(), what=f"no job is left: {world.jobs()}")
    wait_for(lambda: not folder.exists() or not list(folder.iterdir()), what="no file is left")
