"""The Fly backend: a machine for each runner, and one list for all of them (driver)."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from dask_flame.backends.base import Backend
from dask_flame.backends.death_watch import DeathWatch
from dask_flame.backends.fly import connection_files, machine_requests, metadata, watchdog
from dask_flame.backends.fly.api.errors import FlyError
from dask_flame.backends.fly.api.types import Machine
from dask_flame.backends.fly.connection import Connection, connect
from dask_flame.backends.fly.connection_files import SavedConnection
from dask_flame.backends.fly.machine_requests import Site
from dask_flame.backends.fly.metadata import Identity
from dask_flame.backends.fly.options import FlyOptions
from dask_flame.backends.fly.own_machine import bracketed, own_machine
from dask_flame.backends.fly.ownership import Ownership
from dask_flame.backends.fly.present_driver import scheduler_of
from dask_flame.backends.fly.proxy import find_program
from dask_flame.backends.fly.removal import remove_cluster
from dask_flame.backends.fly.runner_machines import RunnerMachines
from dask_flame.backends.fly.scheduler_machine import SchedulerMachine
from dask_flame.backends.specs import BackendContext, RunnerSpec, SchedulerSpec
from dask_flame.core.backend_options import BackendOptions
from dask_flame.errors import BackendError

if TYPE_CHECKING:
    from dask_flame.backends.inspector import Inspector

logger = logging.getLogger("dask_flame")

#: Maximum time in seconds for each step of closing, and what each runner adds to it.
_CLOSE_WITHIN, _CLOSE_EACH = 20.0, 0.5


class FlyBackend(Backend):
    """Run runners as Fly Machines.

    If the driver is in a machine of the same organization's private network, the scheduler is in
    its process. Otherwise, it is in a machine of its own, see :mod:`dask_flame.remote`.

    Notes
    -----
    Nothing is created before the first boot, except the machines of a reserve. A process beside the
    driver, :mod:`dask_flame.backends.fly.watchdog`, removes the machines that are left if the
    driver is killed.
    """

    name: ClassVar[str] = "fly"
    Options: ClassVar[type[BackendOptions]] = FlyOptions
    remote: ClassVar[bool] = True
    disposable: ClassVar[bool] = True
    adopts: ClassVar[bool] = True
    reaches_loopback: ClassVar[bool] = False
    scheduler_places: ClassVar[frozenset[str]] = frozenset({"driver", "pod"})
    scheduler_place_word: ClassVar[str] = "machine"

    def __init__(self, context: BackendContext) -> None:
        super().__init__(context)
        # As configured now: `dask.config.set` may be a block that ends before a boot.
        self._configured = FlyOptions.configured().given
        # Clusters may have the same name; the random part keeps their machines apart.
        new = f"{context.cluster}-{secrets.token_hex(3)}".lower()
        cluster = context.adopts or new
        self._site = Site(
            identity=Identity(cluster, metadata.owner(), metadata.process()), own=own_machine()
        )
        self._app = ""
        self._connection: Connection | None = None
        self._death_watch = DeathWatch("fly", "removes machines")
        self._machines: RunnerMachines | None = None
        self._expected: list[RunnerSpec] = []
        self._apart = False
        self._scheduler: SchedulerMachine | None = None
        self._closing: asyncio.Task[None] | None = None
        # What the first driver has left, if this one takes its cluster over.
        self._saved = connection_files.read(cluster) if context.adopts else None
        self._ownership = Ownership(
            self._site.identity, adopts=bool(context.adopts), replaced=self.replaced
        )

    # Start

    @property
    def listening(self) -> dict[str, Any]:
        return {"host": bracketed(self._site.own.address)}

    @property
    def apart(self) -> bool:
        return self._apart

    def expect(self, specs: Sequence[RunnerSpec]) -> None:
        apps = set()
        for spec in specs:
            options = self._options(spec)
            apps.add(options.app)
            machine_requests.runner(spec, options, self._site)
        if len(apps) > 1:
            names = " and ".join(sorted(repr(app or self._site.own.app) for app in apps))
            raise BackendError(
                f"the pools name the apps {names}, and a cluster has one: write app= once, beside "
                "pools="
            )
        self._app = next(iter(apps), None) or self._app
        self._expected = list(specs)
        if self._machines is not None and not self._ownership.left:
            self._want()

    def _options(self, spec: RunnerSpec) -> FlyOptions:
        """Return the options of a runner's pool, with those that are configured.

        Raises
        ------
        BackendError
            If Fly has no such machines.
        """
        if spec.gpus:
            raise BackendError(
                f"gpus={spec.gpus}: Fly has no GPUs any more, it withdrew them on 2026-08-01; "
                'leave gpus out, or write backend="kubernetes" for this pool'
            )
        return FlyOptions(**{**self._configured, **spec.options})

    async def start(self) -> None:
        if self._closing is not None:
            raise BackendError("the cluster is closed")
        app = self._app or self._configured.get("app") or ""
        if self._saved is not None:
            app = self._saved.app
        place, seat = self._site.own, self.context.scheduler
        if seat == "driver" and not place.address:
            raise BackendError(
                'scheduler="driver" needs a driver in a machine of Fly, which runners can reach; '
                'this one is in none (FLY_PRIVATE_IP is not set); write scheduler="pod" for a '
                "scheduler in a machine of its own"
            )
        self._apart = seat == "pod" or not place.address or bool(self.context.adopts)
        if self._apart and not self._reach:
            raise BackendError(
                "this driver is not in Fly's network, so the scheduler is in a machine there, and "
                'there are three ways to it: write reach="proxy" for `fly proxy`, '
                'reach="wireguard" if you have a WireGuard connection to the organization, or '
                'reach="public" for a port that is open to the Internet and demands a certificate'
            )
        if self._apart and self._reach == "proxy":
            find_program()
        try:
            self._connection = await connect(app, place)
            if self._closing is not None:
                raise BackendError("the cluster is closed")
            self._prepare(self._connection)
        except BaseException:
            await self.close()
            if self._connection is not None:
                await self._connection.close()  # it may have been made after a close
            raise

    def _prepare(self, connection: Connection) -> None:
        """Make the parts that need a connection."""
        self._machines = RunnerMachines(
            connection, self._site, self._ownership, self, self._start_death_watch
        )
        if not self._ownership.left:
            self._want()

    def _start_death_watch(self, driver: str = "") -> None:
        assert self._connection is not None
        line = watchdog.first_line(
            self._connection, self._id, grace=self.disconnect_grace, driver=driver
        )
        self._death_watch.start(first_line=line)

    @property
    def _with_options(self) -> list[tuple[RunnerSpec, FlyOptions]]:
        return [(spec, self._options(spec)) for spec in self._expected]

    def _want(self) -> None:
        """Tell the reserve which machines to keep."""
        assert self._machines is not None
        reserve = self._machines.reserve
        reserve.want(self._with_options)
        if reserve.keeps:
            self._start_death_watch()
            # Only in a list does it see that the cluster was stopped while it is idle.
            self._machines.watch.wake()

    # The scheduler

    async def start_scheduler(self, spec: SchedulerSpec, over: Callable[[str], None]) -> str:
        assert self._connection is not None
        assert self._machines is not None
        self._start_death_watch()
        self._save(spec)
        scheduler = self._make_scheduler(over)
        self._machines.watch.wake()
        return await scheduler.start(spec, FlyOptions(**self._first_options(spec)))

    def _make_scheduler(self, over: Callable[[str], None]) -> SchedulerMachine:
        assert self._connection is not None
        assert self._machines is not None
        self._scheduler = SchedulerMachine(
            self._connection, self._site, self._ownership, self._reach, over, self._machines.stop
        )
        self._machines.scheduler = self._scheduler
        return self._scheduler

    def _save(self, spec: SchedulerSpec) -> None:
        """Leave what other processes of this user need to connect; the cluster works without it."""
        assert self._connection is not None
        if spec.connection is None:
            return
        app, reach = self._connection.api.app, self._reach
        saved = SavedConnection(app=app, reach=reach, connection=spec.connection)
        try:
            connection_files.write(self._site.identity.cluster, saved)
        except OSError as error:
            logger.warning(
                "no other process can connect to this cluster: %s cannot be written: %s; set "
                "XDG_STATE_HOME to a folder of yours",
                connection_files.path_of(self._site.identity.cluster),
                error,
            )

    async def join_scheduler(
        self, spec: SchedulerSpec, over: Callable[[str], None], *, driver: str
    ) -> str:
        assert self._machines is not None
        scheduler = self._make_scheduler(over)
        try:
            async with asyncio.timeout(spec.timeout):
                address = scheduler.join(spec, await self._take_over(driver))
        except FlyError as error:
            raise BackendError(f"{self._id} cannot be taken over: {error}") from None
        except TimeoutError:
            raise BackendError(
                f"{self._id} cannot be taken over: Fly did not answer within "
                f"flame.scheduler.timeout={spec.timeout:g} s"
            ) from None
        self._machines.watch.wake()
        return address

    async def _take_over(self, driver: str) -> Machine:
        """Make the machines say that this is the driver, and return the scheduler's."""
        assert self._machines is not None
        assert self._connection is not None
        api, machines = self._connection.api, self._machines
        found = scheduler_of(await machines.watch.list_now())
        if found is None:
            raise BackendError(f"{self._id} cannot be taken over: its scheduler's machine is gone")
        # From the mark on, the process beside the earlier driver removes nothing any more.
        self._start_death_watch(driver)
        await self._ownership.claim(api, found["id"], driver)
        there = await machines.watch.list_now()
        machines.take_over(there, self._with_options)
        return next((one for one in there if one["id"] == found["id"]), found)

    @property
    def _id(self) -> str:
        return self._site.identity.cluster

    def scheduler_connected(self) -> None:
        if not self._ownership.left:
            return
        assert self._machines is not None
        self._ownership.connected()
        self._want()
        self._machines.watch.wake()

    def leave(self) -> None:
        self._ownership.left = True

    async def look_for_successor(self) -> None:
        if self._connection is None or self._scheduler is None:
            return
        try:
            async with asyncio.timeout(_CLOSE_WITHIN):
                found = await self._connection.api.get(self._scheduler.id)
        except (FlyError, TimeoutError) as error:
            if isinstance(error, FlyError) and error.gone:
                return  # a cluster whose scheduler is gone has no other driver
            logger.warning(
                "whether another process has become the driver of %s is not known (%s), so nothing "
                "of it is removed; it ends by itself disconnect_grace after its driver",
                self._id,
                error if str(error) else f"no answer within {_CLOSE_WITHIN:g} s",
            )
            self.leave()
            return
        self._ownership.look_for_successor(found)

    @property
    def _reach(self) -> str:
        """How the driver reaches a scheduler in a machine; empty if nobody has said."""
        if self._site.own.address:
            return "wireguard"  # it is in the same network
        if self._saved is not None:
            return self._saved.reach
        options = [self._options(spec) for spec in self._expected[:1]]
        given = options[0] if options else FlyOptions(**self._configured)
        return getattr(given, "reach", None) or ""

    def _first_options(self, spec: SchedulerSpec) -> dict[str, Any]:
        return {**self._configured, **spec.options}

    async def reach(self, port: int, *, at: int = 0) -> int:
        assert self._scheduler is not None
        return await self._scheduler.reach(port, at)

    @property
    def out_of_reach(self) -> str:
        return self._scheduler.out_of_reach if self._scheduler is not None else ""

    # Requests of the cluster

    async def boot(self, specs: Sequence[RunnerSpec]) -> None:
        if self._machines is None:
            raise BackendError("the cluster has not started")
        if self._closing is not None:
            raise BackendError("the cluster is closed")
        self.check_new(specs, self._machines.runners)
        for spec, options in [(spec, self._options(spec)) for spec in specs]:
            self._machines.make(spec, options)

    async def end(self, names: Collection[str], *, grace: float = 0) -> None:
        if self._machines is None:
            return
        runners = self._machines.runners
        there = [(n, r) for n in names if (r := runners.get(n)) is not None]
        for _, runner in there:
            runner.ending = runner.creation.given_up = True
        try:
            await asyncio.gather(*(self._machines.end(n, r, grace) for n, r in there))
        except FlyError as error:
            raise BackendError(f"not all machines could be ended: {error}") from None

    async def list(self) -> set[str]:
        if self._machines is None:
            return set()
        try:
            return await self._machines.list_names()
        except FlyError as error:
            raise BackendError(f"the machines cannot be listed: {error}") from None

    async def logs(self, names: Collection[str]) -> Mapping[str, str]:
        if self._machines is None:
            return {}
        output = self._machines.output
        await asyncio.gather(*map(output.fetch, names))
        return {name: text for name in names if (text := output.of(name))}

    async def close(self) -> None:
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    def manifest(self, spec: RunnerSpec) -> Sequence[Mapping[str, Any]]:
        return [
            machine_requests.shown(
                machine_requests.runner(spec, self._options(spec), self._site), spec
            )
        ]

    @classmethod
    def inspector(cls, **where: str) -> Inspector:
        from dask_flame.backends.fly.inspector import FlyInspector
        from dask_flame.backends.inspector import check_where

        check_where(where, own=("app",), write="; on Fly write --app")
        return FlyInspector(**where)

    def forked(self) -> None:
        self._death_watch.forked()

    # The end

    async def _close(self) -> None:
        if self._machines is not None:
            await self._close_machines(self._machines)
        if self._connection is not None:
            await self._connection.close()

    async def _close_machines(self, machines: RunnerMachines) -> None:
        within = _CLOSE_WITHIN + _CLOSE_EACH * len(machines.runners)
        had_any = bool(machines.runners) or machines.reserve.keeps or machines.lost_any
        had_any = had_any or self._scheduler is not None
        await machines.reserve.close()
        if self._ownership.left:
            await self._leave_machines(machines)
            return
        failed = await _within_limit(self._end_all(), within)
        unsure = await machines.close_making()
        if self._death_watch.started:
            assert self._connection is not None
            cluster = self._site.identity.cluster
            failed = await _within_limit(remove_cluster(self._connection.api, cluster), within)
        await machines.close()
        if failed:
            logger.warning(
                "not all machines of %s could be removed (%s); those that run end by themselves, "
                "and a process of this computer tries to remove the rest for some minutes",
                self._site.identity.cluster,
                failed,
            )
        if not (failed or unsure):
            connection_files.remove(self._id)
        await self._death_watch.close(
            all_gone=not (failed or unsure), none_known=not (failed and had_any)
        )

    async def _leave_machines(self, machines: RunnerMachines) -> None:
        """End what this process does with the machines of another driver."""
        if self._scheduler is not None:
            await self._scheduler.close(leave=True)
        await machines.close_making()
        await machines.close()
        # If this process could not connect, and the machines say that it is the driver, the process
        # beside it removes what is left after the grace, unless another one takes over.
        gone = not self._ownership.claimed or self._ownership.was_driver
        await self._death_watch.close(all_gone=gone, none_known=gone)

    async def _end_all(self) -> None:
        if self._scheduler is not None:
            await self._scheduler.close()
        assert self._machines is not None
        await self.end([*self._machines.runners])


async def _within_limit(work: Coroutine[Any, Any, None], within: float) -> str:
    """Do a step of closing; return why it was not completed."""
    try:
        async with asyncio.timeout(within):
            await work
    except (BackendError, FlyError) as error:
        return str(error)
    except TimeoutError:
        return f"not within {within:g} s"
    return ""
