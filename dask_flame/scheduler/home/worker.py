"""The worker that home is, and what keeps its results there (scheduler)."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Collection
from pathlib import Path
from typing import Any

from distributed import Status, Worker
from distributed.active_memory_manager import ReduceReplicas
from distributed.metrics import time
from distributed.worker_state_machine import RemoveReplicasEvent

from dask_flame.core.messages import RESTING
from dask_flame.scheduler.dask_histories import forget_lines
from dask_flame.scheduler.home.store import ResultStore
from dask_flame.scheduler.scheduler import FlameScheduler

#: Bytes that may be on their way to home at a time, or from it; one larger result may be, alone.
UNDER_WAY = 64 * 2**20
#: Seconds without a heartbeat, beyond what is usual, after which a runner is not waited for.
SILENT = 30.0
#: Seconds after which results are given out although much is under way: whoever it goes to may be
#: frozen.
_PATIENCE = 5.0
_CAUGHT_UP = "flame-caught-up"


class HomeWorker(Worker):
    """A worker that runs nothing: neither calls nor what users want to run on their workers.

    It takes in what Home gives it, and gives it out to whoever asks.
    """

    shelf: ResultStore

    def __init__(self, *args: Any, memory: int | None, **kwargs: Any) -> None:
        def data(worker_local_directory: str) -> ResultStore:
            self.shelf = ResultStore(Path(worker_local_directory) / "results", memory=memory)
            return self.shelf

        super().__init__(
            *args,
            name="home",
            nthreads=1,
            memory_limit=0,
            startup_information={RESTING: lambda worker: True},
            # What others send stays as it is on the wire.
            deserialize=False,
            data=data,
            **kwargs,
        )
        self._numbers = itertools.count()
        self._marks: dict[int, asyncio.Event] = {}
        self._serving = Traffic(UNDER_WAY)
        #: Told which results cannot be read any more, and why, after they have been let go of.
        self.on_lost: Callable[[dict[Any, str]], None] = lambda why: None
        self.stream_handlers[_CAUGHT_UP] = self._mark

    async def plugin_add(self, *args: Any, **kwargs: Any) -> dict[str, str]:
        return {"status": "OK"}

    async def gather(self, who_has: dict[Any, Any]) -> dict[str, Any]:
        """Refuse: home takes in no more than what would be lost."""
        return {"status": "partial-fail", "keys": list(who_has)}

    async def caught_up(self, scheduler: FlameScheduler) -> None:
        """Wait until all that the scheduler has said so far has been done."""
        mark = next(self._numbers)
        self._marks[mark] = event = asyncio.Event()
        try:
            scheduler.worker_send(self.address, {"op": _CAUGHT_UP, "mark": mark})
            await asyncio.wait_for(event.wait(), SILENT)
        finally:
            del self._marks[mark]

    def _mark(self, mark: int) -> None:
        if mark in self._marks:
            self._marks[mark].set()

    async def get_data(
        self, comm: Any, keys: Collection[Any], who: str | None = None, serializers: Any = None
    ) -> Any:
        # Not the base class's: it would read files here and now, and split frames once more.
        async with self._serving.share(self.shelf.weigh(keys), patience=_PATIENCE):
            parcels = await self.shelf.load(keys)
            self._part_from_broken(keys)
            try:
                await comm.write({"status": "OK", "data": parcels}, serializers=serializers)
                await comm.read(deserializers=serializers)
            except OSError:
                comm.abort()
                raise
        return Status.dont_reply

    def _part_from_broken(self, keys: Collection[Any]) -> None:
        """Let go of what cannot be read: it is computed again, where that can be, or fails."""
        if broken := {key: self.shelf.broken[key] for key in keys if key in self.shelf.broken}:
            stimulus = f"flame-broken-{time()}"
            self.handle_stimulus(RemoveReplicasEvent(keys=list(broken), stimulus_id=stimulus))
            self.on_lost(broken)

    async def close(self, *args: Any, **kwargs: Any) -> Any:
        # First, as the base class removes the folder, file by file, without giving way.
        await self.shelf.close()
        return await super().close(*args, **kwargs)


class HomeKeeps(ReduceReplicas):
    """Distributed's policy, but a copy at home is not the one to drop.

    Stock drops from workers that are paused first. A result would leave home with the first call
    that uses it, be lost with that call's runner, and otherwise come home once more.
    """

    def run(self) -> Any:
        resting = self.manager.scheduler.resting
        for suggestion in super().run():
            elsewhere = {ws for ws in suggestion.ts.who_has if ws.address not in resting}
            yield suggestion._replace(candidates=elsewhere)


def never_drop_from_home(scheduler: FlameScheduler) -> None:
    manager = scheduler.extensions["amm"]
    for policy in list(manager.policies):
        if type(policy) is ReduceReplicas:
            manager.policies.discard(policy)
            manager.add_policy(HomeKeeps())


class Traffic:
    """Bounds the bytes under way; what is larger than the bound goes alone."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._now = 0
        self._fewer = asyncio.Event()

    @contextlib.asynccontextmanager
    async def share(self, nbytes: int, *, patience: float | None = None) -> AsyncIterator[None]:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while self._now and self._now + nbytes > self.most:
                    self._fewer.clear()
                    await self._fewer.wait()
        self._now += nbytes
        try:
            yield
        finally:
            self._now -= nbytes
            self._fewer.set()


async def end(worker: Worker, reason: str) -> None:
    # A heartbeat that is under way when a worker closes is reported as an error: no further one
    # is sent, and the one under way is answered before one that is sent after it.
    worker.periodic_callbacks["heartbeat"].stop()
    if worker.status is Status.paused:
        await worker.heartbeat()
    await worker.close(reason=reason, executor_wait=False)
    forget_lines(worker)
