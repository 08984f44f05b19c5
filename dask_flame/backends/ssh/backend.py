"""The SSH backend: runners on machines that answer to ssh, through one connection each (driver)."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from distributed.comm.addressing import unparse_host_port

from dask_flame.backends.base import Backend
from dask_flame.backends.specs import BackendContext, Ended, MostRunners, RunnerSpec
from dask_flame.backends.ssh import comm
from dask_flame.backends.ssh.hosts import HostSpec
from dask_flame.backends.ssh.launch import Kinds, launch_config, need, shown
from dask_flame.backends.ssh.machine import Machine
from dask_flame.backends.ssh.machines import Machines
from dask_flame.backends.ssh.options import SshOptions
from dask_flame.backends.ssh.output import Output
from dask_flame.backends.ssh.placement import choose, most, why_full, why_never
from dask_flame.backends.ssh.reach import own_address
from dask_flame.backends.ssh.routes import DRIVER
from dask_flame.core.backend_options import BackendOptions
from dask_flame.core.background_tasks import BackgroundTasks, cancel_all
from dask_flame.errors import BackendError

if TYPE_CHECKING:
    from dask_flame.backends.inspector import Inspector

logger = logging.getLogger("dask_flame")

#: Seconds between two looks at what others have taken, while runners wait for room.
_LOOK_EVERY = 2.0
_CLOSED = "the cluster was closed"
#: How much of a host is taken, in a reason; a change of the number alone is no news.
_COUNT = re.compile(r"\b[\d.]+ of [\d.]+ ")


@dataclass
class _Runner:
    """A runner that was accepted and has not ended."""

    spec: RunnerSpec
    asked: float
    machine: Machine | None = None  # None while it waits for room
    ending: bool = False
    queued: bool = False  # it waits for room
    said: str = ""  # why it waits
    gone: asyncio.Event = field(default_factory=asyncio.Event)


class SshBackend(Backend):
    """Run runners on machines that answer to ssh.

    Notes
    -----
    On each host a small process, :mod:`dask_flame.backends.ssh.agent`, is started through the
    connection, and ends with it: when the driver closes the cluster or is killed, when the session
    of sshd ends, and when the driver has been silent for ``flame.ssh.silence``. With it end all
    runners of the host, and what they have started.
    """

    name: ClassVar[str] = "ssh"
    Options: ClassVar[type[BackendOptions]] = SshOptions
    remote: ClassVar[bool] = True

    def __init__(self, context: BackendContext) -> None:
        super().__init__(context)
        # As configured now: `dask.config.set` may be a block that ends before a boot.
        self._configured = SshOptions.configured().given
        # Clusters may have the same name; the random part keeps their processes apart.
        self._mark = f"{context.cluster}-{secrets.token_hex(4)}"
        self._machines = Machines(
            self._mark, self._heard, self._lost, self._hosts_changed, self._hosts_trouble
        )
        self._kinds = Kinds()
        self._kind_of: dict[str, str] = {}  # by pool
        self._output = Output()
        self._runners: dict[str, _Runner] = {}
        self._expected: list[RunnerSpec] = []
        self._looking: asyncio.Task[None] | None = None
        self._connecting = BackgroundTasks()
        self._started = False
        self._closing: asyncio.Task[None] | None = None
        self._why_stopped = ""
        self._said = ""

    # Start

    @property
    def listening(self) -> dict[str, Any]:
        if self._machines.forwards:
            return {"host": DRIVER, "protocol": comm.SCHEME}
        return {"host": self._machines.own}

    def expect(self, specs: Sequence[RunnerSpec]) -> None:
        for spec in specs:
            self._hosts(spec)
        if len({self._options(spec).reach for spec in specs}) > 1:
            raise BackendError(
                "the pools name different values of reach=, and a cluster has one way: write the "
                'same in each, or dask.config.set({"flame.ssh.reach": "forward"})'
            )
        self._expected = list(specs)
        for spec in specs:
            waiting = (r for r in self._runners.values() if r.spec.pool == spec.pool)
            for runner in waiting:
                object.__setattr__(runner.spec, "capacity_wait", spec.capacity_wait)
        if self._started:
            self._machines.first = self._kinds.of(specs[0])
            self._connect_more()

    def _options(self, spec: RunnerSpec) -> SshOptions:
        return SshOptions(**{**self._configured, **spec.options})

    def _hosts(self, spec: RunnerSpec) -> tuple[HostSpec, ...]:
        """Return the hosts of a runner's pool.

        Raises
        ------
        BackendError
            There are none.
        """
        hosts = self._options(spec).hosts
        if not hosts:
            raise BackendError(
                'backend="ssh" needs hosts: write hosts=["gpu1", "ada@gpu2:2222"], '
                'hosts="~/.ssh/config" for all of your configuration of ssh, or '
                'dask.config.set({"flame.ssh.hosts": ["gpu1"]})'
            )
        return hosts

    def _wanted(self) -> dict[HostSpec, str | None]:
        """Return all hosts, each with the interpreter of the first pool that names it."""
        wanted: dict[HostSpec, str | None] = {}
        for spec in self._expected:
            for host in self._hosts(spec):
                wanted.setdefault(host, self._options(spec).python)
        return wanted

    async def start(self) -> None:
        if self._closing is not None:
            raise BackendError("the cluster is closed")
        if not self._expected:
            # Only the suite of the conformance starts a backend that expects nothing.
            self._expected = [RunnerSpec(name="", scheduler="", concurrency=1, boot_timeout=60)]
        wanted = self._wanted()
        machines = self._machines
        machines.first = self._kinds.of(self._expected[0])
        try:
            await machines.want(wanted)
            self._check_open()
            machines.forwards = await self._must_forward()
            if not machines.forwards:
                machines.own = own_address(machines.connected.values())
            await machines.begin()
            self._check_open()
        except BaseException:
            await self.close()
            raise
        if not machines.connected:
            why = machines.why_away
            await self.close()
            raise BackendError(f"no host can be used: {why}")
        self._started = True

    async def _must_forward(self) -> bool:
        """Return whether runners are reached through the connections of ssh.

        Raises
        ------
        BackendError
            The user wants direct connections, and they are not possible.
        """
        reach = self._options(self._expected[0]).reach or "auto"
        if reach == "forward" or not self._machines.connected:
            return True
        why = await self._machines.why_not_direct()
        if why and reach == "direct":
            raise BackendError(f'reach="direct" is not possible: {why}; write reach="forward"')
        logger.debug("reach: %s", why or "direct")
        return bool(why)

    def _check_open(self) -> None:
        if self._closing is not None:
            raise BackendError("the cluster is closed")

    def _connect_more(self) -> None:
        """Connect hosts that a changed pool names."""

        async def connect() -> None:
            await self._machines.want(self._wanted())
            await self._machines.begin()
            self._hosts_changed()

        self._connecting.start(connect())

    def most_runners(self, spec: RunnerSpec) -> MostRunners:
        machines, hosts = self._machines, self._hosts(spec)
        away = [host.name for host in hosts if host not in machines.connected]
        return most(spec, self._places(spec), away)

    # Requests of the cluster

    async def boot(self, specs: Sequence[RunnerSpec]) -> None:
        if self._why_stopped:
            raise BackendError(self._why_stopped)
        if self._closing is not None:
            raise BackendError("the cluster is closed")
        self.check_new(specs, self._runners)
        now = time.monotonic()
        for spec in specs:
            self._runners[spec.name] = _Runner(spec, now)
        self._place_all()

    async def end(self, names: Collection[str], *, grace: float = 0) -> None:
        there = [runner for name in names if (runner := self._runners.get(name)) is not None]
        for runner in there:
            runner.ending = True
            if runner.machine is None:
                self._over(runner.spec.name, "its boot was given up")
            else:
                runner.machine.send(op="end", name=runner.spec.name, grace=grace)
        await asyncio.gather(*(runner.gone.wait() for runner in there))

    async def list(self) -> set[str]:
        return set(self._runners)

    async def logs(self, names: Collection[str]) -> Mapping[str, str]:
        return self._output.of(names)

    async def close(self) -> None:
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        await cancel_all([*self._connecting, self._looking])
        await self._machines.close()
        for name in [*self._runners]:
            self._over(name, _CLOSED)

    def manifest(self, spec: RunnerSpec) -> Sequence[Mapping[str, Any]]:
        return [shown(spec, [host.name for host in self._hosts(spec)])]

    @classmethod
    def inspector(cls, **where: str) -> Inspector:
        from dask_flame.backends.ssh.inspector import SshInspector

        return SshInspector.of(**where)

    # Placement

    def _place_all(self) -> None:
        """Give hosts to the runners that have none."""
        if self._closing is not None:
            return
        for runner in [r for r in self._runners.values() if r.machine is None]:
            self._place(runner)
        waits = any(runner.machine is None for runner in self._runners.values())
        if waits and (self._looking is None or self._looking.done()):
            self._looking = asyncio.ensure_future(self._look())

    def _places(self, spec: RunnerSpec) -> Sequence[Machine]:
        """Return the hosts of a runner's pool that are connected."""
        there = self._machines.connected
        return [there[host] for host in self._hosts(spec) if host in there]

    def _place(self, runner: _Runner) -> None:
        spec = runner.spec
        hosts, places = self._hosts(spec), self._places(spec)
        machine = choose(spec, places, keep_gpus=any(other.gpus for other in self._expected))
        if isinstance(machine, Machine):
            self._boot_at(runner, machine)
            return
        away = "; ".join(f"{h.name}: {w}" for h, w in self._machines.away.items() if h in hosts)
        if not away and (never := why_never(spec, places)):
            why = f"no host is large enough: {never}; relevant settings: hosts, cpus, gpus, memory"
            self._over(spec.name, why, final=True)
            return
        full = why_full(spec, places)
        why = "; ".join(filter(None, (full and f"all hosts are full: {full}", away)))
        waited = time.monotonic() - runner.asked
        if spec.capacity_wait is not None and waited >= spec.capacity_wait:
            self._over(spec.name, f"{why}; relevant settings: hosts", no_capacity=True)
        elif full and self._has_others(spec):
            self._over(spec.name, why, no_room=True)
        else:
            # What others have taken is given back one day; a host that is away may never return.
            self._queue(runner, waits=bool(places) and not why_never(spec, places))
            if (said := _COUNT.sub("", why)) != runner.said:
                runner.said = said
                self.trouble(spec.name, f"it waits: {why}")

    def _queue(self, runner: _Runner, *, waits: bool) -> None:
        """Say that a runner waits its turn, which takes none of its ``boot_timeout``, or not."""
        if waits == runner.queued:
            return
        runner.queued = waits
        name = runner.spec.name
        (self.queued if waits else self.started)(name)
        self.progress(name, "queued" if waits else "started")

    def _has_others(self, spec: RunnerSpec) -> bool:
        """Return whether the pool of a runner has another one, whose end makes room."""
        return any(
            r.machine is not None and r.spec.pool == spec.pool for r in self._runners.values()
        )

    def _boot_at(self, runner: _Runner, machine: Machine) -> None:
        spec = runner.spec
        wants = need(spec, machine.host, machine.capacity)
        kind = self._kinds.of(spec)
        before, self._kind_of[spec.pool] = self._kind_of.get(spec.pool), kind["key"]
        if before is not None and before not in self._kind_of.values():
            for other in self._machines.connected.values():
                other.forget(before)
        machine.announce(kind)
        machine.take(spec.name, wants)
        runner.machine = machine
        self._queue(runner, waits=False)
        forwards = self._machines.forwards
        config = launch_config(
            spec,
            scheduler=spec.scheduler if forwards else machine.scheduler(spec.scheduler),
            host=machine.address if forwards else unparse_host_port(machine.place),
        )
        share = {"cpus": wants.cpus, "memory": wants.memory, "gpus": wants.gpus}
        machine.send(op="boot", runners={spec.name: share}, kind=kind["key"], launch_config=config)

    async def _look(self) -> None:
        """Try again to place runners that wait: others may have ended theirs."""
        while any(runner.machine is None for runner in self._runners.values()):
            await asyncio.sleep(_LOOK_EVERY)
            for machine in self._machines.connected.values():
                machine.send(op="taken")
            self._place_all()

    def _hosts_changed(self) -> None:
        """Follow a change of the hosts that are connected."""
        if self._started and self._closing is None:
            self.most_changed()
        self._place_all()

    # What hosts say

    def _heard(self, machine: Machine, message: dict[str, Any]) -> None:
        event, name = message["ev"], message.get("name", "")
        runner = self._runners.get(name)
        if event == "taken":
            self._place_all()
        elif event == "stopped":
            self._stop(machine)
        elif event == "output":
            self._output.add(name, message["text"])
        elif event == "unfit":
            logger.warning(
                "preload=%r %s on %s, which a process that others are forked from must not: "
                "runners there start as interpreters of their own, which takes seconds",
                message["module"],
                message["why"],
                machine.host.name,
            )
        elif runner is None or runner.machine is not machine:
            return
        elif event == "booted":
            self.trouble(name, "")
            self.progress(name, "up")
        elif event == "full":
            machine.release(name)
            runner.machine = None
            if runner.ending:
                self._over(name, "its boot was given up")
            else:
                self._place_all()
        elif event == "refused":
            self._over(name, f"was refused by {machine.host.name}: {message['why']}")
        elif event == "ended":
            self._over(name, _why(message), message["output"])

    def _lost(self, machine: Machine, why: str) -> None:
        lost = [name for name, r in self._runners.items() if r.machine is machine]
        for name in lost:
            self._over(name, f"{machine.host.name} was lost: {why}")
        self._hosts_changed()

    def _stop(self, machine: Machine) -> None:
        if not self._why_stopped:
            self._why_stopped = f"the cluster was stopped on {machine.host.name}"
            for name in [n for n, r in self._runners.items() if r.machine is None]:
                self._over(name, self._why_stopped)
            self.stopped(self._why_stopped)

    def _hosts_trouble(self, why: str) -> None:
        if why != self._said:
            self._said = why
            if why:
                logger.warning("these hosts are not used at present: %s", why)
            self.trouble("", why)

    def _over(self, name: str, why: str, output: str = "", **flags: bool) -> None:
        runner = self._runners.pop(name)
        if runner.machine is not None:
            runner.machine.release(name)
        runner.gone.set()
        self.ended(Ended(name=name, why=why, output=output, **flags))
        if any(other.machine is None for other in self._runners.values()):
            asyncio.get_running_loop().call_soon(self._place_all)


def _why(message: Mapping[str, Any]) -> str:
    """Return why a runner's process has ended."""
    used, limit = message["used"]
    if used:
        from dask_flame.core.text import memory

        return (
            f"ran out of memory ({memory(used, beside=limit)} of {memory(limit)}); "
            "relevant settings: memory"
        )
    return str(message["reason"])
