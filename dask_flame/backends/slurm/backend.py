"""The Slurm backend: an array of jobs for each wave of runners (driver)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import psutil
from distributed.utils import get_ip, get_ip_interface

from dask_flame.backends.base import Backend
from dask_flame.backends.death_watch import DeathWatch
from dask_flame.backends.redact import scrub
from dask_flame.backends.slurm import commands, folder
from dask_flame.backends.slurm.commands import SlurmError
from dask_flame.backends.slurm.folder import CONNECTION, ClusterFolder
from dask_flame.backends.slurm.identity import Identity
from dask_flame.backends.slurm.options import SlurmOptions, complete, of_configurations
from dask_flame.backends.slurm.runner_jobs import RunnerJobs
from dask_flame.backends.specs import BackendContext, RunnerSpec
from dask_flame.core.backend_options import BackendOptions
from dask_flame.core.connection import ConnectionInfo
from dask_flame.errors import BackendError

if TYPE_CHECKING:
    from dask_flame.backends.inspector import Inspector

logger = logging.getLogger("dask_flame")

#: Maximum time in seconds for the jobs to end when the cluster closes.
_CLOSE_WITHIN = 60.0


class SlurmBackend(Backend):
    """Run runners as jobs of Slurm. The scheduler is in the driver's process.

    Notes
    -----
    Nothing is submitted before the first boot. A process beside the driver,
    :mod:`dask_flame.backends.slurm.watchdog`, cancels the jobs that are left if the driver is
    killed.
    """

    name: ClassVar[str] = "slurm"
    Options: ClassVar[type[BackendOptions]] = SlurmOptions
    remote: ClassVar[bool] = True

    def __init__(self, context: BackendContext) -> None:
        super().__init__(context)
        self._identity = Identity.new(context.cluster)
        # As configured now: `dask.config.set` may be a block that ends before a boot.
        self._configured = of_configurations()
        self._shared = complete({}, self._configured)
        self._address = ""
        self._jobs: RunnerJobs | None = None
        self._folder: ClusterFolder | None = None
        self._death_watch = DeathWatch("slurm", "cancels jobs")
        self._closing: asyncio.Task[None] | None = None

    # Start

    @property
    def listening(self) -> dict[str, Any]:
        return {"host": self._address}

    def expect(self, specs: Sequence[RunnerSpec]) -> None:
        options = [complete(spec.options, self._configured) for spec in specs]
        for name in ("interface", "folder"):
            if len({getattr(each, name) for each in options}) > 1:
                raise BackendError(
                    f"the pools name different values of {name}, and a cluster has one: write "
                    f"{name}= once, beside pools="
                )
        self._shared = options[0] if options else self._shared

    async def start(self) -> None:
        if self._closing is not None:
            raise BackendError("the cluster is closed")
        self._address = _address(self._shared.interface)
        await commands.run("sbatch", "--version")
        if self._closing is not None:
            raise BackendError("the cluster is closed")
        made = ClusterFolder.make(folder.base(self._shared.folder), self._identity)
        self._folder = made
        self._death_watch.start(
            [self._identity.job_name, made.path], environment=commands.environment()
        )
        self._jobs = RunnerJobs(
            self._identity,
            made,
            self,
            poll=SlurmOptions.setting("poll"),
            drain=SlurmOptions.setting("drain"),
        )

    async def announce(self, connection: ConnectionInfo) -> None:
        if self._folder is not None:
            try:
                self._folder.write(CONNECTION, connection.dumps().encode())
            except OSError as error:
                logger.warning("other processes cannot observe this cluster: %s", error)

    # Requests of the cluster

    async def boot(self, specs: Sequence[RunnerSpec]) -> None:
        if self._closing is not None:
            raise BackendError("the cluster is closed")
        if self._jobs is None:
            raise BackendError("the cluster has not started")
        self.check_new(specs, self._jobs.runners)
        self._jobs.make([(spec, complete(spec.options, self._configured)) for spec in specs])

    async def end(self, names: Collection[str], *, grace: float = 0) -> None:
        if self._jobs is not None:
            await self._jobs.end(names, grace)

    async def list(self) -> set[str]:
        return set() if self._jobs is None else await self._jobs.list_names()

    async def logs(self, names: Collection[str]) -> Mapping[str, str]:
        if self._jobs is None:
            return {}
        return {name: text for name in names if (text := self._jobs.output(name))}

    def manifest(self, spec: RunnerSpec) -> Sequence[Mapping[str, Any]]:
        if self._jobs is None:
            raise BackendError("the cluster has not started")
        text = self._jobs.script([spec], complete(spec.options, self._configured))
        return [{"sbatch": scrub(text.splitlines(), spec.secret_values)}]

    @classmethod
    def inspector(cls, **where: str) -> Inspector:
        from dask_flame.backends.slurm.inspector import SlurmInspector

        for option in where:
            raise BackendError(
                f"--{option} is no option of Slurm; leave it out: clusters are found by their "
                "jobs, and in flame.slurm.folder"
            )
        return SlurmInspector()

    def forked(self) -> None:
        self._death_watch.forked()

    # The end

    async def close(self) -> None:
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        if self._jobs is None:
            return
        all_gone = await self._end_all(self._jobs)
        await self._jobs.close()
        await self._death_watch.close(all_gone=all_gone)
        if all_gone and self._folder is not None:
            self._folder.remove()

    async def _end_all(self, jobs: RunnerJobs) -> bool:
        """End all jobs; return whether none is left."""
        why = f"not within {_CLOSE_WITHIN:g} s"
        try:
            async with asyncio.timeout(_CLOSE_WITHIN):
                await jobs.end(list(jobs.runners), 0)
                if jobs.submitted and any(not job.over for job in await jobs.list_jobs()):
                    await commands.cancel([f"--name={self._identity.job_name}"])
                    why = "some were submitted without an answer"
                else:
                    return True
        except SlurmError as error:
            why = str(error)
        except TimeoutError:
            pass
        logger.warning(
            "not all jobs of %s have ended (%s); those that run end by themselves, and a process "
            "of this computer cancels the rest",
            self._identity.cluster,
            why,
        )
        return False


def _address(interface: str | None) -> str:
    """Return the address at which the scheduler listens.

    Raises
    ------
    BackendError
        There is no such network interface.
    """
    if not interface:
        address: str = get_ip()
        return address
    try:
        found: str = get_ip_interface(interface)
    except ValueError as error:
        there = ", ".join(sorted(psutil.net_if_addrs()))
        raise BackendError(
            f"interface={interface!r} is no network interface of this machine with an address "
            f"({error}); write interface= with one of {there}"
        ) from None
    return found
