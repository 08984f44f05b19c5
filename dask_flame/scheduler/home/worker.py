"""The worker that stores results, and the policy that keeps them there (scheduler)."""

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

from dask_flame.core.guarded_server import GuardedServer
from dask_flame.core.messages import RESTING
from dask_flame.scheduler.dask_histories import forget_lines
from dask_flame.scheduler.home.store import ResultStore
from dask_flame.scheduler.scheduler import FlameScheduler

#: Maximum bytes in transfer to home, or from it; one larger result may be transferred alone.
UNDER_WAY = 64 * 2**20
#: Seconds without a heartbeat, beyond the usual interval, after which a runner is not waited for.
SILENT = 30.0
#: Seconds after which results are sent although much is in transfer: its receiver may be frozen.
_PATIENCE = 5.0
_CAUGHT_UP = "flame-caught-up"


class HomeWorker(GuardedServer, Worker):
    """A worker that stores results and runs neither calls nor worker plugins.

    It stores the results that Home gives it, and sends them to workers and clients on request.
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
            # Keep results serialized, as they were sent.
            deserialize=False,
            data=data,
            **kwargs,
        )
        self._serving = Traffic(UNDER_WAY)
        #: Called with the keys of lost results and the reasons, after they were removed.
        self.on_lost: Callable[[dict[Any, str]], None] = lambda why: None
        self.stream_handlers[_CAUGHT_UP] = self._answer

    async def plugin_add(self, *args: Any, **kwargs: Any) -> dict[str, str]:
        return {"status": "OK"}

    async def gather(self, who_has: dict[Any, Any]) -> dict[str, Any]:
        """Refuse: home stores only results that would be lost."""
        return {"status": "partial-fail", "keys": list(who_has)}

    def _answer(self, mark: int) -> None:
        self.batched_send({"op": _CAUGHT_UP, "mark": mark})

    async def get_data(
        self, comm: Any, keys: Collection[Any], who: str | None = None, serializers: Any = None
    ) -> Any:
        # The base class would read files on the event loop, and split frames again.
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
        """Remove results that can no longer be read: they are computed again, or fail."""
        if broken := {key: self.shelf.broken[key] for key in keys if key in self.shelf.broken}:
            stimulus = f"flame-broken-{time()}"
            self.handle_stimulus(RemoveReplicasEvent(keys=list(broken), stimulus_id=stimulus))
            self.on_lost(broken)

    async def close(self, *args: Any, **kwargs: Any) -> Any:
        # Close the store first: the base class removes the folder file by file, and blocks.
        await self.shelf.close()
        return await super().close(*args, **kwargs)


class Marks:
    """Find out when the scheduler and a worker that stores results know the same.

    Home adds copies at once on both sides. The scheduler also removes them at once, but the worker
    later, and reports that later still. Until then, its report would be taken for the removal of a
    new copy with the same key: the result would be lost with its runner.
    """

    def __init__(self, scheduler: FlameScheduler) -> None:
        self._scheduler = scheduler
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Event] = {}
        scheduler.stream_handlers[_CAUGHT_UP] = self._answered

    async def caught_up(self, worker: HomeWorker) -> None:
        """Wait until both have handled all messages that they have sent to each other so far."""
        mark = next(self._numbers)
        self._waiting[mark] = event = asyncio.Event()
        try:
            self._scheduler.worker_send(worker.address, {"op": _CAUGHT_UP, "mark": mark})
            await asyncio.wait_for(event.wait(), SILENT)
        finally:
            del self._waiting[mark]

    def _answered(self, mark: int, worker: str) -> None:
        if mark in self._waiting:
            self._waiting[mark].set()


class HomeKeeps(ReduceReplicas):
    """distributed's policy, except that copies at home are not dropped.

    Stock distributed drops replicas from paused workers first. A result would then leave home with
    the first call that uses it. It could be lost with that call's runner, or would have to be
    copied to home again.

    Parameters
    ----------
    copying : callable
        Return whether results are being copied to home. Until it is known whether they fit there,
        their runners keep them too.
    """

    def __init__(self, copying: Callable[[], bool]) -> None:
        self._copying = copying

    def run(self) -> Any:
        resting = self.manager.scheduler.resting
        for suggestion in super().run():
            who_has = suggestion.ts.who_has
            elsewhere = {ws for ws in who_has if ws.address not in resting}
            if len(elsewhere) == len(who_has) or not self._copying():
                yield suggestion._replace(candidates=elsewhere)


def never_drop_from_home(scheduler: FlameScheduler, copying: Callable[[], bool]) -> None:
    manager = scheduler.extensions["amm"]
    for policy in list(manager.policies):
        if type(policy) is ReduceReplicas:
            manager.policies.discard(policy)
            manager.add_policy(HomeKeeps(copying))


class Traffic:
    """Limit the bytes in transfer; a transfer larger than the limit runs alone.

    Parameters
    ----------
    most : int
        Bytes.
    """

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
    # A heartbeat in progress while a worker closes is logged as an error. So stop the heartbeats,
    # and send a last one: the one in progress is answered before it.
    worker.periodic_callbacks["heartbeat"].stop()
    if worker.status is Status.paused:
        await worker.heartbeat()
    await worker.close(reason=reason, executor_wait=False)
    forget_lines(worker)
