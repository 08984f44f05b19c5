"""Inspect and end the clusters of an app, by the metadata of their machines (command line)."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from types import TracebackType

from dask_flame.backends.fly import connection_files
from dask_flame.backends.fly.api.client import FlyApi, metadata_of
from dask_flame.backends.fly.api.errors import FlyError
from dask_flame.backends.fly.api.types import Machine
from dask_flame.backends.fly.connection import Connection, connect
from dask_flame.backends.fly.listing import listing, name_of
from dask_flame.backends.fly.machine_state import is_gone
from dask_flame.backends.fly.machine_watch import QUIET
from dask_flame.backends.fly.metadata import (
    CLUSTER,
    COMPONENT,
    SCHEDULER,
    STOPPED,
    began,
    computer,
)
from dask_flame.backends.fly.options import FlyOptions, check_app
from dask_flame.backends.fly.orphans import Observer, alive, time_of, why_orphan
from dask_flame.backends.fly.own_machine import own_machine
from dask_flame.backends.fly.present_driver import present, scheduler_of, taken_over_at
from dask_flame.backends.fly.proxy import FlyProxy
from dask_flame.backends.fly.removal import destroy
from dask_flame.backends.fly.scheduler_machine import client_address, private_name
from dask_flame.backends.inspector import (
    ClusterListing,
    Entrance,
    Inspector,
    Orphan,
    lasting_orphans,
    stop_outcome,
)
from dask_flame.core.redaction import hide
from dask_flame.errors import BackendError, PoolError

#: Seconds for machines that have lost their drivers to end by themselves.
_BY_ITSELF = 5.0
_END_WITHIN = 60.0
_PAUSE = 1.0
#: Seconds after which a driver has listed its machines again, and so was told.
_NOTICE = QUIET + 2.0
#: Pages of output that are read of a machine.
_PAGES = 1000

Clusters = dict[str, list[Machine]]


class FlyInspector(Inspector):
    """The clusters whose machines are in one app, of all its users.

    A cluster without machines is not seen: one that is idle, has no reserve, and whose scheduler is
    in its driver.

    Parameters
    ----------
    app : str, optional
        By default that of Dask's configuration, or of the machine that this process is in.
    """

    def __init__(self, *, app: str | None = None) -> None:
        super().__init__()
        self._app = _checked(app) if app else ""
        self._connection: Connection
        self._api: FlyApi

    async def __aenter__(self) -> FlyInspector:
        app = self._app or FlyOptions.configured().given.get("app") or ""
        self._connection = await connect(app, own_machine(), write="--app my-runners")
        self._api = self._connection.api
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._connection.close()
        if isinstance(error, FlyError):
            raise BackendError(f"the Machines API cannot be used: {error}") from None

    async def clusters(self) -> list[ClusterListing]:
        everything, observer = await self._find()
        found = []
        for id, machines in everything.items():
            lives = self._lives(machines, observer)
            orphaned = [m for m in machines if self._why(m, lives)]
            found.append(listing(id, machines, orphaned, lives))
        connection_files.remove_old(self._api.app, everything)
        return sorted(found, key=lambda c: (c.started or 0, c.id))

    async def logs(self, cluster: ClusterListing, *, lines: int) -> Mapping[str, str]:
        machines = await self._api.list_machines({CLUSTER: cluster.id})
        ids = {name_of(machine): machine["id"] for machine in machines}

        async def read(runner: str) -> str:
            try:
                return await self._read(ids[runner], lines)
            except KeyError:
                self.notes.append(f"{runner} shows nothing: its machine is gone")
            except FlyError as error:
                self.notes.append(f"{runner} shows nothing: {error}")
            return ""

        runners = [runner.name for runner in cluster.runners]
        return dict(zip(runners, await asyncio.gather(*map(read, runners)), strict=True))

    async def stop(self, cluster: ClusterListing, *, within: float) -> str:
        machines = await self._of(cluster.id)
        told = False
        if cluster.state != "orphaned":
            told = await self._tell(machines)
            if told:
                await self._until_noticed(cluster.id)
        left = await self._destroy_all(cluster.id, within)
        if left:
            names = ", ".join(f"machine {machine['id']}" for machine in left)
            raise BackendError(f"not all of {cluster.id} is gone after {within:g} s: {names}")
        return stop_outcome(cluster, told=told)

    async def enter(self, cluster: ClusterListing) -> Entrance:
        saved = connection_files.read(cluster.id)
        if saved is None:
            raise BackendError(_no_entrance(cluster))
        hide(saved.connection.secrets)
        found = scheduler_of(await self._of(cluster.id))
        if found is None:
            raise BackendError(f"{cluster.id} has no scheduler any more: it is about to end")
        reach = "wireguard" if own_machine().address else saved.reach
        connection = saved.connection
        address = client_address(self._api.app, found, cluster.id, connection.port, reach)
        if address:
            return Entrance(address=f"tls://{address}", connection=connection, close=_nothing)
        host = private_name(self._api.app, found["id"])
        proxy = FlyProxy(self._connection, host, connection.port)
        port = await proxy.start()
        return Entrance(address=f"tls://127.0.0.1:{port}", connection=connection, close=proxy.close)

    async def orphans(self) -> list[Orphan]:
        # A runner ends by itself when it has lost its scheduler.
        return await lasting_orphans(self._orphans, within=_BY_ITSELF, pause=_PAUSE)

    async def end(self, orphans: Sequence[Orphan]) -> list[Orphan]:
        wanted = {orphan.key for orphan in orphans}
        # The caller may have taken a while to decide: look again.
        now = [orphan for orphan in await self._orphans() if orphan.key in wanted]
        left = await self._destroy([str(orphan.key[0]) for orphan in now], _END_WITHIN)
        return [orphan for orphan in now if orphan.key[0] in left]

    # Queries

    async def _find(self) -> tuple[Clusters, Observer]:
        """Return the machines of all clusters, and what can be known of their drivers."""
        found: Clusters = defaultdict(list)
        machines = await self._api.list_machines({})
        for machine in machines:
            if id := metadata_of(machine).get(CLUSTER):
                found[id].append(machine)
        return found, Observer(computer(), began, {m["id"]: m for m in machines})

    async def _of(self, cluster: str) -> list[Machine]:
        found = await self._api.list_machines({CLUSTER: cluster})
        return [machine for machine in found if not is_gone(machine)]

    async def _orphans(self) -> list[Orphan]:
        everything, observer = await self._find()
        found = []
        for id, machines in everything.items():
            lives = self._lives(machines, observer)
            for machine in machines:
                if why := self._why(machine, lives):
                    what = f"machine {machine['id']} ({machine.get('name')})"
                    # Its version is part of the key: a driver that changes it is alive.
                    key = (machine["id"], machine.get("instance_id"))
                    found.append(Orphan(what=what, cluster=id, why=why, key=key))
        return found

    def _lives(self, machines: Sequence[Machine], observer: Observer) -> bool | None:
        """Return whether the driver of a cluster lives; None if that is not known.

        It is not if a scheduler's machine runs, which outlives its driver by the grace: another
        process may take over.
        """
        created = min(time_of(machine, "created_at") for machine in machines)
        since = max(created, taken_over_at(machines))
        lives = observer.driver_lives(present(machines), since)
        if lives is False and scheduler_of(machines) is not None:
            return None
        if lives is None and alive(machines, time.time()):
            return True
        return lives

    def _why(self, machine: Machine, lives: bool | None) -> str:
        return why_orphan(machine, lives, self._api.now, time.time())

    async def _read(self, id: str, lines: int) -> str:
        """Return the last lines that a machine has printed, as ``fly logs`` shows them."""
        kept: list[str] = []
        after = ""
        for _ in range(_PAGES):
            page, token = await self._api.logs(id, after)
            kept += [str(line.get("message", "")).rstrip("\n") for line in page]
            del kept[:-lines]
            if not page or not token or token == after:
                break
            after = token
        return "\n".join(kept)

    # Actions

    async def _tell(self, machines: Sequence[Machine]) -> bool:
        """Notify a cluster's driver by the metadata of its machines; return whether it worked."""
        # The machine of a scheduler lives as long as the cluster.
        machines = sorted(machines, key=lambda m: metadata_of(m).get(COMPONENT) != SCHEDULER)
        for machine in machines:
            try:
                await self._api.set_metadata(machine["id"], STOPPED, "dask flame stop")
            except FlyError as error:
                if not (error.gone or error.conflict):
                    raise
                continue
            return True
        return False

    async def _until_noticed(self, cluster: str) -> None:
        """Give a driver the time to list its machines again; it ends them then."""
        factor = self._connection.factor
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_NOTICE / factor):
                while await self._of(cluster):  # noqa: ASYNC110 - nothing tells of it
                    await asyncio.sleep(_PAUSE / factor)

    async def _destroy_all(self, cluster: str, within: float) -> list[Machine]:
        """Destroy all machines of a cluster; return those that are left."""
        deadline = time.monotonic() + within
        while machines := await self._of(cluster):
            await self._destroy([m["id"] for m in machines], deadline - time.monotonic())
            if time.monotonic() >= deadline:
                return await self._of(cluster)
        return []

    async def _destroy(self, ids: Sequence[str], within: float) -> set[str]:
        """Destroy machines and verify that they are gone; return the ids of those that are left."""

        async def one(id: str) -> bool:
            try:
                async with asyncio.timeout(max(0.0, within)):
                    await destroy(self._api, id)
            except TimeoutError:
                return False
            except FlyError as error:
                self.notes.append(f"machine {id} cannot be destroyed: {error}")
                return False
            return True

        gone = await asyncio.gather(*map(one, ids))
        return {id for id, ended in zip(ids, gone, strict=True) if not ended}


def _no_entrance(cluster: ClusterListing) -> str:
    return (
        f"this process cannot connect to {cluster.id}: there is no file "
        f"{connection_files.path_of(cluster.id)}. Its driver, {cluster.driver}, leaves that for "
        "the same user on the same machine, if the scheduler is in a machine of Fly; call "
        'connect() there. With the scheduler in the driver, write FlameCluster(scheduler="pod")'
    )


async def _nothing() -> None:
    """Close nothing."""


def _checked(app: str) -> str:
    try:
        return check_app("app", app)
    except PoolError:
        raise BackendError(
            f"--app {app!r} is not the name of an app: lower-case letters, digits and -; write "
            "--app my-runners"
        ) from None
