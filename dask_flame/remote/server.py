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

from dask_flame._version import __version__
from dask_flame.backends.base import Ended
from dask_flame.core import python_versions
from dask_flame.core.channel import Channel
from dask_flame.driver.hosts.replication import DriverFollower
from dask_flame.packages.differences import compare, refusal
from dask_flame.packages.imported import core_versions
from dask_flame.remote.cluster import PodCluster
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
        ``scratch``.
    """

    def __init__(self, launch_config: dict[str, Any]) -> None:
        self._grace = float(launch_config["grace"])
        handlers: dict[str, Callable[..., Any]] = {
            "ended": self._ended,
            "step": self._step,
            "trouble": self._trouble,
            "resize": self._resize,
            "fix": self._fix,
            "stopped": self._stopped,
            "follow": self._follow,
            "caught_up": self._caught_up,
            "files": self._files,
            "close": self._close,
        }
        self.link = Channel(handlers, silence=float(launch_config["silence"]))
        self._over = asyncio.Event()
        self._close_requested = False
        self._born = time.monotonic()
        self._lost: float | None = None
        self._loop = asyncio.get_running_loop()
        self._ready = asyncio.Event()
        self.cluster = PodCluster(
            link=self.link,
            serve=self._serve,
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
            teller = self.cluster.state_publisher()
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
        if self.link.connected:
            self._lost = None
        elif self._lost is None:
            self._lost = now
        if self._lost is None:
            return False
        patience = self._grace if self.link.has_connected else max(self._grace, _DRIVER_WITHIN)
        return now > self._lost + patience

    async def _serve(self, comm: Comm, version: str) -> Status:
        """Serve a driver's connection, once the cluster has started."""
        await self._ready.wait()
        if not self.link.has_connected:
            self.link.send("hello", address=self.cluster.scheduler.address, version=__version__)
        await self.link.serve(comm)
        return Status.dont_reply

    # Requests of the driver

    def _ended(self, what: Ended) -> None:
        self.cluster.backend.ended(what)

    def _step(self, name: str, step: str) -> None:
        self.cluster.backend.progress(name, step)

    def _trouble(self, name: str, why: str) -> None:
        self.cluster.backend.trouble(name, why)

    def _resize(self, pool: str, changes: dict[str, Any], text: str) -> None:
        self.cluster.follow_resize(pool, changes, text)

    def _fix(self, pool: str) -> None:
        self.cluster.follow_fix(pool)

    def _stopped(self, why: str) -> None:
        self.cluster.follow_stop(why)

    def _follow(self) -> dict[str, Any]:
        return self._reports.follow("driver", DriverFollower(self.link))

    def _files(self, pack: bytes | None) -> None:
        self.cluster.take_files(pack)

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
        if why := python_versions.mismatch(python_versions.here(), launch_config.get("python", "")):
            # Check before unpickling anything.
            raise SystemExit(f"the image of the scheduler's pod {why}")
        differences = compare(launch_config.get("packages", {}), core_versions(), complete=False)
        if why := refusal(differences, remote=True):
            raise SystemExit(f"the image of the scheduler's pod {why}")
        dask.config.update(dask.config.config, launch_config["config"], priority="new")
        scratch = launch_config["scratch"] = os.environ.get("TMPDIR", "/tmp")
        if not os.access(os.path.expanduser("~"), os.W_OK):
            os.environ["HOME"] = scratch
        address, listening = os.environ["DASK_FLAME_POD_IP"], launch_config["listening"]
        # Port forwarding uses the loopback address, and runners use that of the pod.
        listening["host"] = list(dict.fromkeys([address, "127.0.0.1"]))
        # The driver's subscription replaces that of this cluster, which does not need one.
        warnings.filterwarnings("ignore", "Scheduler already contains a plugin with name worker-st")
        logging.basicConfig(format="%(asctime)s %(name)s %(levelname)s %(message)s")
        asyncio.run(_run(launch_config))
        code = 0
    except SystemExit as error:
        print(error, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1:])
