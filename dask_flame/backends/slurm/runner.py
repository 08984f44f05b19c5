"""The state of a runner that was requested, and what its job reads (driver)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dask_flame.backends.command import runner_command_from_file
from dask_flame.backends.slurm.job_states import Job
from dask_flame.backends.slurm.options import SlurmOptions
from dask_flame.backends.specs import RunnerSpec


@dataclass(eq=False)
class Runner:
    """A runner that was requested.

    Attributes
    ----------
    spec : RunnerSpec
    options : SlurmOptions
    wave, task : int
        The number of its wave in this cluster, and its number there.
    array : str
        The id of its array of jobs; empty before it was submitted.
    job : Job or None
        As it was listed last.
    submitting : asyncio.Task or None
    started, ending : bool
        Whether its job has started, and whether the cluster has asked for its end.
    waits : str
        What it waits for, as was reported last.
    lacking : float
        Since when there is no capacity for it; 0 if there is.
    gone : asyncio.Event
        Set when its end was reported.
    """

    spec: RunnerSpec
    options: SlurmOptions
    wave: int = 0
    task: int = 0
    array: str = ""
    job: Job | None = None
    submitting: asyncio.Task[None] | None = None
    started: bool = False
    ending: bool = False
    waits: str = ""
    lacking: float = 0.0
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def target(self) -> str:
        """What ``scancel`` takes for its job."""
        return f"{self.array}_{self.task}"


def launch_file(spec: RunnerSpec) -> bytes:
    """Return what a job reads; see :mod:`dask_flame.backends.slurm.job_start`. Holds secrets."""
    command = runner_command_from_file(spec, "")
    job: Mapping[str, Any] = {
        "flags": list(spec.flags),
        "environment": dict(command.environment),
        "config": json.loads(command.config),
    }
    return json.dumps(job).encode()
