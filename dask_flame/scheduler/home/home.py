"""Storage for results whose runner ends (scheduler).

A pool can only shrink to zero if results with futures are stored elsewhere. Home is a worker in the
scheduler's process that holds data and runs no calls. It exists only while it holds results. It
does not deserialize them: it stores and sends the bytes that their runner sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Any

import dask.config
from distributed import Status, Worker
from distributed.comm.addressing import unparse_host_port
from distributed.metrics import time
from distributed.scheduler import TaskState, heartbeat_interval
from distributed.security import Security
from distributed.utils_comm import gather_from_workers

from dask_flame.comm.addresses import PREFIX, new_socket_beside
from dask_flame.core.text import memory
from dask_flame.scheduler.home import worker as resting
from dask_flame.scheduler.home.store import Parcel
from dask_flame.scheduler.home.worker import (
    UNDER_WAY,
    HomeWorker,
    Marks,
    Traffic,
    end,
    never_drop_from_home,
)
from dask_flame.scheduler.scheduler import FlameScheduler

logger = logging.getLogger("dask_flame")

_LOOK_EVERY = 5.0
#: Results are requested in batches of about this size (bytes), and of at most this many results.
_BATCH = 16 * 2**20
_BATCH_KEYS = 500


class Home:
    """Store the results of retiring runners, in memory of the scheduler's process and on disk.

    Parameters
    ----------
    scheduler : FlameScheduler
    security : distributed.Security, optional
    directory : callable, optional
        Return the folder for files, which home may remove; None for Dask's default.
    limit : int, optional
        Maximum bytes of results, in memory and on disk together; unlimited by default.
    memory : int, optional
        Maximum bytes of results in memory. Beyond it, the least recently used results are written
        to files. By default, all results are kept in memory.

    Notes
    -----
    The size of a result is the number of bytes that its runner sends. In addition to ``memory``, up
    to 64 MiB that are in transfer, or one larger result, use memory.
    """

    def __init__(
        self,
        scheduler: FlameScheduler,
        *,
        security: Security | None = None,
        directory: Callable[[], str | None] = lambda: None,
        limit: int | None = None,
        memory: int | None = None,
    ) -> None:
        self.scheduler = scheduler
        self.security = security
        self.directory = directory
        self.limit = limit
        self._memory = memory
        self._worker: HomeWorker | None = None
        self._door = asyncio.Lock()  # held while the worker is started or closed
        self._watching: asyncio.Task[None] | None = None
        self._visits = 0
        self._promised = 0
        self._staying: set[str] = set()
        self._traffic = Traffic(UNDER_WAY)
        self._marks = Marks(scheduler)
        self._closed = False
        never_drop_from_home(scheduler, lambda: self._visits > 0)
        scheduler.rescue = self.rescue

    @property
    def worker(self) -> HomeWorker | None:
        """The worker that holds the results; None if there are none."""
        return self._worker

    @property
    def held(self) -> int:
        """Number of results in home."""
        return len(self._worker.shelf) if self._worker is not None else 0

    @property
    def memory(self) -> int:
        """Bytes of results in memory."""
        return self._worker.shelf.memory if self._worker is not None else 0

    @property
    def disk(self) -> int:
        """Bytes of results in files."""
        return self._worker.shelf.disk if self._worker is not None else 0

    async def copy(self, addresses: Collection[str]) -> dict[str, str]:
        """Copy the results that only these workers hold; the workers continue.

        Returns
        -------
        dict of str to str
            The reason for each worker with results that were not copied, by address.
        """
        return await self._visit(addresses, remove=False)

    async def retire(self, addresses: Collection[str]) -> dict[str, str]:
        """Copy the results that only these workers hold, then remove the workers.

        A busy worker is removed too once its results are copied: its calls run again on other
        workers. Actors cannot be moved, and end with their worker.

        Returns
        -------
        dict of str to str
            The reason for each worker that was not removed, by address; it keeps all its data. All
            others have been removed and asked to close, each after its results were copied.
        """
        return await self._visit(addresses, remove=True)

    async def _visit(self, addresses: Collection[str], *, remove: bool) -> dict[str, str]:
        leaving = {
            address
            for address in addresses
            if address in self.scheduler.workers and address not in self.scheduler.resting
        }
        stay: dict[str, str] = {}
        promised: dict[str, int] = {}
        try:
            # Smallest first, to retire as many workers as possible.
            risks = {address: self._at_risk(address, leaving) for address in leaving}
            for address in sorted(risks, key=lambda a: _nbytes(risks[a])):
                need = _nbytes(risks[address])
                if need > self._room():
                    stay[address] = self._no_room(risks[address])
                    self._staying.add(address)
                else:
                    promised[address] = need
                    self._promised += need
            outcomes = await asyncio.gather(
                *(self._see_off(address, leaving, promised, remove) for address in promised)
            )
            reasons = dict(zip(promised, outcomes, strict=True))
            if len(reasons) > 1:
                # A worker that did not fit may have taken space that others need: try again.
                for address in [a for a, why in reasons.items() if isinstance(why, _Full)]:
                    self._staying.discard(address)
                    reasons[address] = await self._see_off(address, leaving, promised, remove)
        finally:
            self._promised -= sum(promised.values())
            self._staying -= leaving
        return stay | {address: str(why) for address, why in reasons.items() if why}

    async def close(self) -> None:
        """Release everything: memory, files and the thread that writes them."""
        self._closed = True
        async with self._door:
            if self._watching is not None:
                self._watching.cancel()
                self._watching = None
            if self._worker is not None:
                worker, self._worker = self._worker, None
                await end(worker, "flame-home-closed")

    # Holders of results

    def _at_risk(self, address: str, leaving: Collection[str]) -> list[TaskState]:
        """Return the results that only this worker, or others that are leaving too, hold."""
        scheduler = self.scheduler
        ws = scheduler.workers.get(address)
        if ws is None:
            return []

        def leaves(other: str) -> bool:
            return other == address or (
                other not in self._staying and (other in leaving or other in scheduler.draining)
            )

        return [
            ts
            for ts in ws.has_what
            if not ts.actor and all(leaves(other.address) for other in ts.who_has or ())
        ]

    async def _surely_at_risk(self, address: str, leaving: Collection[str]) -> list[TaskState]:
        """Return the same, once the scheduler knows which copies home still has."""
        worker = self._worker
        if worker is not None and self._is_there(worker):
            with contextlib.suppress(TimeoutError):
                await self._marks.caught_up(worker)
        return self._at_risk(address, leaving)

    def _room(self) -> float:
        if self.limit is None:
            return math.inf
        return self.limit - self.memory - self.disk - self._promised

    def _no_room(self, tasks: Collection[TaskState]) -> _Full:
        limit = self.limit or 0
        verb = "does" if len(tasks) == 1 else "do"
        return _Full(
            f"its {_results(len(tasks))} ({memory(_nbytes(tasks), beside=limit)}) {verb} not fit "
            f"at home: {memory(limit - int(self._room()), beside=limit)} of "
            f"home_limit={memory(limit)} are taken; raise home_limit or release futures"
        )

    # Transfers

    async def _see_off(
        self, address: str, leaving: Collection[str], promised: dict[str, int], remove: bool
    ) -> str | None:
        """Copy a worker's results, and remove it if asked.

        Parameters
        ----------
        address : str
        leaving : collection of str
            Addresses of all workers that are leaving.
        promised : dict of str to int
            Bytes reserved for each worker.
        remove : bool
            Whether to remove the worker.

        Returns
        -------
        str or None
            The reason why it stays; None if all results were copied.
        """
        brought: list[TaskState] = []
        self._visits += 1
        try:
            while tasks := await self._surely_at_risk(address, leaving):
                for batch in _batches(tasks):
                    try:
                        reason = await self._bring(address, batch, promised)
                    except Exception as error:
                        logger.debug("results could not come home", exc_info=True)
                        reason = _not_copied(len(tasks), error)
                    at_home = [ts for ts in batch if self._has(ts)]
                    brought += at_home
                    stuck = not at_home and set(batch) & set(self._at_risk(address, leaving))
                    if reason is None and stuck:
                        reason = _not_copied(len(batch), await self._why_not_sent(batch))
                    if reason is not None:
                        self._staying.add(address)
                        await self._take_back(brought)
                        return reason
            if remove:
                # Not `retire_workers`, which requires running workers to move results to. There is
                # no await between the check above and this call.
                await self.scheduler.remove_worker(
                    address, expected=True, close=True, stimulus_id=f"flame-retire-{time()}"
                )
            return None
        finally:
            self._visits -= 1

    async def _bring(
        self, address: str, tasks: Collection[TaskState], promised: dict[str, int]
    ) -> str | None:
        """Copy results from a worker; return the reason if that is not possible, else None."""
        estimate = _nbytes(tasks)
        async with self._traffic.share(estimate):
            worker = await self._open()
            # An earlier result with the same key may still have to be removed.
            await self._marks.caught_up(worker)
            runs = {ts.key: (ts, ts.run_id) for ts in tasks if self._stands(ts) and ts.who_has}
            inline = self.scheduler.inline_results.serialized(runs)
            data, _, _, silent = await self._unless_silent(
                address,
                gather_from_workers(
                    {key: [address] for key in runs if key not in inline},
                    rpc=worker.rpc,
                    who=worker.address,
                ),
            )
            data.update(inline)
            if silent and address in self.scheduler.workers:
                return _not_copied(len(runs), "their runner does not answer")
            parcels = {key: Parcel(value.header, value.frames) for key, value in data.items()}
            del data
            problems = [why for parcel in parcels.values() if (why := parcel.problem())]
            if problems:
                return _not_copied(len(problems), problems[0])
            # Skip results that were released or computed again during the transfer.
            parcels = {
                key: parcel
                for key, parcel in parcels.items()
                if self._stands(runs[key][0]) and runs[key][0].run_id == runs[key][1]
            }
            done = min(estimate, promised[address])
            promised[address] -= done
            self._promised -= done
            if sum(parcel.nbytes for parcel in parcels.values()) > self._room():
                return self._no_room(tasks)
            self._put(worker, parcels)
            try:
                await worker.shelf.settle()
            except OSError as error:
                return _Full(
                    f"{_not_copied(len(parcels), error)}; make room in {worker.shelf.folder.parent}"
                    ", or raise flame.home.memory in Dask's configuration"
                )
        return None

    async def rescue(self, address: str) -> None:
        """Keep the copies of small results of a worker that is about to be removed."""
        scheduler = self.scheduler
        if address in scheduler.resting:
            return  # home itself
        tasks = [ts for ts in self._at_risk(address, ()) if ts.key in scheduler.inline_results]
        if not tasks or self._closed or scheduler.status is not Status.running:
            return
        try:
            worker = await self._open()
            await self._marks.caught_up(worker)
        except Exception:
            # Their calls run again, as without copies.
            logger.debug("home could not be opened", exc_info=True)
            return
        keys = [ts.key for ts in tasks if self._stands(ts)]
        parcels: dict[Any, Parcel] = {}
        room = self._room()
        for key, value in scheduler.inline_results.serialized(keys).items():
            parcel = Parcel(value.header, value.frames)
            room -= parcel.nbytes
            if room >= 0:
                parcels[key] = parcel
        self._put(worker, parcels)

    def _put(self, worker: HomeWorker, parcels: dict[Any, Parcel]) -> None:
        ws = self.scheduler.workers.get(worker.address)
        if ws is None:
            return  # home was closed, for example by `client.restart`
        stimulus = f"flame-home-{time()}"
        worker.update_data(parcels, stimulus_id=stimulus)
        for key in parcels:
            # The worker does not report them.
            self.scheduler.add_replica(self.scheduler.tasks[key], ws)

    async def _take_back(self, tasks: Collection[TaskState]) -> None:
        """Remove the copies of results that other workers hold too."""
        superfluous = [
            ts.key for ts in tasks if self._has(ts) and self._stands(ts) and len(ts.who_has) > 1
        ]
        worker = self._worker
        if superfluous and worker is not None and self._is_there(worker):
            self.scheduler.request_remove_replicas(
                worker.address, superfluous, stimulus_id=f"flame-home-{time()}"
            )
            with contextlib.suppress(TimeoutError):
                await self._marks.caught_up(worker)

    async def _why_not_sent(self, tasks: Collection[TaskState]) -> str:
        """Return why a runner has not sent these results; its report arrives at about this time."""
        pins = self.scheduler.slots.pins
        for _ in range(50):
            if why := next(filter(None, (pins.why(ts.key) for ts in tasks)), ""):
                return why
            await asyncio.sleep(0.02)
        return "their runner did not send them"

    def _stands(self, ts: TaskState) -> bool:
        return self.scheduler.tasks.get(ts.key) is ts and ts.state == "memory"

    def _has(self, ts: TaskState) -> bool:
        return any(ws.address in self.scheduler.resting for ws in ts.who_has or ())

    async def _unless_silent(self, address: str, work: Any) -> Any:
        """Wait for work with a worker, and raise TimeoutError if the worker stops responding."""
        task = asyncio.ensure_future(work)
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=1)
                ws = self.scheduler.workers.get(address)
                longest = resting.SILENT + 3 * heartbeat_interval(len(self.scheduler.workers))
                if not task.done() and ws is not None and time() - ws.last_seen > longest:
                    raise TimeoutError(f"no sign of life from their runner for {longest:.0f} s")
            return task.result()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task})

    # The worker

    async def _open(self) -> HomeWorker:
        # The caller may be cancelled, and a worker whose start is interrupted cannot be closed.
        opening = asyncio.ensure_future(self._opened())
        opening.add_done_callback(lambda task: task.cancelled() or task.exception())
        return await asyncio.shield(opening)

    async def _opened(self) -> HomeWorker:
        async with self._door:
            if self._closed:
                raise RuntimeError("home is closed")
            if self._worker is not None and not self._is_there(self._worker):
                worker, self._worker = self._worker, None
                await end(worker, "flame-home-lost")
            if self._worker is None:
                with dask.config.set({"distributed.worker.preload": []}):
                    worker = HomeWorker(
                        self.scheduler.address,
                        memory=self._memory,
                        local_directory=self.directory(),
                        security=self.security,
                        host=self._host(),
                    )
                worker.on_lost = partial(self._lost, worker)
                await worker
                # A paused worker is not counted as a place to run calls.
                worker.status = Status.paused
                self._worker = worker
                if self._watching is None or self._watching.done():
                    self._watching = asyncio.create_task(self._watch())
            return self._worker

    def _host(self) -> str:
        address: str = self.scheduler.address
        ip: str = self.scheduler.ip
        # An IPv6 address in brackets, as distributed takes hosts.
        return new_socket_beside(address) if address.startswith(PREFIX) else unparse_host_port(ip)

    def _lost(self, worker: HomeWorker, why: dict[Any, str]) -> None:
        """Handle results that can no longer be read: their calls run again or fail."""
        self.scheduler.lost_calls.broken(worker.address, why)

    def _is_there(self, worker: Worker) -> bool:
        return worker.address in self.scheduler.workers and worker.status in (
            Status.running,
            Status.paused,
        )

    async def _watch(self) -> None:
        while self._worker is not None:
            await asyncio.sleep(_LOOK_EVERY)
            async with self._door:
                worker = self._worker
                if worker is None or self._visits:
                    continue
                ws = self.scheduler.workers.get(worker.address)
                if ws is None or not ws.has_what:
                    self._worker = None
                    await end(worker, "flame-home-empty")


class _Full(str):
    """A reason to stay that may no longer hold when home has more space."""


def _batches(tasks: Collection[TaskState]) -> Iterator[list[TaskState]]:
    batch: list[TaskState] = []
    nbytes = 0
    for ts in tasks:
        nbytes += ts.get_nbytes()
        if batch and (len(batch) == _BATCH_KEYS or nbytes > _BATCH):
            yield batch
            batch, nbytes = [], ts.get_nbytes()
        batch.append(ts)
    if batch:
        yield batch


def _nbytes(tasks: Collection[TaskState]) -> int:
    return sum(ts.get_nbytes() for ts in tasks)


def _results(n: int) -> str:
    return "1 result" if n == 1 else f"{n} results"


def _not_copied(n: int, why: object) -> str:
    if isinstance(why, Exception):
        why = f"{type(why).__name__}: {why}"
    return f"{_results(n)} could not be copied: {why}"
