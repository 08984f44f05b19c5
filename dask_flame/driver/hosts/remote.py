"""The host of a remote scheduler, beside the runners (driver)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

from dask.utils import parse_timedelta
from distributed.comm import Comm, connect

from dask_flame._version import __version__
from dask_flame.backends.specs import Ended
from dask_flame.core import config
from dask_flame.core.background_tasks import BackgroundTasks
from dask_flame.core.backoff import Backoff
from dask_flame.core.budget import Budget
from dask_flame.core.channel import Channel, Refused
from dask_flame.core.connection import ConnectionInfo, new_key, seal, this_process
from dask_flame.core.hidden_logs import without
from dask_flame.core.messages import DASHBOARD, DRIVER
from dask_flame.core.pool import Pool, known_option
from dask_flame.core.threads import BackgroundThread, in_thread, safely
from dask_flame.core.tunnel import TunnelEntry
from dask_flame.driver.certificates import inlined
from dask_flame.driver.hosts.base import HostParts
from dask_flame.driver.hosts.known_runs import KnownRuns
from dask_flame.driver.hosts.remote_bounds import RemoteBounds
from dask_flame.driver.hosts.remote_launch import launch_config, scheduler_spec
from dask_flame.driver.hosts.replication import SchedulerProxy
from dask_flame.errors import PRINTED, BackendError, BootError, PoolError
from dask_flame.history.usage import PoolUsage
from dask_flame.lease.resume import resume_clients
from dask_flame.prints.scheduler.plugin import Taker
from dask_flame.reports.driver.replica import ReportReplica
from dask_flame.reports.scheduler.store import ReportStore
from dask_flame.serialization import pickling

logger = logging.getLogger("dask_flame")

#: Seconds between two attempts to connect: first and maximum.
_FIRST, _LONGEST = 0.05, 1.0
_ATTEMPT = 10.0
#: Seconds to wait for the first message of the started scheduler (a Secret that was created late
#: may be mounted only 90 seconds later), seconds before a warning about it, and seconds for its
#: close in addition to the ``shutdown_timeout`` of its runners.
_HELLO_WITHIN = 180.0
_SAID_AFTER = 10.0
_PART_WITHIN = 5.0
#: Seconds between two requests for what has changed of the runs.
_RENEWAL = 3.0


class RemoteScheduler:
    """Start a remote scheduler and stay connected to it.

    Parameters
    ----------
    parts : HostParts
    reports : ReportStore
        Receives a copy of the scheduler's report store.
    prints : callable or None
        Receives the output of runners.
    watch_again : callable
        Waits until the cluster's subscription to worker status is lost, and subscribes again;
        returns False if the cluster is closing.
    tell_clients : callable
        Notifies the Clients of this process why their cluster has ended, and with which kind of
        error their calls fail; None if the calls are canceled.

    Attributes
    ----------
    scheduler : SchedulerProxy
    address : str
        The scheduler's address for Clients on this machine.
    dashboard_port : int
        Local port that is forwarded to the dashboard; 0 without a dashboard.

    See Also
    --------
    dask_flame.driver.hosts.base.SchedulerHost : The interface.
    """

    #: Results are kept in the scheduler's process.
    home = None

    def __init__(
        self,
        parts: HostParts,
        *,
        reports: ReportStore,
        prints: Taker | None,
        watch_again: Callable[[], Awaitable[bool]],
        tell_clients: Callable[[str, type[Exception] | None], None],
    ) -> None:
        pickling.prepare(interruptible=True)
        fleets = parts.fleets
        self.scheduler = SchedulerProxy(fleets)
        parts.history.journal.subscribe(self.scheduler.apply)
        self.address = ""
        self.dashboard_port = 0
        self._bounds = RemoteBounds(fleets.policies[fleets.default], parts.fix)
        self._parts = parts
        self._prints = prints
        self._watch_again = watch_again
        self._tell_clients = tell_clients
        self._there: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._callbacks = BackgroundThread("flame-callbacks")
        self._connecting: asyncio.Task[None] | None = None
        self._following: asyncio.Task[None] | None = None
        self._resizing = BackgroundTasks()
        self._closing = False
        self._stop = ""  # why the cluster was stopped from outside, if it was
        backend = parts.backend
        self._place = backend.scheduler_place_word
        handlers: dict[str, Any] = {
            "hello": self._hello,
            "state": self.scheduler.take,
            "journal": parts.history.journal.append,
            "reports": self._reported,
            "prints": self._printed,
            "resized": self._called,
            "over": self._expired,
            "past": self._take_past,
            "boot": self._boot,
            "end": backend.end,
            "list": backend.list,
            "logs": backend.logs,
        }
        if parts.packages is not None:
            handlers["packages"] = parts.packages
        silence = parse_timedelta(config.get("silence"), "s") or 60.0
        self._link = Channel(handlers, silence=silence)
        self._reports = ReportReplica(
            partial(self._link.ask, "follow"), lambda: not self._closing, reports
        )
        self.runs = KnownRuns()
        reports.run_names = self.runs.names
        self._renewing: asyncio.Task[None] | None = None
        self._adopted = parts.adopted
        if self._adopted is None:
            self._id = secrets.token_hex(8)
            self._connection = ConnectionInfo(
                security=inlined(parts.security),
                port=int(config.get("scheduler.port")),
                dashboard_port=int(config.get("scheduler.dashboard-port")),
                service=config.get("scheduler.service") or "",
                key=new_key(),
            )
        else:
            self._id, self._connection = self._adopted.driver, self._adopted.connection
        self._port = self._connection.port
        #: Whether everything may be ended: not while this process is not the driver yet, nor when
        #: it is not any more.
        self._owns = self._adopted is None
        self._launch_config = launch_config(
            parts, self._connection, driver=self._id, silence=silence
        )

    async def start(self, stack: contextlib.AsyncExitStack) -> None:
        """Start the scheduler and connect to it; push the callbacks that end this on `stack`.

        Raises
        ------
        BackendError
        """
        resume_clients()
        # Distributed would log a long traceback whenever the connection is lost.
        stack.enter_context(without("distributed.deploy.cluster", "Failed to sync cluster info"))
        parts, backend = self._parts, self._parts.backend
        stack.push_async_callback(self.close)
        spec = scheduler_spec(parts, self._connection, self._launch_config)
        if self._adopted is None:
            address = await backend.start_scheduler(spec, self._ended)
        else:
            address = await backend.join_scheduler(spec, self._ended, driver=self._id)
        self.address = f"tls://{address or f'127.0.0.1:{await backend.reach(self._port)}'}"
        self._connecting = asyncio.create_task(self._connect())
        version = await self._wait_for_hello()
        if version != __version__:
            raise BackendError(
                f"the scheduler's {self._place} has dask-flame {version} and this driver "
                f"{__version__}; name an image with the same version: image="
            )
        await self._reports.follow()
        if self._adopted is None:
            await parts.files.upload(self._link.ask)
        self._hand_over()
        if parts.dashboard_address is not None:
            _, _, wanted = parts.dashboard_address.rpartition(":")
            at = int(wanted) if wanted.isdigit() else 0
            if backend.reaches_loopback:
                port = self._connection.dashboard_port
                self.dashboard_port = await backend.reach(port, at=at)
            else:
                entry = TunnelEntry(self._connect_to_dashboard)
                stack.push_async_callback(entry.close)
                self.dashboard_port = await entry.start(at)

    def _hand_over(self) -> None:
        """Leave at the scheduler what another driver needs if this process is killed."""
        try:
            sealed = seal(self._connection.key, self._parts.handover())
        except Exception as error:
            # For example, a callback that cannot be pickled.
            logger.debug("no other process can become the driver: %r", error)
            sealed = b""
        self._link.send("handover", sealed=sealed)

    async def _wait_for_hello(self) -> str:
        """Wait for the scheduler's first message, and return its version of dask-flame."""
        backend = self._parts.backend
        for within in (_SAID_AFTER, _HELLO_WITHIN - _SAID_AFTER):
            try:
                async with asyncio.timeout(within):
                    return await asyncio.shield(self._there)
            except TimeoutError:
                why = f": {backend.out_of_reach}" if backend.out_of_reach else ""
                if within == _SAID_AFTER:
                    logger.warning(
                        "the scheduler's %s has started, and is not reached yet%s", self._place, why
                    )
        raise BackendError(
            f"the scheduler's {self._place} has started, but was not reached within "
            f"{_HELLO_WITHIN:g} s{why or '; see its log'}"
        )

    def follow(self, stack: contextlib.AsyncExitStack) -> RemoteBounds:
        """Keep the subscription to worker status; the control loop runs beside the scheduler."""
        self._owns = True
        self._following = asyncio.create_task(self._follow())
        self._renewing = asyncio.create_task(self._renew_runs())
        return self._bounds

    def ends(self) -> None:
        """Do nothing: the scheduler's process is told in :meth:`finish`."""

    async def finish(self) -> None:
        """Do nothing: :meth:`close` ends the scheduler and its runners."""

    async def close(self) -> None:
        """Ask the scheduler to end with its runners, wait for it, and disconnect."""
        self._closing = True
        if not self._link.connected and self._owns and self._link.has_connected:
            # Perhaps another process has become the driver meanwhile: then this is not to be ended.
            await self._parts.backend.look_for_successor()
        if not self._owns:
            self._parts.backend.leave()
        if self._link.connected and self._owns:
            with contextlib.suppress(ConnectionError, TimeoutError):
                async with asyncio.timeout(_PART_WITHIN):
                    await self.runs.renew(self._link.ask)
            self._link.send("close")
            with contextlib.suppress(TimeoutError):
                runners = max(fleet.pool.shutdown_timeout for _, fleet in self._parts.fleets)
                async with asyncio.timeout(_PART_WITHIN + runners):
                    while self._link.connected:  # noqa: ASYNC110 - there is no event for it
                        await asyncio.sleep(0.02)
        await self._link.close()
        await self._reports.close()
        for task in (self._connecting, self._following, self._renewing, *self._resizing):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        if not self._there.done():
            self._there.cancel()
        await in_thread(self._callbacks.close)

    async def caught_up(self) -> None:
        """Wait until this process has received the scheduler's current state and reports.

        Raises
        ------
        ConnectionError
        """
        await self._link.ask("caught_up")
        await self.runs.renew(self._link.ask)
        await self._reports.caught_up()

    async def _renew_runs(self) -> None:
        while True:
            await asyncio.sleep(_RENEWAL)
            with contextlib.suppress(ConnectionError):
                await self.runs.renew(self._link.ask)

    def resized(self, pool: str, changes: Mapping[str, Any], text: str) -> None:
        """Apply a changed policy; see :meth:`SchedulerHost.resized`."""
        default = self._parts.fleets.policies[self._parts.fleets.default]
        self._bounds.minimum, self._bounds.maximum = default.min, default.max
        # The driver itself passes options for runners on to them, but their order of preference is
        # up to the scheduler's process.
        own, known = Pool.declared(), {name: known_option(name) for name in changes}
        rest = {
            name: value
            for name, value in changes.items()
            if known[name].preference or (name in own and not known[name].for_runners)
        }
        self._hand_over()
        self._resizing.start(self._resize(pool, rest, text))

    async def _resize(self, pool: str, changes: Mapping[str, Any], text: str) -> None:
        try:
            await self._link.ask("resize", pool=pool, changes=changes, text=text)
        except ConnectionError:
            pass  # the cluster is closed
        except Exception as error:
            # For example, an idle_check from a module that is not in the image.
            why = f"{text} has no effect where the scheduler is: {type(error).__name__}: {error}"
            self._parts.history.journal.note("failed", why, pool=pool)

    def fixed(self, pool: str) -> None:
        """Stop following demand in a pool."""
        self._parts.fleets.fleets[pool].fix()
        self._link.send("fix", pool=pool)

    def budgeted(self, budget: Budget | None, text: str) -> None:
        """Follow another budget; the event comes from the scheduler's process."""
        self._parts.fleets.budget = budget
        self._hand_over()
        self._link.send("budget", budget=budget, text=text)

    # Events of the backend

    def ended(self, what: Ended) -> None:
        self._link.send("ended", what=what)

    def reached(self, name: str, step: str) -> None:
        self._link.send("step", name=name, step=step)

    def held_up(self, name: str, why: str) -> None:
        self._link.send("trouble", name=name, why=why)

    def queued(self, name: str, *, waits: bool) -> None:
        self._link.send("queued", name=name, waits=waits)

    def stopped(self, why: str) -> None:
        self._stop = why
        self._link.send("stopped", why=why)

    def replaced(self, why: str) -> None:
        """Handle the loss of this cluster to another driver: end nothing of it any more."""
        self._owns = False
        self._parts.backend.leave()
        self._over(
            f"{why}; it has this cluster now, and this process does not; to look at it, write "
            f'dask_flame.connect("{self._parts.name}")',
            "lost",
        )

    def _ended(self, why: str) -> None:
        """Handle an unexpected end of the scheduler's process."""
        grace = self._parts.disconnect_grace
        if self._link.has_connected and (away := self._link.unreachable_for) > grace:
            # Its output and exit reason add nothing to this.
            self._over(
                f"the scheduler's {self._place} had been out of reach for {away:.0f} s, which is "
                f"more than disconnect_grace={grace:g} s, so it has ended; write a longer one, "
                f'such as disconnect_grace="10m"',
                "lost",
            )
        elif self._stop:
            self._over(
                f"{self._stop}, and nothing of it is left; to go on, write cluster.close() and "
                "make a new FlameCluster",
                "stopped",
                BootError,
            )
        else:
            self._over(f"the scheduler's {self._place} has ended: {why}", "lost")

    # Messages of the scheduler's process

    def _hello(self, address: str, version: str) -> None:
        self.scheduler.address = address
        if not self._there.done():
            self._parts.backend.scheduler_connected()
            self._there.set_result(version)

    def _take_past(self, usage: Mapping[str, PoolUsage], **rest: Any) -> None:
        # The journal may not reach back to the beginning.
        self._parts.history.usage.update(usage)
        self.scheduler.past(**rest)

    def _reported(self, number: int, change: Mapping[str, Any] | None) -> None:
        self._reports.take(number, change)

    def _printed(self, runner: str, pieces: Sequence[Sequence[Any]]) -> None:
        if self._prints is not None:
            self._prints(runner, pieces)

    def _called(self, which: str, pool: str, count: int) -> None:
        function = getattr(self._parts.fleets.policies[pool], which)
        if function is not None:
            self._callbacks.do(partial(safely, function, pool, count))

    async def _boot(self, runners: Mapping[str, tuple[str, str]]) -> None:
        if self._adopted is not None:
            # An earlier driver may have been killed when it had begun with the same request.
            there = await self._parts.backend.list()
            runners = {name: what for name, what in runners.items() if name not in there}
        for name, (pool, _) in runners.items():
            self._parts.fleets.booted(pool, (name,))
        try:
            specs = self._parts.specs({name: kind for name, (_, kind) in runners.items()})
        except PoolError as error:
            for name in runners:
                self.ended(Ended(name=name, why=f"was refused: {error}", final=True))
            return
        await self._parts.backend.boot(specs)

    def _expired(self, why: str) -> None:
        self._over(why, "lease")

    def _over(self, why: str, kind: str, error: type[Exception] | None = None) -> None:
        if self._closing:
            return
        self._closing = True
        if not self._there.done():
            self._there.set_exception(BackendError(why))
            return
        # Only the event includes the last lines of output; the log and the errors of calls do not.
        history = self._parts.history
        if kind != "stopped" or not history.events.counts[kind]:  # else the scheduler recorded it
            history.journal.note(kind, why)
        said, _, _ = why.partition(PRINTED)
        self._tell_clients(f"The cluster has ended: {said}", error)
        self._parts.expire(said, logged=True)

    # The connection

    async def _connect(self) -> None:
        backoff = Backoff(_FIRST, _LONGEST)
        while True:
            begun = time.monotonic()
            try:
                arguments = self._parts.security.get_connection_args("client")
                comm = await connect(self.address, timeout=_ATTEMPT, **arguments)
                try:
                    me = {"version": __version__, "driver": self._id, "who": this_process()}
                    await comm.write({"op": DRIVER, "reply": False, **me})
                    await self._link.serve(comm)
                finally:
                    comm.abort()
            except Refused as error:
                self.replaced(str(error))
                return
            except Exception as error:
                # Retry after any error, as the cluster ends without a connection.
                logger.debug("the scheduler could not be reached: %r", error)
            if time.monotonic() > begun + _LONGEST:
                backoff.reset()
            await asyncio.sleep(backoff.next())

    async def _connect_to_dashboard(self) -> Comm:
        arguments = self._parts.security.get_connection_args("client")
        comm = await connect(self.address, timeout=_ATTEMPT, **arguments)
        await comm.write({"op": DASHBOARD, "reply": False})
        return comm

    async def _follow(self) -> None:
        """Renew the subscription to worker status; distributed's Cluster subscribes only once."""
        while True:
            try:
                if not await self._watch_again():
                    return
            except OSError as error:
                logger.debug("not told of workers yet: %r", error)
                await asyncio.sleep(_LONGEST)
