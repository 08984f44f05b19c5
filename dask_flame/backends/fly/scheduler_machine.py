"""The machine of a remote scheduler: create it, watch it and reach it (driver)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping

from dask_flame.backends.fly import machine_requests
from dask_flame.backends.fly.api.errors import FlyError
from dask_flame.backends.fly.api.types import Machine
from dask_flame.backends.fly.connection import Connection
from dask_flame.backends.fly.machine_requests import Site
from dask_flame.backends.fly.machine_state import GONE, has_ended, why_ended
from dask_flame.backends.fly.metadata import CLUSTER, COMPONENT, SCHEDULER
from dask_flame.backends.fly.options import FlyOptions
from dask_flame.backends.fly.output import MachineOutput
from dask_flame.backends.fly.own_machine import bracketed
from dask_flame.backends.fly.ownership import Ownership
from dask_flame.backends.fly.proxy import FlyProxy
from dask_flame.backends.fly.removal import destroy
from dask_flame.backends.specs import SchedulerSpec
from dask_flame.errors import PRINTED, BackendError

logger = logging.getLogger("dask_flame")

_NAME = "scheduler"
#: Seconds between two looks at a machine that starts, beside the answer of `wait`.
_AGAIN = 1.0
_DELETED = "the scheduler's machine was destroyed by somebody else"


class SchedulerMachine:
    """The machine of a scheduler.

    Parameters
    ----------
    connection : Connection
    site : Site
    ownership : Ownership
    reach : {"proxy", "wireguard", "public"}
    over : callable
        Called with the reason when the machine has ended, unless :meth:`close` was called before.
    stopped : callable
        Called before `over`, if someone else has destroyed the machine.

    Attributes
    ----------
    starting : bool
    """

    def __init__(
        self,
        connection: Connection,
        site: Site,
        ownership: Ownership,
        reach: str,
        over: Callable[[str], None],
        stopped: Callable[[str], None],
    ) -> None:
        self._connection = connection
        self._api = connection.api
        self._site = site
        self._ownership = ownership
        self._reach = reach
        self._over = over
        self._stopped = stopped
        self._output = MachineOutput(self._api)
        self._id = ""
        self._proxies: list[FlyProxy] = []
        self._burying: asyncio.Task[None] | None = None
        self._closed = False
        self.starting = True

    async def start(self, spec: SchedulerSpec, options: FlyOptions) -> str:
        """Create the machine; return once its process has started.

        Returns
        -------
        str
            Host and port for Clients; empty if they connect through :meth:`reach`.

        Raises
        ------
        BackendError
        """
        public = self._reach == "public"
        body = machine_requests.scheduler(spec, options, self._site, public=public)
        same = {CLUSTER: self._site.identity.cluster, COMPONENT: SCHEDULER}
        try:
            async with asyncio.timeout(spec.timeout):
                made = await self._api.create(
                    body,
                    same,
                    waits=lambda error: logger.warning(
                        "the scheduler's machine is held up by %s", error
                    ),
                )
                self._id = made["id"]
                self._output.runs_in(_NAME, self._id)
                found = await self._started(made)
        except FlyError as error:
            was = "was refused" if error.status else "could not be asked for"
            raise BackendError(f"the scheduler's machine {was}: {error}") from None
        except TimeoutError:
            raise BackendError(
                "the scheduler's machine did not start within flame.scheduler.timeout="
                f"{spec.timeout:g} s"
            ) from None
        self.starting = False
        return self._address(found, spec)

    def join(self, spec: SchedulerSpec, found: Machine) -> str:
        """Use the machine that an earlier driver has created; see :meth:`start`."""
        self._id = found["id"]
        self._output.runs_in(_NAME, self._id)
        self.starting = False
        return self._address(found, spec)

    def _address(self, found: Machine, spec: SchedulerSpec) -> str:
        cluster = self._site.identity.cluster
        return client_address(self._api.app, found, cluster, spec.port, self._reach)

    @property
    def id(self) -> str:
        """The machine's id; empty if there is none yet."""
        return self._id

    async def _started(self, made: Machine) -> Machine:
        """Return the machine once its process has started.

        Raises
        ------
        BackendError
            If it has ended.
        """
        while True:
            found = await self._api.get(self._id)
            if found.get("state") == "started":
                return found
            if has_ended(found) or found.get("state") in GONE:
                why = why_ended(found)
                if printed := (await self._output.last_words(_NAME)).strip():
                    why += PRINTED + printed
                raise BackendError(f"the scheduler's machine could not start: {why}")
            instance = found.get("instance_id") or made.get("instance_id", "")
            with contextlib.suppress(FlyError):
                await self._api.wait(self._id, "started", timeout=30, instance=instance)
                continue
            await asyncio.sleep(_AGAIN)

    async def reach(self, port: int, at: int) -> int:
        """See :meth:`dask_flame.backends.Backend.reach`."""
        proxy = FlyProxy(self._connection, private_name(self._api.app, self._id), port)
        self._proxies.append(proxy)
        return await proxy.start(at)

    @property
    def out_of_reach(self) -> str:
        """See :attr:`dask_flame.backends.Backend.out_of_reach`."""
        return next((proxy.trouble for proxy in self._proxies if proxy.trouble), "")

    def seen(self, machines: Mapping[str, Machine]) -> None:
        """Look at a list of the cluster's machines that began after the machine had started."""
        if self.starting or self._closed or self._burying is not None:
            return
        found = machines.get(self._id)
        if found is None or has_ended(found) or found.get("state") in GONE:
            self._burying = asyncio.create_task(self._bury())

    async def _bury(self) -> None:
        """Report why the machine has ended, with its last output."""
        found: Machine | None = None
        try:
            found = await self._api.get(self._id)
        except FlyError as error:
            if not error.gone:
                self._burying = None  # not known: the next list leads here again
                return
        if found is not None and not has_ended(found) and found.get("state") not in GONE:
            self._burying = None  # the list was behind
            return
        why = why_ended(found)
        if found is None or not has_ended(found):
            why = _DELETED
            self._stopped(_DELETED)
        if printed := (await self._output.last_words(_NAME)).strip():
            why += PRINTED + printed
        if not self._ownership.left:
            with contextlib.suppress(FlyError):
                await destroy(self._api, self._id)
        self._over(why)

    async def close(self, *, leave: bool = False) -> None:
        """End all connections, and the machine, unless it is left to another driver.

        Raises
        ------
        FlyError
            If it cannot be ended now.
        """
        self._closed = True
        for proxy in self._proxies:
            await proxy.close()
        if self._burying is not None:
            self._burying.cancel()
            await asyncio.gather(self._burying, return_exceptions=True)
        if self._id and not leave:
            await destroy(self._api, self._id)


def private_name(app: str, id: str) -> str:
    """Return the name of a machine in the private network of its organization."""
    return f"{id}.vm.{app}.internal"


def client_address(app: str, found: Machine, cluster: str, port: int, reach: str) -> str:
    """Return host and port of a scheduler for Clients; empty if they connect through a proxy.

    Parameters
    ----------
    app : str
    found : Machine
        The scheduler's machine, which runs.
    cluster : str
        The cluster's id.
    port : int
        The scheduler's port in its machine.
    reach : {"proxy", "wireguard", "public"}
    """
    if reach == "public":
        host = FlyOptions.setting("public-address") or f"{app}.fly.dev"
        return f"{bracketed(host)}:{machine_requests.public_port(cluster)}"
    if reach == "wireguard":
        return f"{bracketed(found.get('private_ip', ''))}:{port}"
    return ""
