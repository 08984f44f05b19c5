"""Placement and demand (scheduler): which runner takes which call, and how many slots are wanted.

With its neighbours (:mod:`~dask_flame.slots`, :mod:`~dask_flame.losses`) the one place that touches
the inside of distributed's scheduler. Stock Dask gives a worker more tasks than it has threads,
unless the tasks belong to a group that looks "root-ish", and moves them later by stealing. Here no
runner is given more calls than it has slots, whatever the calls depend on; the others wait in the
scheduler, in order of priority, and go to the first slot that opens in their pool.
"""

from __future__ import annotations

import logging
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

from distributed import Scheduler
from distributed.metrics import time
from distributed.protocol import ToPickle, pickle
from distributed.scheduler import DEFAULT_EXTENSIONS, TaskState, WorkerState

from dask_flame import serialization
from dask_flame.errors import CallFailed, CallTimeout
from dask_flame.failures import text_of, unharmed
from dask_flame.graphs import name_data_of_map, plain
from dask_flame.lanes import Needs
from dask_flame.losses import Losses
from dask_flame.packed import PackedTask
from dask_flame.pool import Pool
from dask_flame.protocol import FREED, LEAVING, OVERRAN, RETURN, UNSENDABLE
from dask_flame.shuffles import Shuffles
from dask_flame.slots import Slots

logger = logging.getLogger("dask_flame")


@dataclass(frozen=True, slots=True)
class Load:
    """What one runner is doing.

    Attributes
    ----------
    busy : int
        Calls on it that somebody wants, those that left their slot (``secede``) and actors too;
        and one for a P2P shuffle that it holds a part of.
    cancelled : int
        Calls on it that were taken back and whose thread has not come back.
    held : float or None
        Since when, on the clock of :func:`time.monotonic`, the longest of these has been so.
    overran : bool
        Whether one of these was taken back because its own timeout had run out.
    """

    busy: int
    cancelled: int = 0
    held: float | None = None
    overran: bool = False


class FlameScheduler(Scheduler):
    """A :class:`distributed.Scheduler` whose workers never hold more calls than they have slots.

    A worker's slots are its ``nthreads``. A task that called ``secede`` has left its slot; an actor
    holds one; a call that was taken back keeps its slot until its thread comes back. Takes what
    ``Scheduler`` takes.

    Parameters
    ----------
    pools : mapping of str to Pool, optional
        The pools there are; the first takes the calls that name none.

    Attributes
    ----------
    on_change : callable or None
        Called with no argument whenever demand or a runner's load may have changed.
    changed : set of str
        Names of the workers that came, went, or whose load may have changed since the reader last
        cleared it.
    began : set of str
        Names of the workers on which a call has begun since the reader last cleared it.
    draining : set of str
        Addresses of workers that get no further calls; see :meth:`drain`.
    unwelcome : set of str
        Names of workers that get no calls should they still register: they are being ended.
    resting : set of str
        Addresses of workers that only hold data: never given calls, left out of broadcasts.
    spent : set of str
        Names of workers of single-use pools on which a call has ended.
    leaving : dict of str to str
        Names of workers that are being taken away, and why.
    mishaps : deque of (str, str)
        What calls have met with, as a kind of event and a sentence, until the reader takes it.
    """

    def __init__(self, *, pools: Mapping[str, Pool] | None = None, **kwargs: Any) -> None:
        serialization.prepare()
        self.on_change: Callable[[], None] | None = None
        self.changed: set[str] = set()
        self.began: set[str] = set()
        self.draining: set[str] = set()
        self.unwelcome: set[str] = set()
        self.resting: set[str] = set()
        self.spent: set[str] = set()
        self.leaving: dict[str, str] = {}
        self.mishaps: deque[tuple[str, str]] = deque(maxlen=1000)
        self._scattering = 0
        self.slots = Slots(self, pools or {"default": Pool()})
        extensions = {k: v for k, v in DEFAULT_EXTENSIONS.items() if k != "stealing"}
        extensions["shuffle"] = Shuffles
        plugins = (self.slots, *kwargs.pop("plugins", ()))
        super().__init__(extensions=extensions, plugins=plugins, **kwargs)
        # One task a thread, and nothing waits on a worker.
        self.WORKER_SATURATION = 1.0
        # Calls wait here for runners that boot; boots that fail are the fleet's to judge.
        self.no_workers_timeout = None
        # How often a call runs again is for `losses` to say, which knows what ended its runner.
        limit = int(self.allowed_failures)  # type: ignore[has-type]
        self.losses = Losses(self, limit)
        self.allowed_failures = sys.maxsize
        self.stream_handlers[FREED] = self.slots.freed
        self.stream_handlers[OVERRAN] = self.call_overran
        self.stream_handlers[LEAVING] = self.runner_leaves
        self.stream_handlers[UNSENDABLE] = self.slots.cannot_be_sent
        self.stream_handlers[RETURN] = self.slots.wants_back

    # What the driver's half reads and does

    def demand(self, pool: str | None = None) -> int:
        """Slots that could be used now: calls running, calls ready to run, and actors.

        Parameters
        ----------
        pool : str, optional
            By default the first one. Calls that no new runner of it could take, since they name a
            worker or ask for other resources, are not counted.
        """
        default = self.slots.default
        # To scatter needs a runner to scatter to.
        scattering = self._scattering and not self.running and pool in (None, default)
        return bool(scattering) + self.slots.demand(pool or default)

    def waiting(self, pool: str | None = None) -> int:
        """Calls that are ready to run and have no slot: all, or those that wait for this pool."""
        return len(self.slots.lanes) if pool is None else self.slots.lanes.count(pool)

    def load(self, name: str) -> Load:
        """What the worker of this name is doing; nothing, where it is unknown."""
        ws = self.workers.get(self.aliases.get(name, ""))
        if ws is None:
            return Load(0)
        back = self.slots.taken_back(ws).values()
        return Load(
            len(ws.processing | ws.actors) + self.extensions["shuffle"].takes_part(ws.address),
            len(back),
            min((since for since, _ in back), default=None),
            any(overran for _, overran in back),
        )

    def calls_on(self, name: str, most: int = 1) -> list[str]:
        """Keys of so many calls that the worker of this name has now."""
        ws = self.workers.get(self.aliases.get(name, ""))
        return [] if ws is None else [str(ts.key) for ts in islice(ws.processing, most)]

    def drain(self, *addresses: str) -> None:
        """Give these workers no further calls."""
        self.draining.update(addresses)
        for address in addresses:
            if address in self.workers:
                self.slots.recount(self.workers[address])

    def undrain(self, *addresses: str) -> None:
        """Give these workers calls again."""
        self.draining.difference_update(addresses)
        for address in addresses:
            if address in self.workers:
                self.slots.recount(self.workers[address])
        self.reopen()

    def fail_waiting(self, error: Exception, pool: str | None = None) -> int:
        """Fail every call that waits for a runner of this pool (by default the first one).

        Returns
        -------
        int
            Their number.
        """
        keys = self.slots.lanes.waiting_for(pool or self.slots.default)
        self._fail(keys, error)
        return len(keys)

    def fail_soon(self, keys: Iterable[Any], error: Exception) -> None:
        """Fail these calls, as far as they then wait, after this turn of the loop."""
        self.loop.add_callback(self._fail, list(keys), error)

    def note(self, *names: str) -> None:
        """Tell the reader that demand, or the load of these workers, may have changed."""
        self.changed.update(names)
        if self.on_change is not None:
            self.on_change()

    def reopen(self) -> None:
        """Give out slots that may have opened, after all that happens in this turn of the loop."""
        self.loop.add_callback(
            lambda: self.stimulus_queue_slots_maybe_opened(stimulus_id=f"flame-slots-{time()}")
        )

    def _fail(self, keys: Iterable[Any], error: Exception) -> None:
        pickled = pickle.dumps(error)
        for key in keys:
            ts = self.tasks.get(key)
            if ts is not None and ts.state == "no-worker":
                # As distributed does it when `no-workers-timeout` has passed.
                stimulus = f"flame-failed-{time()}"
                further = self.transition(
                    key,
                    "erred",
                    stimulus,
                    exception=pickled,
                    exception_text=repr(error),
                    cause=key,
                )
                self.transitions(further, stimulus)

    def _give_up_on(self, key: Any, error: Exception) -> None:
        """Fail a call that could not be given to a runner, and let it hold up no other."""
        logger.exception("%s could not be given to a runner", key)
        try:
            self._fail([key], CallFailed(f"{key} could not be given to a runner: {text_of(error)}"))
        except Exception:
            logger.exception("%s could not be failed", key)
        if (ts := self.tasks.get(key)) is not None and ts.state == "no-worker":
            self.slots.lanes.discard(ts)

    # What runners say

    def call_overran(
        self, key: Any, worker: str, timeout: float, seconds: float, **kwargs: Any
    ) -> None:
        """A call's own timeout has run out: it has failed, while its thread is being stopped."""
        ts, ws = self.tasks.get(key), self.workers.get(worker)
        if ts is None or ws is None or ts.processing_on is not ws:
            return
        error = CallTimeout(
            f"{key} was not done within its timeout={timeout:g} s: "
            f"it had been executing on {ws.name} for {seconds:.1f} s"
        )
        self.slots.overran(key)
        self.mishaps.append(("overran", str(error)))
        stimulus = f"flame-overran-{time()}"
        self.handle_task_erred(
            key=key,
            stimulus_id=stimulus,
            worker=worker,
            run_id=ts.run_id,
            exception=pickle.dumps(error),
            exception_text=repr(error),
        )
        # The worker takes the call for one that runs: it is to forget it.
        self.worker_send(worker, {"op": "free-keys", "keys": [key], "stimulus_id": stimulus})

    def cast_failed(self, ts: TaskState) -> None:
        """Nobody waits for this call: that it failed has to be said some other way."""
        self.mishaps.append(("failed", f"{ts.key} (cast) has failed: {ts.exception_text}"))
        self.note()

    def say_if_unservable(self, needs: Needs) -> None:
        """Say so where no runner that could be booted has what these calls ask for."""
        pools = self.slots.pools
        pool = pools.get(needs.pool or "")
        if pool is not None and not needs.served_by(pool.offers):
            wanted = ", ".join(f"{name}={amount:g}" for name, amount in sorted(needs.resources))
            why = (
                f"calls ask for what no runner of pool {needs.pool!r} has ({wanted}): they wait "
                "for a worker that has it; write Pool(gpus=…) or Pool(resources=…)"
            )
            self.mishaps.append(("waiting", why))

    def runner_leaves(self, worker: str, why: str, **kwargs: Any) -> None:
        """A runner is being taken away: it gets no calls, and whoever reads this sees it out."""
        ws = self.workers.get(worker)
        if ws is not None:
            self.drain(worker)
            self.leaving[ws.name] = why
            self.note(ws.name)

    # What distributed asks, answered here instead

    def is_rootish(self, ts: TaskState) -> bool:
        # Root-ish tasks would wait in the stock queue, which knows neither lanes nor draining.
        return False

    def decide_worker_non_rootish(self, ts: TaskState) -> WorkerState | None:
        if not ts._queueable:
            # Private, and set by the P2P shuffle alone, on tasks that only reschedule themselves:
            # holding them back would slow the shuffle down, and they keep no slot.
            return super().decide_worker_non_rootish(ts)
        return self.slots.choose(ts)

    def bulk_schedule_unrunnable_after_adding_worker(self, ws: WorkerState) -> dict[Any, Any]:
        # Stock offers all that waits to the newcomer. Its slots are given out, in order, by
        # `stimulus_queue_slots_maybe_opened`, which distributed calls right after this.
        return {}

    def stimulus_queue_slots_maybe_opened(self, *, stimulus_id: str) -> None:
        self.slots.give_back()
        while (key := self.slots.next()) is not None:
            try:
                self.transitions({key: "processing"}, stimulus_id)
            except Exception as error:
                # It is one call's matter. The runner that has just registered would be dropped,
                # and so would those that boot in its place.
                self._give_up_on(key, error)

    def check_idle_saturated(self, ws: WorkerState, occ: float = -1.0) -> None:
        # Called whenever a worker's calls or its status have changed.
        super().check_idle_saturated(ws, occ)
        self.slots.recount(ws)

    def handle_worker_status_change(self, status: Any, worker: Any, stimulus_id: str) -> None:
        super().handle_worker_status_change(status, worker, stimulus_id)
        ws = self.workers.get(worker) if isinstance(worker, str) else worker
        if ws is not None:
            self.slots.recount(ws)

    def _task_to_msg(self, ts: TaskState) -> dict[str, Any]:
        # Private. It runs in the midst of passes over all that waits, and what it returns is read
        # by the connection of a runner: neither is to be harmed by what is in a call.
        message: dict[str, Any] = super()._task_to_msg(ts)
        message["run_spec"] = ToPickle(PackedTask.pack(ts.run_spec))
        message["annotations"] = {k: v for k, v in (ts.annotations or {}).items() if plain(v)}
        return message

    def _create_taskstate_from_graph(
        self, *, dsk: dict[Any, Any], ordered: dict[Any, int], **kwargs: Any
    ) -> Any:
        # Private. The last moment at which a graph can be changed.
        dsk, ordered = name_data_of_map(dsk, ordered, self.tasks)
        return super()._create_taskstate_from_graph(dsk=dsk, ordered=ordered, **kwargs)

    def handle_long_running(self, key: Any, worker: str, **kwargs: Any) -> None:
        ts, ws = self.tasks.get(key), self.workers.get(worker)
        # A call that came back may leave again; distributed takes note of the first time only.
        if ts is None or ws is None or ts not in ws.long_running:
            super().handle_long_running(key=key, worker=worker, **kwargs)
        self.slots.left_again(key, worker)
        self.reopen()

    async def remove_worker(
        self, address: str, *, stimulus_id: str, expected: bool = False, close: bool = True
    ) -> Literal["OK", "already-removed"]:
        ws = self.workers.get(address)
        if ws is not None:
            # Its calls are looked for a place before anybody is told that it is gone.
            self.drain(address)
            self.losses.leaves(ws, expected=expected)
        done: Literal["OK", "already-removed"] = await super().remove_worker(
            address, stimulus_id=stimulus_id, expected=expected, close=close
        )
        return done

    async def scatter(self, *args: Any, **kwargs: Any) -> Any:
        self._scattering += 1
        self.note()
        try:
            return await super().scatter(*args, **kwargs)
        finally:
            self._scattering -= 1
            self.note()

    async def run_function(self, comm: Any, *args: Any, **kwargs: Any) -> Any:
        return await unharmed(super().run_function(comm, *args, **kwargs))

    async def restart_workers(self, *args: Any, **kwargs: Any) -> Any:
        # Stock waits until as many workers have come back: here they come when they are wanted.
        return await super().restart_workers(*args, **{**kwargs, "wait_for_workers": False})

    async def rebalance(self, *, workers: Any = None, **kwargs: Any) -> Any:
        # Stock would take home for the fullest of all workers, or for the emptiest.
        among = self.workers if workers is None else workers
        workers = [a for a in among if a not in self.resting]
        return await super().rebalance(workers=workers, **kwargs)

    async def broadcast(
        self, *, workers: list[str] | None = None, serializers: Any = None, **kwargs: Any
    ) -> Any:
        # distributed gives a client's serializers to those handlers alone that name them.
        if workers is None and kwargs.get("hosts") is None and self.resting:
            workers = [a for a in self.workers if a not in self.resting]
        return await super().broadcast(workers=workers, serializers=serializers, **kwargs)
