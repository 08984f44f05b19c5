"""Where wanted results rest when their runner ends (scheduler).

A pool can only shrink to nothing if the results that somebody still wants have somewhere to go.
Home is a worker in the scheduler's process that holds data and takes no calls; it exists only
while there is something to hold.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from typing import Any

import dask.config
from distributed import Status, Worker
from distributed.metrics import time
from distributed.security import Security

from dask_flame.protocol import RESTING
from dask_flame.scheduler import FlameScheduler

logger = logging.getLogger("dask_flame")

_LOOK_EVERY = 5.0


class Home:
    """Keeps what retiring runners hold, in the memory of the scheduler's process.

    Parameters
    ----------
    scheduler : FlameScheduler
    security : distributed.Security or None
    directory : callable
        Says where the worker may keep its (empty) scratch folder; None for Dask's default.

    Notes
    -----
    There is no limit on what it holds: a driver that keeps futures of many large results while its
    pool shrinks holds those results in its own memory.
    """

    def __init__(
        self,
        scheduler: FlameScheduler,
        *,
        security: Security | None = None,
        directory: Callable[[], str | None] = lambda: None,
    ) -> None:
        self.scheduler = scheduler
        self.security = security
        self.directory = directory
        self._worker: Worker | None = None
        self._lock = asyncio.Lock()
        self._watching: asyncio.Task[None] | None = None

    async def retire(self, addresses: Collection[str]) -> dict[str, str]:
        """Take in what only these workers hold, then remove them from the scheduler.

        Returns
        -------
        dict of str to str
            Addresses of the workers that stay, with all their data, and why. The others are removed
            and have been told to close: no worker is removed before its results are safe.
        """
        scheduler = self.scheduler
        left = {a for a in addresses if a in scheduler.workers}
        while left:
            gone: set[str] = set()
            moved = await self._take_in(left)
            for address in [a for a in left if not self._at_risk({a})]:
                # Not `retire_workers`: its memory manager takes one of two copies for superfluous,
                # and drops the one at home. Nothing can happen between the check above and this.
                await scheduler.remove_worker(
                    address, expected=True, close=True, stimulus_id=f"flame-retire-{time()}"
                )
                gone.add(address)
            left -= gone
            if not moved:
                break
        return dict.fromkeys(left, "its results could not be moved")

    async def close(self) -> None:
        """Let go of everything."""
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None
        if self._worker is not None:
            worker, self._worker = self._worker, None
            await _end(worker, "flame-home-closed")

    def _at_risk(self, addresses: set[str]) -> dict[Any, list[str]]:
        """Keys that would be lost with these workers, and who has them."""
        # A copy on another runner that is leaving as well does not count.
        leaving = self.scheduler.draining | addresses
        return {
            ts.key: [ws.address for ws in ts.who_has]
            for address in addresses
            if address in self.scheduler.workers
            for ts in self.scheduler.workers[address].has_what
            if all(ws.address in leaving for ws in ts.who_has)
        }

    async def _take_in(self, addresses: set[str]) -> bool:
        """Copy what would be lost with these workers; whether that may have changed something."""
        at_risk = self._at_risk(addresses)
        if not at_risk:
            return False
        async with self._lock:
            worker = await self._open()
            failed = await self.scheduler.gather_on_worker(worker.address, at_risk)
        tasks = self.scheduler.tasks
        wanted = [key for key in failed if key in tasks and tasks[key].state == "memory"]
        if wanted:
            logger.warning("%d results could not be taken home", len(wanted))
        return len(wanted) < len(at_risk)

    async def _open(self) -> Worker:
        if self._worker is None or self._worker.status not in (Status.running, Status.paused):
            with dask.config.set({"distributed.worker.preload": []}):
                worker = _HomeWorker(
                    self.scheduler.address,
                    name="home",
                    nthreads=1,
                    memory_limit=0,
                    local_directory=self.directory(),
                    security=self.security,
                    startup_information={RESTING: lambda worker: True},
                    host=self.scheduler.ip,
                )
            await worker
            # Paused, so that nobody counts it as a place to run calls on.
            worker.status = Status.paused
            self._worker = worker
            if self._watching is None or self._watching.done():
                self._watching = asyncio.create_task(self._watch())
        return self._worker

    async def _watch(self) -> None:
        while self._worker is not None:
            await asyncio.sleep(_LOOK_EVERY)
            async with self._lock:
                worker = self._worker
                ws = self.scheduler.workers.get(worker.address) if worker is not None else None
                if worker is not None and (ws is None or not ws.has_what):
                    self._worker = None
                    await _end(worker, "flame-home-empty")


class _HomeWorker(Worker):
    """A worker that runs nothing: neither calls nor what users want to run on their workers."""

    async def plugin_add(self, *args: Any, **kwargs: Any) -> dict[str, str]:
        return {"status": "OK"}


async def _end(worker: Worker, reason: str) -> None:
    # A heartbeat that is under way when a worker closes is reported as an error: no further one
    # is sent, and the one under way is answered before one that is sent after it.
    worker.periodic_callbacks["heartbeat"].stop()
    if worker.status is Status.paused:
        await worker.heartbeat()
    await worker.close(reason=reason, executor_wait=False)
