"""Track the slots of runners, and assign calls to them (scheduler)."""

from __future__ import annotations

import math
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from distributed import Scheduler, SchedulerPlugin, Status
from distributed.scheduler import TaskState, WorkerState

from dask_flame.core.distributed_internals import reschedule
from dask_flame.core.immediate_send import ImmediateSender
from dask_flame.core.messages import HELLO, RESTING, RETURNED, RUNNER, WATCH
from dask_flame.core.pool import Pool
from dask_flame.core.text import label
from dask_flame.errors import PoolError
from dask_flame.scheduler.base import SchedulerBase
from dask_flame.scheduler.free_workers import FreeWorkers
from dask_flame.scheduler.lost_calls import LostCalls
from dask_flame.scheduler.pending import Needs, PendingCalls, slots_of
from dask_flame.scheduler.pinned_results import PinnedResults

#: Seconds after which the slot of an interrupted call that still runs counts as demand.
_LETS_GO = 1.0
#: Minimum interval (seconds) of messages to a client while many calls wait.
_TOGETHER = 0.01
#: Ratio of waiting calls to used slots above which the longer interval applies.
_MANY = 4
#: Maximum number of actors named in a message.
_NAMED = 8


class Slots(SchedulerPlugin):
    """Track the slots of workers, and choose the worker of each call.

    Waiting calls are in distributed's state ``no-worker``. These occupy a worker's slots: running
    calls, except those that have left their slot (``secede``); actors; calls that wait to get
    their slot back; and *taken-back* calls, which were cancelled, timed out or rescheduled while
    their thread still runs.

    Parameters
    ----------
    scheduler : SchedulerBase
    pools : mapping of str to Pool
        The first is the default.
    lost_calls : LostCalls
        The calls that are held although slots are free.
    """

    name = "flame-slots"

    def __init__(
        self, scheduler: SchedulerBase, pools: Mapping[str, Pool], lost_calls: LostCalls
    ) -> None:
        self.scheduler = scheduler
        self._lost_calls = lost_calls
        self.pools = pools
        self.default = next(iter(pools))
        self.pending = PendingCalls(pools)
        self.pins = PinnedResults(scheduler, self._may_run)
        self.running: defaultdict[str, float] = defaultdict(float)
        self._usual_needs: dict[str | None, Needs] = {}
        self._rooms = {name: FreeWorkers() for name in pools}
        self._names: dict[str, str] = {}
        self._pool_of: dict[str, str] = {}
        self._counted: dict[str, float] = {}
        self._on: dict[Any, WorkerState] = {}
        self._actors: dict[Any, WorkerState] = {}
        self._held: dict[str, dict[Any, tuple[float, bool]]] = {}
        self._overran: set[Any] = set()
        self._returning: dict[str, deque[Any]] = {}
        self._returned: dict[str, set[Any]] = {}
        self._interval = 0.0
        self._taken_back: defaultdict[str | None, float] = defaultdict(float)

    # State

    def demand(self, pool: str) -> int:
        """Return the number of slots of this pool that could be used now.

        While calls wait, slots that taken-back calls have held for a while count as well.
        """
        waiting = self.pending.demand[pool]
        stuck = self._stuck(pool) if waiting else 0
        # Rounded, as it is a sum of fractions.
        demand: int = math.ceil(round(self.running[pool] + waiting + stuck, 6))
        return demand

    def _stuck(self, pool: str) -> int:
        """Return the number of this pool's slots that taken-back calls have held for a while."""
        since = time.monotonic() - _LETS_GO
        return sum(
            held <= since
            for address, calls in self._held.items()
            if self._pool_of[address] == pool and address not in self.scheduler.draining
            for held, _ in calls.values()
        )

    def withdrawn(self, pool: str) -> float:
        """Return the demand, in slots, of calls released since the last call of this method."""
        return self._taken_back.pop(pool, 0.0)

    def taken_back(self, ws: WorkerState) -> Mapping[Any, tuple[float, bool]]:
        """Return the taken-back calls of a worker: the time, and whether the call timed out."""
        return self._held.get(ws.address, {})

    def pool_of(self, ts: TaskState) -> str | None:
        """Return the pool of a call; None if it is restricted to workers of any pool."""
        named = (ts.annotations or {}).get("pool")
        if named is not None:
            return str(named)
        if (ts.worker_restrictions or ts.host_restrictions) and not ts.loose_restrictions:
            return None
        if ts.resource_restrictions:
            needs = ts.resource_restrictions
            for name, pool in self.pools.items():
                if all(pool.offers.get(r, 0) >= amount for r, amount in needs.items()):
                    return name
        return self.default

    def pool_at(self, address: str) -> str | None:
        """Return the pool of the worker at an address; None if there is no such worker."""
        return self._pool_of.get(address)

    def fit(self, ts: TaskState) -> set[str]:
        """Return the addresses of the workers on which a call may run, free or not."""
        pool = self.pool_of(ts) or self.default
        scheduler = self.scheduler
        own = {a for a, name in self._pool_of.items() if name == pool} - scheduler.resting
        return own - scheduler.draining or own

    def held_by_actors(self, pool: str, policy: Pool) -> str:
        """Describe the actors that hold all slots of a pool while calls wait; empty otherwise."""
        if not self._actors or not self.pending.count(pool):
            return ""
        held = [
            f"{label(key)} on {ws.name}"
            for key, ws in self._actors.items()
            if self._pool_of.get(ws.address) == pool
        ]
        slots = policy.max * policy.concurrency
        if not held or len(held) < slots:
            return ""
        names = ", ".join(held[:_NAMED]) + ("…" if len(held) > _NAMED else "")
        verb = "an actor holds the only slot" if slots == 1 else f"actors hold all {slots} slots"
        return f"{verb} ({names}); release one, or raise max={policy.max}"

    # Assignment

    def choose(self, ts: TaskState) -> WorkerState | None:
        """Return the worker for a ready call; None if it has to wait."""
        if ts.key in self._lost_calls:
            return None
        pinned = self.pins.holders(ts)
        if pinned is not None:
            free = [ws for ws in pinned if self._open(ws, None) and self._suits(ws, ts)]
            return self._nearest(ts, free)
        pool = self.pool_of(ts)
        if ts.worker_restrictions or ts.host_restrictions:
            valid = self.scheduler.valid_workers(ts) or set()
            asked = (ts.annotations or {}).get("pool")
            named = [ws for ws in valid if self._open(ws, asked) and self._suits(ws, ts)]
            if named or not ts.loose_restrictions:
                return self._nearest(ts, named)
        room = self._rooms.get(pool or self.default)
        if not room:
            return None
        for best in room:
            if self._suits(best, ts):
                break
        else:
            return None
        if not (ts.dependencies or ts.actor):
            return best
        holders = {ws for dts in ts.dependencies for ws in dts.who_has or () if ws in room}
        return self._nearest(ts, [best, *(ws for ws in holders if self._suits(ws, ts))])

    def next(self) -> Any | None:
        """Return the key of the call for the next free slot; None if no call can use one."""
        if not len(self.pending) or not any(self._rooms.values()):
            return None
        # A taken-back call that is submitted again cannot run where its old thread still runs.
        choosy = {key for calls in self._held.values() for key in calls} if self._held else ()
        for ts in self.pending.heads(choosy):
            if self.choose(ts) is not None:
                return ts.key
        return None

    def give_back(self) -> None:
        """Assign slots to the calls that left theirs and need one again."""
        if not self._returning:
            return
        for address, keys in list(self._returning.items()):
            ws = self.scheduler.workers[address]
            while keys and self._free(ws, self._busy(ws)) + len(keys) > 0:
                key = keys.popleft()
                self._returned.setdefault(address, set()).add(key)
                self.scheduler.worker_send(address, {"op": RETURNED, "key": key})
            if not keys:
                del self._returning[address]
            self.recount(ws)

    def recount(self, ws: WorkerState) -> None:
        """Update the slots of a worker after a change of its calls or its status."""
        address = ws.address
        if self.scheduler.workers.get(address) is not ws or address not in self._pool_of:
            return
        # This runs several times per call.
        pool = self._pool_of[address]
        closed = ws.status is not Status.running
        closed = closed or address in self.scheduler.draining or address in self.scheduler.resting
        busy = self._busy(ws)
        counted = 0.0 if closed else busy
        if self.pools[pool].offers and not closed:
            counted += self._beyond_its_share(ws, pool)
        if counted != self._counted[address]:
            self.running[pool] += counted - self._counted[address]
            self._counted[address] = counted
        self._rooms[pool].put(ws, 0 if closed else self._free(ws, busy))

    def _busy(self, ws: WorkerState) -> int:
        busy = len(ws.processing) - len(ws.long_running)
        if ws.actors:
            # One that is being created is already counted as a running call.
            busy += sum(ts not in ws.processing for ts in ws.actors)
        if self._returned:
            busy += len(self._returned.get(ws.address, ()))
        return busy

    def _beyond_its_share(self, ws: WorkerState, pool: str) -> float:
        """Return the slots that running calls count for in addition, by their resources."""
        policy = self.pools[pool]
        return sum(
            slots_of(ts.resource_restrictions.items(), policy.offers, policy.concurrency) - 1
            for ts in ws.processing
            if ts.resource_restrictions
        )

    def _free(self, ws: WorkerState, busy: int) -> int:
        free = int(ws.nthreads) - busy
        if self._held or self._returning:
            free -= len(self.taken_back(ws)) + len(self._returning.get(ws.address, ()))
        return free

    def _open(self, ws: WorkerState, pool: str | None) -> bool:
        own = self._pool_of.get(ws.address)
        return own is not None and pool in (None, own) and ws in self._rooms[own]

    def _suits(self, ws: WorkerState, ts: TaskState) -> bool:
        # A worker cannot distinguish a call from its taken-back predecessor that still runs.
        if self._held and ts.key in self.taken_back(ws):
            return False
        return not ts.resource_restrictions or all(
            ws.resources.get(name, 0) - ws.used_resources.get(name, 0) >= amount
            for name, amount in ts.resource_restrictions.items()
        )

    def _nearest(self, ts: TaskState, candidates: list[WorkerState]) -> WorkerState | None:
        return min(candidates, key=partial(self.scheduler.worker_objective, ts), default=None)

    def _may_run(self, ws: WorkerState, ts: TaskState) -> bool:
        """Return whether this worker may run this call, now or later."""
        scheduler = self.scheduler
        pool = self.pool_of(ts)
        own = self._pool_of.get(ws.address)
        if own is None or pool not in (None, own) or ws.address in scheduler.resting:
            return False
        valid = scheduler.valid_workers(ts) if ts.worker_restrictions else None
        return ws.name not in scheduler.spent and (valid is None or ws in valid)

    # Messages of runners

    def cannot_be_sent(self, key: Any, why: str, **kwargs: Any) -> None:
        """Handle a result that cannot be sent: run the calls that use it on its worker."""
        if not self.pins.note(key, why):
            return
        scheduler = self.scheduler
        ts = scheduler.tasks[key]
        holders = ts.who_has or set()
        where = ", ".join(sorted(str(ws.name) for ws in holders))
        said = f"{key} cannot be sent ({why}): calls that use it run on {where}, which has it"
        scheduler.observer.happened("waiting", said)
        for dts in list(ts.dependents):
            if dts.state == "no-worker":
                self.pending.discard(dts)
                self._wait(dts)
            elif dts.state == "processing" and dts.processing_on not in holders:
                # It would wait there forever for its input.
                reschedule(scheduler, dts.key, f"flame-pinned-{time.time()}")
        scheduler.reopen()

    def freed(self, key: Any, worker: str, **kwargs: Any) -> None:
        """Handle the end of a taken-back call's thread."""
        ws = self.scheduler.workers.get(worker)
        if ws is not None and self._held.get(worker, {}).pop(key, None) is not None:
            self._used(ws)
            self.recount(ws)
            self.scheduler.runner_changed(ws.name)
            self.scheduler.reopen()

    def overran(self, key: Any) -> None:
        """Record that a call is taken back because of its timeout."""
        self._overran.add(key)

    def wants_back(self, key: Any, worker: str, **kwargs: Any) -> None:
        """Handle a call that left its slot and needs one again."""
        ts, ws = self.scheduler.tasks.get(key), self.scheduler.workers.get(worker)
        if ws is None:
            return
        if ts is None or ts not in ws.long_running:
            self.scheduler.worker_send(worker, {"op": RETURNED, "key": key})
            return
        self._returning.setdefault(worker, deque()).append(key)
        self.recount(ws)
        self.scheduler.reopen()

    def left_again(self, key: Any, worker: str) -> None:
        """Handle a call that has left its slot, possibly again."""
        self._returned.get(worker, set()).discard(key)
        ws = self.scheduler.workers.get(worker)
        if ws is not None:
            self.recount(ws)
            self.scheduler.runner_changed(ws.name)

    # Hooks

    def transition(self, key: Any, start: str, finish: str, *args: Any, **kwargs: Any) -> None:
        ts = self.scheduler.tasks[key]
        if start == "no-worker" != finish:
            slots = self.pending.discard(ts)
            if finish == "erred" or _unwanted(ts):
                self._taken_back[self.pool_of(ts)] += slots
            self._pace()
            self.scheduler.demand_changed()
        if start == "processing" != finish:
            self._stopped(ts, over=finish in ("memory", "erred"))
        if finish == "no-worker" != start:
            self._wait(ts)
        elif finish == "processing" != start:
            self._on[key] = ts.processing_on
            self.scheduler.observer.call_began(ts.processing_on.name)
        elif start == "memory" and key in self._actors:
            ws = self._actors.pop(key)
            self._used(ws)
            self.recount(ws)
            self.scheduler.runner_changed(ws.name)
            self.scheduler.reopen()
        if start == "memory" != finish:
            self.pins.forget(key)
        if finish in ("forgotten", "erred"):
            self._lost_calls.forget(key)
        if finish == "erred" and (ts.annotations or {}).get("cast"):
            self._cast_failed(ts)

    def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        ws = scheduler.workers[worker]
        pool = ws.extra.get(RUNNER)
        # Replace the sender that distributed has just made. It starts the one found here after it
        # has called its plugins.
        scheduler.stream_comms[worker] = ImmediateSender(scheduler.loop)
        self._names[worker] = ws.name
        self._pool_of[worker] = pool if pool in self.pools else self.default
        self._counted[worker] = 0
        if ws.extra.get(RESTING):
            self.scheduler.resting.add(worker)
        if ws.name in self.scheduler.unwelcome:
            self.scheduler.draining.add(worker)
        if pool is not None:
            inline = self.scheduler.inline_results.limit
            self.scheduler.worker_send(worker, {"op": HELLO, "inline": inline})
        self.recount(ws)
        self.scheduler.runner_changed(ws.name)

    def remove_worker(self, scheduler: Scheduler, worker: str, **kwargs: Any) -> None:
        pool = self._pool_of.pop(worker)
        self._rooms[pool].remove(worker)
        self.running[pool] -= self._counted.pop(worker)
        for known in (self._held, self._returning, self._returned):
            known.pop(worker, None)
        self.scheduler.draining.discard(worker)
        self.scheduler.resting.discard(worker)
        name = self._names.pop(worker)
        self.scheduler.paused.pop(name, None)
        self.scheduler.runner_changed(name)

    def restart(self, scheduler: Scheduler) -> None:
        self.pending.clear()
        self._overran.clear()
        for known in (self._on, self._actors, self._held, self._returning, self._returned):
            known.clear()
        for ws in scheduler.workers.values():
            self.recount(ws)
        self.scheduler.demand_changed()

    def _wait(self, ts: TaskState) -> None:
        pool = self.pool_of(ts)
        held = ts.key in self._lost_calls
        pinned = self.pins.holders(ts)
        usual = not held and pinned is None and not _is_choosy(ts)
        needs = self._usual_needs.get(pool) if usual else None
        if needs is None:
            needs = _needs(ts, pool, held=held, pinned=pinned)
            if usual:
                self._usual_needs[pool] = needs
        if self.pending.add(ts, needs) and needs.resources and not needs.workers | needs.hosts:
            self._say_if_unservable(needs)
        self._pace()
        if held:
            self._lost_calls.waits(ts.key)
        elif pool is not None and pool not in self.pools:
            error = PoolError(
                f"there is no pool {pool!r}; there are {', '.join(map(repr, self.pools))}"
            )
            self.scheduler.fail_soon([ts.key], error)
        elif pinned == []:
            self.scheduler.fail_soon([ts.key], self.pins.error(ts))
        self.scheduler.demand_changed()

    def _pace(self) -> None:
        """Send results to clients in larger batches while many calls wait.

        A message costs both sides more than a result in it. While many calls wait, runners get
        these whether or not the client has received earlier results.
        """
        interval = _TOGETHER if len(self.pending) > _MANY * sum(self.running.values()) else 0.0
        if interval != self._interval:
            self._interval = interval
            for sender in self.scheduler.client_comms.values():
                sender.interval = interval

    def _stopped(self, ts: TaskState, *, over: bool) -> None:
        key = ts.key
        ws = self._on.pop(key, None)
        if ws is not None and not over:
            # Distributed would keep an actor that was taken back during its creation forever.
            ws.actors.discard(ts)
        if ws is not None and not over and _unwanted(ts):
            self._taken_back[self._pool_of.get(ws.address)] += 1
        overran = key in self._overran
        self._overran.discard(key)
        if ws is None or self.scheduler.workers.get(ws.address) is not ws:
            self.scheduler.demand_changed()
            return
        self._returned.get(ws.address, set()).discard(key)
        if key in self._returning.get(ws.address, ()):
            self._returning[ws.address].remove(key)
        if (overran or not over) and ws.extra.get(RUNNER):
            # The thread of a taken-back call may continue: its slot is free when the runner reports
            # it. Distributed considers it free immediately.
            self._held.setdefault(ws.address, {})[key] = (time.monotonic(), overran)
            self.scheduler.loop.call_later(_LETS_GO, self.scheduler.demand_changed)
            if not overran:
                self.scheduler.worker_send(ws.address, {"op": WATCH, "key": key, "interrupt": True})
        else:
            if ts.actor and ts.state == "memory":
                self._actors[key] = ws
            else:
                self._used(ws)
            if not over:
                self.scheduler.reopen()
        self.recount(ws)
        self.scheduler.runner_changed(ws.name)

    def _used(self, ws: WorkerState) -> None:
        """Record the end of a call: a worker of a single-use pool takes no further calls."""
        if self.pools[self._pool_of[ws.address]].single_use:
            self.scheduler.draining.add(ws.address)
            self.scheduler.spent.add(ws.name)

    def _cast_failed(self, ts: TaskState) -> None:
        """Record the failure of a cast as an event, as no client waits for it."""
        said = f"{ts.key} (cast) has failed: {ts.exception_text}"
        self.scheduler.observer.happened("failed", said)
        self.scheduler.demand_changed()

    def _say_if_unservable(self, needs: Needs) -> None:
        """Record an event if no runner of the pool can have the resources that calls request."""
        pool = self.pools.get(needs.pool or "")
        if pool is not None and not needs.served_by(pool.offers):
            wanted = ", ".join(f"{name}={amount:g}" for name, amount in sorted(needs.resources))
            why = (
                f"calls ask for what no runner of pool {needs.pool!r} has ({wanted}): they wait "
                "for a worker that has it; write Pool(gpus=…) or Pool(resources=…)"
            )
            self.scheduler.observer.happened("waiting", why)


def _unwanted(ts: TaskState) -> bool:
    """Return whether no client or waiting dependent needs this call any more."""
    return not ts.who_wants and not ts.waiters


def _is_choosy(ts: TaskState) -> bool:
    """Return whether a call requires more than its pool."""
    return bool(
        ts.worker_restrictions
        or ts.host_restrictions
        or ts.resource_restrictions
        or ts.loose_restrictions
    )


def _needs(
    ts: TaskState, pool: str | None, *, held: bool, pinned: Iterable[WorkerState] | None
) -> Needs:
    workers = ts.worker_restrictions or () if pinned is None else (ws.address for ws in pinned)
    return Needs(
        pool,
        frozenset(workers),
        frozenset(ts.host_restrictions or ()),
        frozenset((ts.resource_restrictions or {}).items()),
        bool(ts.loose_restrictions) and pinned is None,
        held,
    )
