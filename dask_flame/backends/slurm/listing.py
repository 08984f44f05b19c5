"""Describe clusters by their jobs and folders; pure (command line)."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from dask_flame.backends.inspector import ClusterListing, RunnerListing
from dask_flame.backends.slurm.folder import ClusterFolder
from dask_flame.backends.slurm.identity import PREFIX, lives
from dask_flame.backends.slurm.job_states import Job

#: Seconds after which a driver that has not shown that it lives is gone, as far as can be told
#: from another machine.
SILENT = 600.0
_PAIR = re.compile(r"(\w+)=(\S+)")


@dataclass
class Found:
    """What there is of a cluster.

    Attributes
    ----------
    id : str
    folder : ClusterFolder or None
        None if it is not seen here.
    jobs : list of Job
        Those that have not ended.
    """

    id: str
    folder: ClusterFolder | None = None
    jobs: list[Job] = field(default_factory=list)

    @property
    def about(self) -> Mapping[str, Any]:
        """What its driver says of itself, in its folder or in the comments of its jobs."""
        if self.folder is not None and (about := self.folder.about):
            return about
        return comment_of(self.jobs[0]) if self.jobs else {}

    @property
    def why_orphan(self) -> str:
        """Why it has no driver any more; empty if it has, or may have."""
        alive = lives(str(self.about.get("process", "")))
        if alive:
            return ""
        driver = self.about.get("driver", "?")
        if alive is False:
            return f"its driver, {driver}, has ended"
        if self.folder is not None and (silent := self.folder.silent) > SILENT:
            return f"its driver, {driver}, has not said for {int(silent // 60)}m that it lives"
        return ""


def comment_of(job: Job) -> dict[str, str]:
    """Return what the comment of a job says.

    Examples
    --------
    >>> job = Job("", "", "", "", 0, "", "", "", "", "dask-flame cluster=a-1 pool=b wave=2")
    >>> comment_of(job)
    {'cluster': 'a-1', 'pool': 'b', 'wave': '2'}
    """
    return dict(_PAIR.findall(job.comment)) if job.comment.startswith("dask-flame ") else {}


def gather(jobs: Sequence[Job], folders: Mapping[str, ClusterFolder]) -> list[Found]:
    """Return what there is of all clusters."""
    found = {id: Found(id, folder) for id, folder in folders.items()}
    by_name: dict[str, list[Job]] = defaultdict(list)
    for job in jobs:
        if job.name.startswith(PREFIX) and "cluster" in comment_of(job) and not job.over:
            by_name[job.name.removeprefix(PREFIX)].append(job)
    for id, own in by_name.items():
        found.setdefault(id, Found(id)).jobs = own
    return list(found.values())


def listing(found: Found) -> ClusterListing:
    """Describe a cluster."""
    waves = found.folder.waves() if found.folder is not None else {}
    began = found.about.get("began")
    starts = [when for job in found.jobs if (when := _time(job.start))]
    return ClusterListing(
        id=found.id,
        name=found.id.rpartition("-")[0] or found.id,
        state=_state(found),
        driver=str(found.about.get("driver", "?")),
        started=float(began) if began else min(starts, default=None),
        runners=tuple(_runner(job, waves) for job in found.jobs),
    )


def runner_name(job: Job, waves: Mapping[int, Mapping[str, Any]]) -> str:
    """Return the name of a job's runner, or the job's id if it is not known here."""
    names = _wave_of(job, waves).get("names", [])
    task = int(job.task) if job.task.isdecimal() else -1
    return str(names[task]) if 0 <= task < len(names) else f"job {job.target}"


def place_of(job: Job) -> tuple[int, int] | None:
    """Return the numbers of a job's wave and of the job in it; None if they are not known."""
    wave = comment_of(job).get("wave", "")
    return (int(wave), int(job.task)) if wave.isdecimal() and job.task.isdecimal() else None


def _wave_of(job: Job, waves: Mapping[int, Mapping[str, Any]]) -> Mapping[str, Any]:
    wave = comment_of(job).get("wave", "")
    return waves.get(int(wave), {}) if wave.isdecimal() else {}


def _runner(job: Job, waves: Mapping[int, Mapping[str, Any]]) -> RunnerListing:
    wave = _wave_of(job, waves)
    waits = f" ({job.reason})" if job.pending and job.reason not in ("", "None") else ""
    return RunnerListing(
        name=runner_name(job, waves),
        pool=str(wave.get("pool") or comment_of(job).get("pool", "")),
        state=f"{job.state.lower()}{waits}",
        started=None if job.pending else _time(job.start),
        where=" ".join(filter(None, (job.node, f"job {job.target}"))),
        gpus=float(wave.get("gpus", 0)),
        kind=str(wave.get("kind", "")),
    )


def _state(found: Found) -> str:
    if found.why_orphan:
        return "orphaned"
    return "stopped" if found.folder is not None and found.folder.stopped else "live"


def _time(text: str) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None
