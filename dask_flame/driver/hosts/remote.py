"""A cluster whose scheduler is apart from it, by its runners (driver)."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from dask.utils import parse_timedelta
from distributed import Security
from distributed.comm import connect
from distributed.objects import SchedulerInfo
from distributed.protocol import pickle

from dask_flame._version import __version__
from dask_flame.backends.base import Ended, SchedulerSpec
from dask_flame.core import config, python_versions
from dask_flame.core.channel import Channel
from dask_flame.core.distributed_internals import watch_worker_status, worker_status_lost
from dask_flame.core.messages import DRIVER
from dask_flame.core.option_checks import cpus, seconds, size
from dask_flame.core.pod_options import POD_OPTIONS
from dask_flame.core.threads import BackgroundThread, in_thread, safely
from dask_flame.driver.control_loop import FlameAdaptive
from dask_flame.driver.hosts.replication import SchedulerProxy
from dask_flame.driver.launch import settings
from dask_flame.driver.log_filter import without
from dask_flame.errors import PRINTED, BackendError, BootError
from dask_flame.history.events import Event
from dask_flame.history.timeline import RunnerTimeline
from dask_flame.lease.resume import resume_clients, tell_clients
from dask_flame.reports.changes import Change
from dask_flame.scheduler.scheduler import FlameScheduler
from dask_flame.serialization import pickling

if TYPE_CHECKING:
    from dask_flame.driver.cluster import FlameCluster

logger = logging.getLogger("dask_flame")

#: Seconds between two attempts to connect: the first, and the longest.
_FIRST, _LONGEST = 0.05, 1.0
_ATTEMPT = 10.0
#: Seconds that the other side may take to come, once its process has started: a Secret that is
#: made a moment too late may be in its folder only a minute and a half later; after how many it is
#: said that it has not; and those that it may take to take leave, beyond those of its runners.
_HELLO_WITHIN = 180.0
_SAID_AFTER = 10.0
_PART_WITHIN = 5.0
#: What of a resize only the driver needs to know.
_FOR_RUNNERS = frozenset({"env", "preload", "on_grow", "on_shrink"}) | POD_OPTIONS


class RemoteBounds:
    """In place of an Adaptive, which is where the scheduler is: the bounds that it follows."""

    def __init__(self, cluster: FlameCluster) -> None:
        self._cluster = cluster
        default = cluster.fleets.policies[cluster.fleets.default]
        self.minimum, self.maximum = default.min, default.max
        #: What was when is on the dashboard's page, which is where the scheduler is.
        self.history: dict[str, list[Any]] = defaultdict(list)
        self.lives = RunnerTimeline()

    def stop(self, reason: str = "unknown") -> None:
        """Follow demand no longer, as :meth:`FlameAdaptive.stop` does."""
        self._cluster.fix()


class RemoteScheduler:
    """The driver's side of a scheduler apart from it.

    Parameters
    ----------
    cluster : FlameCluster
        Its backend must have started.

    Attributes
    ----------
    scheduler : SchedulerProxy
    adaptive : RemoteBounds
    address : str
        Where this machine's Clients reach the scheduler.
    dashboard_port : int
        Of this machine; 0: there is none.
    """

    def __init__(self, cluster: FlameCluster) -> None:
        pickling.prepare(interruptible=True)
        self.scheduler = SchedulerProxy()
        self.adaptive = RemoteBounds(cluster)
        self.address = ""
        self.dashboard_port = 0
        self._cluster = cluster
        self._there: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._callbacks = BackgroundThread("flame-callbacks")
        self._connecting: asyncio.Task[None] | None = None
        self._following: asyncio.Task[None] | None = None
        self._resizing: set[asyncio.Task[None]] = set()
        self._closing = False
        self._stop = ""  # why somebody has ended the cluster, if somebody has
        backend = cluster.backend
        handlers: dict[str, Any] = {
            "hello": self._hello,
            "state": self._state,
            "event": self._event,
            "reports": self._reported,
            "all-reports": self._all_reported,
            "prints": self._printed,
            "resized": self._called,
            "over": self._expired,
            "boot": self._boot,
            "end": backend.end,
            "list": backend.list,
            "logs": backend.logs,
        }
        grace = cluster.disconnect_grace
        silence = parse_timedelta(config.get("silence"), "s") or 60.0
        self._link = Channel(handlers, silence=silence)
        self._port = int(config.get("scheduler.port"))
        self._orders: dict[str, Any] = {
            "grace": grace,
            "silence": silence,
            "security": _inline(cluster.security),
            "config": settings(),
            "listening": {"port": self._port},
            "python": python_versions.here(),
            "cluster": self._options(),
        }

    def _options(self) -> str:
        """What the FlameCluster there is made with, as text."""
        cluster = self._cluster
        has_dashboard = cluster.dashboard_address is not None
        port = int(config.get("scheduler.dashboard-port"))
        options = {
            "pools": {name: pool.abridged for name, pool in cluster.fleets.policies.items()},
            "scheduler": "driver",
            "name": cluster.name,
            "disconnect_grace": cluster.disconnect_grace,
            "max_lifetime": cluster.max_lifetime,
            "home_limit": cluster.home_limit,
            "dashboard_address": f"127.0.0.1:{port}" if has_dashboard else None,
        }
        return base64.b64encode(pickle.dumps(options)).decode()

    async def start(self, stack: contextlib.AsyncExitStack) -> None:
        """Have the scheduler started, and be connected to it; the end of this is put on a stack.

        Raises
        ------
        BackendError
        """
        resume_clients()
        # While the connection is gone, this would tell of it by a long traceback.
        stack.enter_context(without("distributed.deploy.cluster", "Failed to sync cluster info"))
        cluster, backend = self._cluster, self._cluster.backend
        stack.push_async_callback(self.close)
        cluster.scheduler = cast(FlameScheduler, self.scheduler)
        cluster._adaptive = cast(FlameAdaptive, self.adaptive)
        spec = SchedulerSpec(
            orders=self._orders,
            options=cluster.fleets.policies[cluster.fleets.default].pod.given,
            timeout=seconds("scheduler.timeout", config.get("scheduler.timeout")),
            cpus=cpus("scheduler.cpus", config.get("scheduler.cpus")),
            memory=size("scheduler.memory", config.get("scheduler.memory")),
            template=config.get("scheduler.pod-template"),
            service=config.get("scheduler.service") or "",
            port=self._port,
        )
        address = await backend.lodge(spec, self._ended)
        self.address = f"tls://{address or f'127.0.0.1:{await backend.reach(self._port)}'}"
        self._connecting = asyncio.create_task(self._connect())
        version = await self._met()
        if version != __version__:
            raise BackendError(
                f"the scheduler's pod has dask-flame {version} and this driver {__version__}; name "
                "an image with the same version: image="
            )
        if cluster.dashboard_address is not None:
            _, _, wanted = cluster.dashboard_address.rpartition(":")
            self.dashboard_port = await backend.reach(
                int(config.get("scheduler.dashboard-port")),
                at=int(wanted) if wanted.isdigit() else 0,
            )

    async def _met(self) -> str:
        """The version that the other side says it has, when it has come."""
        backend = self._cluster.backend
        for within in (_SAID_AFTER, _HELLO_WITHIN - _SAID_AFTER):
            try:
                async with asyncio.timeout(within):
                    return await asyncio.shield(self._there)
            except TimeoutError:
                why = f": {backend.out_of_reach}" if backend.out_of_reach else ""
                if within == _SAID_AFTER:
                    logger.warning("the scheduler's pod has started, and is not reached yet%s", why)
        raise BackendError(
            f"the scheduler's pod has started, but was not reached within {_HELLO_WITHIN:g} s"
            f"{why or '; see its log'}"
        )

    def follow(self, stack: contextlib.AsyncExitStack) -> None:
        """Stay connected; what decides is where the scheduler is."""
        self._following = asyncio.create_task(self._follow())

    async def finish(self) -> None:
        """There is nothing to end before the connection."""

    async def close(self) -> None:
        """Have the scheduler end, and its runners take leave."""
        self._closing = True
        if self._link.connected:
            self._link.say("close")
            with contextlib.suppress(TimeoutError):
                runners = max(fleet.pool.shutdown_timeout for _, fleet in self._cluster.fleets)
                async with asyncio.timeout(_PART_WITHIN + runners):
                    while self._link.connected:  # noqa: ASYNC110 - it ends by itself
                        await asyncio.sleep(0.02)
        await self._link.close()
        for task in (self._connecting, self._following, *self._resizing):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        if not self._there.done():
            self._there.cancel()
        await in_thread(self._callbacks.close)

    async def told(self) -> None:
        """Wait until all is known here that was said there until now.

        Raises
        ------
        ConnectionError
        """
        await self._link.ask("told")

    def resized(self, pool: str, changes: Mapping[str, Any], text: str) -> None:
        """A pool's policy has changed."""
        default = self._cluster.fleets.policies[self._cluster.fleets.default]
        self.adaptive.minimum, self.adaptive.maximum = default.min, default.max
        rest = {name: value for name, value in changes.items() if name not in _FOR_RUNNERS}
        task = asyncio.ensure_future(self._resize(pool, rest, text))
        self._resizing.add(task)
        task.add_done_callback(self._resizing.discard)

    async def _resize(self, pool: str, changes: Mapping[str, Any], text: str) -> None:
        try:
            await self._link.ask("resize", pool=pool, changes=changes, text=text)
        except ConnectionError:
            pass  # the cluster is closed
        except Exception as error:
            # An idle_check of a module, for one, that is not in the image.
            why = f"{text} is not heeded where the scheduler is: {type(error).__name__}: {error}"
            self._cluster.events.add("failed", why, pool=pool)

    def fixed(self, pool: str) -> None:
        """A pool is to follow demand no longer."""
        self._cluster.fleets.fleets[pool].fix()
        self._link.say("fix", pool=pool)

    # What the backend says

    def ended(self, what: Ended) -> None:
        self._link.say("ended", what=what)

    def reached(self, name: str, step: str) -> None:
        self._link.say("step", name=name, step=step)

    def held_up(self, name: str, why: str) -> None:
        self._link.say("trouble", name=name, why=why)

    def stopped(self, why: str) -> None:
        self._stop = why
        self._link.say("stopped", why=why)

    def _ended(self, why: str) -> None:
        """The scheduler's process has ended, and was not told to."""
        grace = self._cluster.disconnect_grace
        if self._link.spoken and (away := self._link.unheard) > grace:
            # What it has printed, and how it ended, says no more than this.
            self._over(
                f"the scheduler's pod had been out of reach for {away:.0f} s, which is more than "
                f"disconnect_grace={grace:g} s, so it has ended; write a longer one, such as "
                f'disconnect_grace="10m"',
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
            self._over(f"the scheduler's pod has ended: {why}", "lost")

    # What the other side says

    def _hello(self, address: str, version: str) -> None:
        self.scheduler.address = address
        if not self._there.done():
            self._cluster.backend.met()
            self._there.set_result(version)

    def _state(self, **told: Any) -> None:
        self.scheduler.take(self._cluster, **told)

    def _event(self, event: Event) -> None:
        self._cluster.events.take(event)

    def _reported(self, change: Change) -> None:
        self._cluster.reports.take(change)

    def _all_reported(self, calls: list[dict[str, Any]]) -> None:
        self._cluster.reports.load(calls)

    def _printed(self, runner: str, pieces: Sequence[Sequence[Any]]) -> None:
        if self._cluster.on_prints is not None:
            self._cluster.on_prints(runner, pieces)

    def _called(self, which: str, pool: str, count: int) -> None:
        function = getattr(self._cluster.fleets.policies[pool], which)
        if function is not None:
            self._callbacks.do(partial(safely, function, pool, count))

    async def _boot(self, runners: Mapping[str, str]) -> None:
        for name, pool in runners.items():
            self._cluster.fleets.booted(pool, (name,))
        await self._cluster.backend.boot(self._cluster.specs(list(runners)))

    def _expired(self, why: str) -> None:
        self._over(why, "lease")

    def _over(self, why: str, kind: str, error: type[Exception] | None = None) -> None:
        if self._closing:
            return
        self._closing = True
        if not self._there.done():
            self._there.set_exception(BackendError(why))
            return
        # The lines that it printed last are in the event; it is logged, and calls fail, without.
        events = self._cluster.events
        if kind != "stopped" or not events.counts[kind]:  # the scheduler has said it itself
            events.add(kind, why)
        said, _, _ = why.partition(PRINTED)
        tell_clients(self._cluster, f"The cluster has ended: {said}", error)
        self._cluster.expire(said, logged=True)

    # The connection

    async def _connect(self) -> None:
        pause = _FIRST
        while True:
            begun = time.monotonic()
            try:
                arguments = self._cluster.security.get_connection_args("client")
                comm = await connect(self.address, timeout=_ATTEMPT, **arguments)
                try:
                    await comm.write({"op": DRIVER, "reply": False, "version": __version__})
                    await self._link.serve(comm)
                finally:
                    comm.abort()
            except Exception as error:
                # Whatever it is: without a connection, all ends.
                logger.debug("the scheduler's pod could not be reached: %r", error)
            pause = _FIRST if time.monotonic() > begun + _LONGEST else min(2 * pause, _LONGEST)
            await asyncio.sleep(pause)

    async def _follow(self) -> None:
        """Have distributed's Cluster hear of workers again: it subscribes once, when it starts."""
        cluster = self._cluster
        while True:
            await worker_status_lost(cluster)
            if self._closing:
                return
            try:
                comm = await cluster.scheduler_comm.live_comm()
                try:
                    await comm.write({"op": "subscribe_worker_status"})
                    cluster.scheduler_info = SchedulerInfo(await comm.read())
                except BaseException:
                    comm.abort()
                    raise
            except OSError as error:
                logger.debug("not told of workers yet: %r", error)
                await asyncio.sleep(_LONGEST)
            else:
                watch_worker_status(cluster, comm)


def _inline(security: Security) -> dict[str, Any]:
    """What a Security is made of, with certificates and keys themselves in place of files."""
    parts = ("scheduler", "worker", "client")
    keys = [f"tls_{part}_{what}" for part in parts for what in ("key", "cert")]
    given: dict[str, Any] = {"require_encryption": True}
    for key in ("tls_ca_file", *keys):
        value = getattr(security, key)
        if isinstance(value, str):
            given[key] = value if "-----BEGIN" in value else Path(value).read_text()
    return given
