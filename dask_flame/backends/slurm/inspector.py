"""Inspect and end this user's clusters on Slurm, without their drivers (command line)."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping, Sequence

from dask_flame.backends.inspector import (
    ClusterListing,
    Entrance,
    Inspector,
    Orphan,
    lasting_orphans,
    stop_outcome,
)
from dask_flame.backends.slurm import commands
from dask_flame.backends.slurm.folder import base, clusters
from dask_flame.backends.slurm.identity import PREFIX
from dask_flame.backends.slurm.job_states import FORMAT, parse
from dask_flame.backends.slurm.listing import Found, gather, listing, place_of, runner_name
from dask_flame.backends.slurm.options import SlurmOptions, complete
from dask_flame.core.redaction import hide
from dask_flame.errors import BackendError

#: Seconds for clusters that have lost their drivers to be ended by the process beside these.
_BY_ITSELF = 12.0
_END_WITHIN = 60.0
_PAUSE = 1.0
#: The longest pause between two looks of a driver, in units of ``flame.slurm.poll``.
_QUIET = 5.0


class SlurmInspector(Inspector):
    """The clusters of this user: those whose folders are seen here, and those that have jobs."""

    async def clusters(self) -> list[ClusterListing]:
        found = [listing(one) for one in await self._find()]
        return sorted(found, key=lambda c: (c.started or 0, c.id))

    async def logs(self, cluster: ClusterListing, *, lines: int) -> Mapping[str, str]:
        found = await self._one(cluster.id)
        texts: dict[str, str] = {}
        if found.folder is None:
            self.notes.append(f"the output of {cluster.id} is in a folder that is not seen here")
            return texts
        waves = found.folder.waves()
        wanted = {runner.name for runner in cluster.runners}
        for job in found.jobs:
            name, place = runner_name(job, waves), place_of(job)
            if name in wanted and place is not None:
                text = found.folder.output(*place)
                texts[name] = "\n".join(text.splitlines()[-lines:])
        return texts

    async def stop(self, cluster: ClusterListing, *, within: float) -> str:
        found = await self._one(cluster.id)
        orphaned = bool(found.why_orphan)
        told = found.folder is not None and not orphaned
        if told:
            assert found.folder is not None
            found.folder.stop()
            await self._until_over(cluster.id, _QUIET * SlurmOptions.setting("poll") + 5)
        if left := await self._end_all(cluster.id, within):
            raise BackendError(f"not all of {cluster.id} is gone after {within:g} s: {left}")
        if orphaned and found.folder is not None:
            found.folder.remove()
        return stop_outcome(cluster, told=told)

    async def enter(self, cluster: ClusterListing) -> Entrance:
        found = await self._one(cluster.id)
        connection = None if found.folder is None else found.folder.connection
        if connection is None:
            raise BackendError(
                f"{cluster.id} has no scheduler that can be found: its driver is {cluster.driver}"
            )
        hide(connection.secrets)
        return Entrance(address=connection.address, connection=connection, close=_nothing)

    async def orphans(self) -> list[Orphan]:
        return await lasting_orphans(self._orphans, within=_BY_ITSELF, pause=_PAUSE)

    async def end(self, orphans: Sequence[Orphan]) -> list[Orphan]:
        wanted = {orphan.key for orphan in orphans}
        # The caller may have taken a while to decide: look again.
        now = [orphan for orphan in await self._orphans() if orphan.key in wanted]
        for id in {orphan.cluster for orphan in now}:
            found = await self._one(id)
            if not await self._end_all(id, _END_WITHIN) and found.folder is not None:
                found.folder.remove()
        return [orphan for orphan in await self._orphans() if orphan.key in wanted]

    # Queries

    async def _find(self, id: str = "") -> list[Found]:
        name = (f"--name={PREFIX}{id}",) if id else ()
        who = (f"--user={os.getuid()}", "--array", "--noheader", *name)
        jobs = parse(await commands.run("squeue", *who, f"--Format={FORMAT}"))
        folders = dict(clusters(base(complete({}).folder)))
        return [one for one in gather(jobs, folders) if id in ("", one.id)]

    async def _one(self, id: str) -> Found:
        found = await self._find(id)
        return found[0] if found else Found(id)

    async def _orphans(self) -> list[Orphan]:
        orphans = []
        for found in await self._find():
            if not (why := found.why_orphan):
                continue
            waves = found.folder.waves() if found.folder is not None else {}
            for job in found.jobs:
                what = f"job {job.target} ({runner_name(job, waves)}, {job.state.lower()})"
                orphans.append(Orphan(what=what, cluster=found.id, why=why, key=(job.target,)))
            if found.folder is not None:
                path = found.folder.path
                orphans.append(
                    Orphan(what=f"folder {path}", cluster=found.id, why=why, key=(path,))
                )
        return orphans

    # Actions

    async def _until_over(self, id: str, within: float) -> list[str]:
        """Wait until a cluster has no jobs; return those that are left."""
        deadline = time.monotonic() + within
        while jobs := (await self._one(id)).jobs:
            if time.monotonic() > deadline:
                return [f"job {job.target}" for job in jobs]
            await asyncio.sleep(_PAUSE)
        return []

    async def _end_all(self, id: str, within: float) -> str:
        """End all jobs of a cluster; return those that are left, as text."""
        name = f"--name={PREFIX}{id}"
        who = [f"--user={os.getuid()}", name]
        if not (await self._one(id)).jobs:
            return ""
        await commands.cancel(who, state="PENDING")
        await commands.signal("USR1", [*who, "--state=RUNNING"])
        await commands.cancel(who)
        return ", ".join(await self._until_over(id, within))


async def _nothing() -> None:
    return None
