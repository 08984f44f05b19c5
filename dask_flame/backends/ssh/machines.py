"""The hosts of a cluster: connected, away, and connected again (driver)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from dask_flame.backends.ssh.connection import HostError
from dask_flame.backends.ssh.hosts import HostSpec
from dask_flame.backends.ssh.machine import Heard, Machine
from dask_flame.backends.ssh.reach import ANY, why_not_direct
from dask_flame.backends.ssh.relay import Relay
from dask_flame.backends.ssh.routes import DRIVER
from dask_flame.core.background_tasks import BackgroundTasks
from dask_flame.core.backoff import Backoff

#: Seconds between two attempts to connect to a host that is away: the first, and at most.
_AGAIN, _AGAIN_AT_MOST = 1.0, 60.0
#: Connections that are opened at a time: sshd refuses more than ten that have not logged in yet, as
#: those of many hosts at the sshd of their jump host.
_AT_ONCE = 8


class Machines:
    """The hosts of a cluster.

    Parameters
    ----------
    mark : str
        Prefix of the marks of the cluster's processes.
    heard : callable
        See :class:`dask_flame.backends.ssh.machine.Machine`.
    lost : callable
        Called with a machine and the reason when it can no longer be used.
    back : callable
        Called when a host has connected again.
    trouble : callable
        Called with a reason why hosts are away; empty when none is.
    """

    def __init__(
        self,
        mark: str,
        heard: Heard,
        lost: Callable[[Machine, str], None],
        back: Callable[[], None],
        trouble: Callable[[str], None],
    ) -> None:
        self.connected: dict[HostSpec, Machine] = {}
        self.away: dict[HostSpec, str] = {}
        self.relay = Relay()
        self.first: Mapping[str, Any] | None = None
        self.forwards = True
        #: Where the scheduler listens, if hosts connect to it directly.
        self.own = DRIVER
        self._mark = mark
        self._heard = heard
        self._lost_one = lost
        self._back = back
        self._trouble = trouble
        self._pythons: dict[HostSpec, str | None] = {}
        self._trying: dict[HostSpec, asyncio.Task[None]] = {}
        self._burying = BackgroundTasks()
        self._connecting: set[asyncio.Task[None]] = set()
        self._direct: list[Machine] = []  # those that connect to each other
        self._trial = asyncio.Lock()
        self._closed = False

    # Start

    async def want(self, hosts: Mapping[HostSpec, str | None]) -> None:
        """Connect these hosts, with the interpreter of each; return when each has answered."""
        new = [host for host in hosts if host not in self._pythons]
        self._pythons.update({host: hosts[host] for host in new})
        limit = asyncio.Semaphore(_AT_ONCE)

        async def connect(host: HostSpec) -> None:
            async with limit:
                await self._try(host)

        tasks = [asyncio.ensure_future(connect(host)) for host in new]
        self._connecting.update(tasks)
        for done in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(done, Exception):
                raise done  # not that it was cancelled, which `close` does
        self._connecting.difference_update(tasks)

    async def why_not_direct(self) -> str:
        """Return why runners and the driver cannot connect to each other; empty if they can.

        Then hosts that connect later are used only if they can, too.
        """
        machines = list(self.connected.values())
        why = await why_not_direct(machines)
        self._direct = [] if why else machines
        return why

    async def begin(self) -> None:
        """Start the supervisors of the hosts that are connected, once it is known how to reach."""
        new = [machine for machine in self.connected.values() if not machine.begun]
        await asyncio.gather(*map(self._begin, new))
        if self.connected:
            for host in self.away:
                self._try_again(host)
            self._tell()

    async def _try(self, host: HostSpec) -> bool:
        """Connect a host; return whether that succeeded."""
        machine = Machine(host, self._pythons[host], self._mark, self._heard, self._lost)
        try:
            await machine.start()
        except HostError as error:
            self.away[host] = str(error)
            return False
        if self._closed:
            await machine.close()
            return False
        self.away.pop(host, None)
        self.connected[host] = machine
        return True

    async def _begin(self, machine: Machine) -> None:
        try:
            await self._begun(machine)
        except HostError as error:
            self.connected.pop(machine.host, None)
            self.away[machine.host] = str(error)

    async def _begun(self, machine: Machine) -> None:
        """Start the supervisor of a host.

        Raises
        ------
        HostError
        """
        if not self.forwards and machine not in self._direct:
            try:
                async with self._trial:
                    await self._join(machine)
            except BaseException:
                await machine.close()
                raise
        await machine.begin(self.relay if self.forwards else None, self.first)

    async def _join(self, machine: Machine) -> None:
        """Find out whether a host that has connected later can connect to all others."""
        self._direct = [other for other in self._direct if not other.over]
        own = machine.peer[0]
        if self.own not in (own, ANY):
            why = f"it reaches the driver at {own}, where the scheduler does not listen"
        else:
            why = await why_not_direct([machine], self._direct)
        if why:
            raise HostError(
                f"this cluster connects its hosts directly, and {why}; let it through the "
                'firewall, or write reach="forward" for the next cluster'
            )
        self._direct.append(machine)

    # Away

    def _lost(self, machine: Machine, why: str) -> None:
        if self.connected.get(machine.host) is machine:
            del self.connected[machine.host]
            self.away[machine.host] = why
            if not self._closed:
                self._try_again(machine.host)
        self._burying.start(machine.close())
        self._lost_one(machine, why)
        self._tell()

    def _try_again(self, host: HostSpec) -> None:
        if host not in self._trying:
            task = self._trying[host] = asyncio.ensure_future(self._until_back(host))
            task.add_done_callback(lambda _: self._trying.pop(host, None))

    async def _until_back(self, host: HostSpec) -> None:
        backoff = Backoff(_AGAIN, _AGAIN_AT_MOST)
        while not self._closed:
            await asyncio.sleep(backoff.next_with_jitter())
            if await self._try(host):
                machine = self.connected.pop(host)
                try:
                    await self._begun(machine)
                except HostError as error:
                    self.away[host] = str(error)
                    self._tell()  # it may be another reason than before
                    continue
                self.connected[host] = machine
                self._tell()
                self._back()
                return

    def _tell(self) -> None:
        """Report which hosts are away, and why."""
        if not self._closed:
            self._trouble(self.why_away)

    @property
    def why_away(self) -> str:
        """Which hosts are away, and why; empty if none is."""
        return "; ".join(f"{host.name}: {why}" for host, why in self.away.items())

    # The end

    async def close(self) -> None:
        """End all agents with their runners, and all connections."""
        self._closed = True
        trying = [*self._trying.values(), *self._connecting]
        for task in trying:
            task.cancel()
        await asyncio.gather(*trying, return_exceptions=True)
        await asyncio.gather(*(machine.close() for machine in self.connected.values()))
        await asyncio.gather(*self._burying, return_exceptions=True)
        await self.relay.close()
