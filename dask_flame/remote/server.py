"""The scheduler's process: ``python -m dask_flame.remote.server FILE`` (scheduler's pod).

FILE contains its configuration as JSON. It is mounted from a Secret, which may be created shortly
after the pod. The process exits with code 0 when the driver closes it or has been disconnected for
the grace. Kubernetes then deletes the Job of this pod, and all objects that the Job owns.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import os
import pickle
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import dask.config
from distributed import Security, Status
from distributed.comm import Comm
from distributed.comm.addressing import unparse_host_port

from dask_flame._version import __version__
from dask_flame.backends.specs import Ended
from dask_flame.core import python_versions
from dask_flame.core.budget import Budget
from dask_flame.core.channel import Channel
from dask_flame.core.messages import ADOPT, DASHBOARD, DRIVER, WHO
from dask_flame.core.tunnel import lead_to
from dask_flame.driver.hosts.replication import DriverFollower, StatePublisher
from dask_flame.packages.differences import compare, refusal
from dask_flame.packages.imported import core_versions
from dask_flame.remote.cluster import PodCluster
from dask_flame.remote.drivers import Drivers
from dask_flame.reports.scheduler.publisher import ReportPublisher

logger = logging.getLogger("dask_flame")

#: Seconds to wait for the configuration, and for the first connection of a driver.
_ORDERS_WITHIN = 120.0
_DRIVER_WITHIN = 120.0
#: Seconds between two checks for changes.
_LOOK = 0.2
#: Seconds that closing may take, in addition to the time for runners to end.
_CLOSE_WITHIN = 10.0


class SchedulerServer:
    """A cluster whose driver is in another process.

    Parameters
    ----------
    launch_config : mapping
        ``cluster``: keyword arguments of FlameCluster, pickled; ``security``: the arguments of
        :class:`distributed.Security`; ``grace`` and ``silence``: seconds; ``listening``;
        ``scratch``; ``driver``: see :class:`Drivers`.
    """

    def __init__(self, launch_config: dict[str, Any]) -> None:
        self._grace = float(launch_config["grace"])
        handlers: dict[str, Callable[..., Any]] = {
            "ended": self._ended,
            "step": self._step,
            "trouble": self._trouble,
            "queued": self._queued,
            "resize": self._resize,
            "fix": self._fix,
            "budget": self._budget,
            "stopped": self._stopped,
            "follow": self._follow,
            "runs": self._runs,
            "caught_up": self._caught_up,
            "files": self._files,
            "handover": self._handover,
            "close": self._close,
        }
        self.link = Channel(handlers, silence=float(launch_config["silence"]))
        self._over = asyncio.Event()
        self._close_requested = False
        self._drivers = Drivers(self.link, **launch_config.get("driver") or {})
        self._lost: float | None = None
        self._teller: StatePublisher | None = None
        self._loop = asyncio.get_running_loop()
        self._ready = asyncio.Event()
        self.cluster = PodCluster(
            link=self.link,
            handlers={
                DRIVER: self._serve,
                DASHBOARD: self._show,
                ADOPT: self._adopt,
                WHO: self._who,
            },
            resized=self._resized,
            listening=launch_config["listening"],
            scratch=launch_config["scratch"],
            security=Security(**launch_config["security"]),
            **_options(launch_config["cluster"]),
        )
        self._reports = ReportPublisher(self.cluster.reports)

    async def run(self) -> None:
        """Run until the cluster ends."""
        for sig in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(sig, self._over.set)
        try:
            await self.cluster
            self._ready.set()
            teller = self._teller = self.cluster.state_publisher()
            while not self._over.is_set() and not self._driver_is_gone():
                if self.link.connected:
                    # Otherwise all changes are sent after the driver has connected again.
                    teller.tell()
                if self.cluster.status is not Status.running:
                    break  # max_lifetime has passed
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._over.wait(), _LOOK)
            if self._driver_is_gone():
                print(f"the driver has been gone for disconnect_grace={self._grace:g} s")
            if not self._close_requested:
                # Only the driver knows why this has ended, and will notify the Clients. Until then
                # their calls must not fail because the lease has ended.
                self.cluster.part_from_clients()
            if self.cluster.over:
                # Otherwise the driver learns the reason from the end of the pod.
                self.link.send("over", why=self.cluster.over)
                await self.link.flush(1.0)
        finally:
            if self._close_requested and self.link.connected:
                # The driver, while it is connected, ends the runners that do not end by themselves.
                await self._within_limit(self.cluster.end_runners())
            await self.link.close()
            await self._within_limit(self.cluster.close())

    async def _within_limit(self, work: Awaitable[Any]) -> None:
        longest = max(fleet.pool.shutdown_timeout for _, fleet in self.cluster.fleets)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(work, _CLOSE_WITHIN + longest)

    def _driver_is_gone(self) -> bool:
        """Return whether the driver has been disconnected for too long."""
        now = time.monotonic()
        if self.link.connected or self._drivers.claimed_by:
            self._lost = None
        elif self._lost is None:
            self._lost = now
        if self._lost is None:
            return False
        return now > self._lost + self._patience

    @property
    def _patience(self) -> float:
        """Seconds to wait for the driver."""
        return self._grace if self.link.has_connected else max(self._grace, _DRIVER_WITHIN)

    async def _serve(self, comm: Comm, version: str, driver: str = "", who: str = "") -> Status:
        """Serve a driver's connection, once the cluster has started."""
        await self._ready.wait()
        if why := self._drivers.refusal(driver):
            with contextlib.suppress(OSError):
                await comm.write(why)
                await comm.close()
            return Status.dont_reply
        self._drivers.who = who
        if not self.link.has_connected:
            self.link.send("hello", address=self.cluster.scheduler.address, version=__version__)
        await self.link.serve(comm)
        return Status.dont_reply

    async def _who(self, comm: Comm) -> dict[str, Any]:
        """Describe the driver: see :meth:`dask_flame.driver.connect.entrance.Door.driver`."""
        left = None
        if not (self.link.connected or self._drivers.claimed_by):
            gone = time.monotonic() - (self._lost or time.monotonic())
            left = max(0.0, self._patience - gone)
        return {"who": self._drivers.holder, "left": left, "grace": self._grace}

    async def _adopt(self, comm: Comm, proof: str, driver: str, who: str) -> Status:
        """Let another process become the driver, if there is none."""
        await self._ready.wait()
        try:
            await self._drivers.claim(
                comm, proof, driver, who, within=_DRIVER_WITHIN, begin=self._begin_anew
            )
        except OSError as error:
            logger.debug("a process that wanted to become the driver has gone: %r", error)
        finally:
            comm.abort()
        return Status.dont_reply

    def _begin_anew(self) -> None:
        """Tell a new driver everything, as soon as it connects."""
        self.link.send("hello", address=self.cluster.scheduler.address, version=__version__)
        self.cluster.hand_over(_DRIVER_WITHIN)
        if self._teller is not None:
            self._teller.begin_anew()

    async def _show(self, comm: Comm) -> Status:
        """Serve one of the driver's connections to the dashboard."""
        await self._ready.wait()
        if port := (self.cluster.scheduler_info.get("services") or {}).get("dashboard"):
            await lead_to(comm, port)
        else:
            comm.abort()
        return Status.dont_reply

    # Requests of the driver

    def _ended(self, what: Ended) -> None:
        self.cluster.backend.ended(what)

    def _step(self, name: str, step: str) -> None:
        self.cluster.backend.progress(name, step)

    def _trouble(self, name: str, why: str) -> None:
        self.cluster.backend.trouble(name, why)

    def _queued(self, name: str, waits: bool) -> None:
        backend = self.cluster.backend
        (backend.queued if waits else backend.started)(name)

    def _resize(self, pool: str, changes: dict[str, Any], text: str) -> None:
        self.cluster.follow_resize(pool, changes, text)

    def _fix(self, pool: str) -> None:
        self.cluster.follow_fix(pool)

    def _budget(self, budget: Budget | None, text: str) -> None:
        self.cluster.follow_budget(budget, text)

    def _stopped(self, why: str) -> None:
        self.cluster.follow_stop(why)

    def _follow(self) -> dict[str, Any]:
        return self._reports.follow("driver", DriverFollower(self.link))

    def _runs(self, version: int, calls: bool) -> dict[str, Any] | None:
        return self.cluster.known_runs(version, calls=calls)

    def _files(self, pack: bytes | None) -> None:
        self.cluster.take_files(pack)

    def _handover(self, sealed: bytes) -> None:
        self._drivers.handover = sealed

    async def _caught_up(self) -> None:
        """Do nothing; the answer to this request arrives after all earlier messages."""

    def _close(self) -> None:
        self._close_requested = True
        self._over.set()

    def _resized(self, which: str, pool: str, count: int) -> None:
        # This runs in the thread for callbacks.
        with contextlib.suppress(RuntimeError):  # the loop has ended
            say = partial(self.link.send, "resized", which=which, pool=pool, count=count)
            self._loop.call_soon_threadsafe(say)


def _options(text: str) -> dict[str, Any]:
    """Return the keyword arguments for the cluster."""
    try:
        options: dict[str, Any] = pickle.loads(base64.b64decode(text))
    except (ImportError, AttributeError) as error:
        raise SystemExit(
            f"{type(error).__name__}: {error}; what the pools' idle_check= is made of has to be in "
            "the image, as has this version of Python and dask-flame"
        ) from None
    return options


def _read(file: Path) -> dict[str, Any]:
    until = time.monotonic() + _ORDERS_WITHIN
    while not file.exists():
        if time.monotonic() > until:
            raise SystemExit(
                "there is no launch configuration: the driver that created this pod is gone"
            )
        time.sleep(0.1)
    launch_config: dict[str, Any] = json.loads(file.read_text())
    return launch_config


async def _run(launch_config: dict[str, Any]) -> None:
    await SchedulerServer(launch_config).run()


def main(argv: list[str]) -> NoReturn:
    """Run a scheduler by the configuration in a file, until its driver is disconnected or ends."""
    code = 1
    try:
        launch_config = _read(Path(argv[0]))
        word = launch_config.get("place", "pod")
        if why := python_versions.mismatch(python_versions.here(), launch_config.get("python", "")):
            # Check before unpickling anything.
            raise SystemExit(f"the image of the scheduler's {word} {why}")
        differences = compare(launch_config.get("packages", {}), core_versions(), complete=False)
        if why := refusal(differences, remote=True):
            raise SystemExit(f"the image of the scheduler's {word} {why}")
        dask.config.update(dask.config.config, launch_config["config"], priority="new")
        scratch = launch_config["scratch"] = os.environ.get("TMPDIR", "/tmp")
        if not os.access(os.path.expanduser("~"), os.W_OK):
            os.environ["HOME"] = scratch
        address = os.environ[launch_config.get("address_variable", "DASK_FLAME_POD_IP")]
        # Port forwarding uses the loopback address, and runners use that of the pod.
        hosts = dict.fromkeys([address, *launch_config.get("also_at", ["127.0.0.1"])])
        launch_config["listening"]["host"] = [unparse_host_port(host) for host in hosts]
        # The driver's subscription replaces that of this cluster, which does not need one.
        warnings.filterwarnings("ignore", "Scheduler already contains a plugin with name worker-st")
        logging.basicConfig(format="%(asctime)s %(name)s %(levelname)s %(message)s")
        asyncio.run(_run(launch_config))
        code = 0
    except BaseException as error:
        with contextlib.suppress(Exception):
            if isinstance(error, SystemExit):
                print(error, file=sys.stderr)
            else:
                traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1:])
