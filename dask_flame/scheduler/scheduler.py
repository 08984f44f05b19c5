"""Placement of calls and demand for slots (scheduler).

Together with the other modules of this package, such as :mod:`~dask_flame.scheduler.slots`, this
extends the internals of distributed's scheduler. Stock Dask assigns more tasks to a worker than it
has threads, unless they are "root-ish", and later moves them by work stealing. Here a runner never
gets more calls than it has slots, whatever the calls depend on. The other calls wait in the
scheduler, in order of priority, for the first free slot in their pool.
"""

from __future__ import annotations

import logging
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Literal

from distributed import Status
from distributed.comm import Comm
from distributed.metrics import time
from distributed.protocol import ToPickle, pickle
from distributed.scheduler import DEFAULT_EXTENSIONS, TaskState, WorkerState

from dask_flame.code.scheduler.store import CodeStore
from dask_flame.core import python_versions
from dask_flame.core.client_ids import is_observer
from dask_flame.core.distributed_internals import queueable
from dask_flame.core.guarded_server import GuardedServer
from dask_flame.core.immediate_send import SuccessorSender
from dask_flame.core.messages import (
    ATTACH,
    CALL_NAME,
    FILES_REFUSED,
    FREED,
    HAVE,
    LEAVING,
    LOOK,
    OVERRAN,
    PACKAGES,
    PAUSED,
    RETURN,
    RUNNER,
    SETUP,
    UNSENDABLE,
)
from dask_flame.core.pool import Pool
from dask_flame.core.text import is_generated
from dask_flame.core.text import memory as shown
from dask_flame.errors import CallFailed, CallTimeout
from dask_flame.files.scheduler.fetches import Fetches
from dask_flame.packages.check import RegistrationCheck, told_versions
from dask_flame.reports.scheduler.lookup import plugin_of
from dask_flame.reports.scheduler.run_book import submitted
from dask_flame.scheduler import dask_histories, small_graphs
from dask_flame.scheduler.attachments import attach_to
from dask_flame.scheduler.awaited_workers import AwaitedWorkers
from dask_flame.scheduler.client_answers import ClientAnswers
from dask_flame.scheduler.failed_calls import FailedCalls
from dask_flame.scheduler.looks import look_at
from dask_flame.scheduler.lost_calls import LostCalls
from dask_flame.scheduler.observers import refuse_graph, refuse_observers
from dask_flame.scheduler.shuffles import Shuffles
from dask_flame.scheduler.slots import Slots
from dask_flame.serialization import pickling
from dask_flame.serialization.failures import message_of, shielded, text_of
from dask_flame.serialization.graphs import name_data_of_map, plain
from dask_flame.serialization.packed import PackedTask

logger = logging.getLogger("dask_flame")


@dataclass(frozen=True, slots=True)
class Load:
    """The load of one runner.

    Attributes
    ----------
    busy : int
        Number of calls, including actors and calls that left their slot (``secede``), plus one if
        it participates in a P2P shuffle, plus one if files are fetched from it.
    cancelled : int, default 0
        Number of cancelled, timed out or rescheduled calls whose threads still run.
    held : float, optional
        Time at which the oldest of these was taken back, as :func:`time.monotonic`.
    overran : bool, default False
        Whether one of these has timed out.
    paused : str, default ""
        Why it begins no calls; empty if it does.
    spent : bool, default False
        Whether it takes no further calls, as its pool is ``single_use`` and a call has ended on it.
    """

    busy: int
    cancelled: int = 0
    held: float | None = None
    overran: bool = False
    paused: str = ""
    spent: bool = False


class FlameScheduler(GuardedServer, ClientAnswers):
    """A :class:`distributed.Scheduler` whose workers never have more calls than slots.

    A worker has ``nthreads`` slots. A task that called ``secede`` has left its slot, and an actor
    occupies one. A cancelled call keeps its slot until its thread ends.

    Parameters
    ----------
    pools : mapping of str to Pool, optional
        The pools of the cluster when it starts; the first is the default.
    policies : callable, optional
        Return the present policies of these pools, which may have been resized. By default, they
        are those at the start.
    shared_folder : callable, optional
        Return a folder that runners share with this process, or None.
    packages : RegistrationCheck, optional
        Refuses runners whose packages would not work with the driver's; by default, all may
        register.
    **kwargs
        Parameters of ``Scheduler``.

    Attributes
    ----------
    policies : callable
        Read by :mod:`dask_flame.core.capacity`, which a Client runs in the scheduler.
    graphs_being_read : int
        Number of graphs that clients have submitted, and whose tasks are not known yet.
    rescue : callable or None
        Awaited with the address of a worker that is about to be removed: moves the copies of its
        results home.
    """

    def __init__(
        self,
        *,
        pools: Mapping[str, Pool] | None = None,
        policies: Callable[[], Mapping[str, Pool]] | None = None,
        shared_folder: Callable[[], str | None] = lambda: None,
        packages: RegistrationCheck | None = None,
        **kwargs: Any,
    ) -> None:
        pickling.prepare(interruptible=True)
        small_graphs.prepare()
        self.graphs_being_read = 0
        self._removed: deque[str] = deque(maxlen=1000)
        self.rescue: Callable[[str], Awaitable[None]] | None = None
        self.lost_calls = LostCalls(self)
        self.slots = Slots(self, pools or {"default": Pool()}, self.lost_calls)
        self._packages = packages
        self.policies = policies or (lambda: self.slots.pools)
        self.awaited_workers = AwaitedWorkers(self, self.slots)
        extensions = {k: v for k, v in DEFAULT_EXTENSIONS.items() if k != "stealing"}
        extensions["shuffle"] = partial(Shuffles, fit=self.slots.fit)
        extensions["spans"] = dask_histories.Spans
        self.code = CodeStore(self.is_runner, shared_folder)
        self.fetches = Fetches(
            self, changed=self.runner_changed, idle_timeout=self._idle_timeout_of
        )
        self.failed_calls = FailedCalls(self)
        # After `slots`, which makes the sender for a new worker.
        plugins = (
            self.slots,
            self.code,
            self.fetches,
            self.failed_calls,
            *kwargs.pop("plugins", ()),
        )
        try:
            super().__init__(extensions=extensions, plugins=plugins, **kwargs)
        except BaseException:
            # It has started the dashboard's server, if a warning about its port is an error.
            if (server := getattr(self, "http_server", None)) is not None:
                server.stop()
            raise
        dask_histories.bound(self)
        # One task per thread: no task waits on a worker.
        self.WORKER_SATURATION = 1.0
        # Calls wait here for booting runners; the fleet decides when failing boots are given up.
        self.no_workers_timeout = None
        # An idle cluster has no runners; it ends with its driver.
        self.idle_timeout = None
        # `losses` limits how often a call runs again, as it knows why its runner ended.
        self.lost_calls.limit = int(self.allowed_failures)  # type: ignore[has-type]
        self.allowed_failures = sys.maxsize
        self.handlers["ncores_running"] = self.runners_to_scatter_to
        self.handlers[HAVE] = self.have_runners
        self.handlers[SETUP] = self.runner_sets_up
        self.handlers[FILES_REFUSED] = self.files_refused
        self.handlers.update(self.fetches.handlers)
        self.handlers[LOOK] = self.look_at
        self.handlers[ATTACH] = self.attach_to
        self.handlers.update(self.failed_calls.handlers)
        refuse_observers(self)
        for op in ("register_scheduler_plugin", "unregister_scheduler_plugin"):
            self.handlers[op] = shielded(self.handlers[op])
        self.stream_handlers[FREED] = self.slots.freed
        self.stream_handlers[OVERRAN] = self.call_overran
        self.stream_handlers[LEAVING] = self.runner_leaves
        self.stream_handlers[UNSENDABLE] = self.slots.cannot_be_sent
        self.stream_handlers[PAUSED] = self.runner_pauses
        self.stream_handlers[RETURN] = self.slots.wants_back

    # Interface to the control loop

    def demand(self, pool: str | None = None) -> int:
        """Return the number of slots that could be used: for running and ready calls, and actors.

        Ready calls that no new runner of the pool could run, because of restrictions to workers or
        resources, do not count.

        Parameters
        ----------
        pool : str, optional
            The first one by default.
        """
        pool = pool or self.slots.default
        demand = self.slots.demand(pool)
        if wanted := self.awaited_workers.wanted(pool):
            return max(demand, wanted * self.slots.pools[pool].concurrency)
        return demand

    def waiting(self, pool: str | None = None) -> int:
        """Return the number of ready calls without a slot, of all pools or of one."""
        return len(self.slots.pending) if pool is None else self.slots.pending.count(pool)

    def withdrawn(self, pool: str) -> float:
        """Return the demand, in slots, of calls released since the last call of this method."""
        return self.slots.withdrawn(pool)

    def held_by_actors(self, pool: str, policy: Pool) -> str:
        """Describe the actors that hold all slots of a pool while calls wait; empty otherwise."""
        return self.slots.held_by_actors(pool, policy)

    def load(self, name: str) -> Load:
        """Return the load of a worker; no load if the worker is unknown."""
        ws = self.workers.get(self.aliases.get(name, ""))
        if ws is None:
            return Load(0)
        back = self.slots.taken_back(ws).values()
        calls = len(ws.processing | ws.actors)
        shuffles = self.extensions["shuffle"].takes_part(ws.address)
        return Load(
            calls + shuffles + self.fetches.holds(name),
            len(back),
            min((since for since, _ in back), default=None),
            any(overran for _, overran in back),
            self.paused.get(name, ""),
            name in self.spent,
        )

    def is_runner(self, address: str) -> bool:
        """Return whether a worker is a runner, which knows the messages of dask-flame."""
        ws = self.workers.get(address)
        return ws is not None and RUNNER in ws.extra

    def is_up(self, name: str) -> bool:
        """Return whether a worker has finished its start; it may be paused."""
        ws = self.workers.get(self.aliases.get(name, ""))
        return ws is not None and ws.status is not Status.init

    def calls_on(self, name: str, most: int = 1) -> list[str]:
        """Return the keys of up to `most` current calls of a worker."""
        ws = self.workers.get(self.aliases.get(name, ""))
        return [] if ws is None else [str(ts.key) for ts in islice(ws.processing, most)]

    def turn_away(self, names: Iterable[str]) -> None:
        """Give no calls to these workers if they still register, as they are being ended."""
        self.unwelcome.update(names)

    def runner_ended(self, name: str, why: str) -> None:
        """Fail the held calls of an ended runner, with the reason, and forget the runner."""
        self.unwelcome.discard(name)
        self.spent.discard(name)
        self.lost_calls.settle(name, why)

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
        """Fail all calls that wait for a runner of this pool (by default the first one).

        Returns
        -------
        int
            The number of these calls.
        """
        pool = pool or self.slots.default
        keys = self.slots.pending.waiting_for(pool)
        self.fail(keys, error)
        self.awaited_workers.fail(pool, error)
        return len(keys)

    def _give_up_on(self, key: Any, error: Exception) -> None:
        """Fail a call that could not be sent to a runner, so that it does not block others."""
        logger.exception("%s could not be given to a runner", key)
        try:
            self.fail([key], CallFailed(f"{key} could not be given to a runner: {text_of(error)}"))
        except Exception:
            logger.exception("%s could not be failed", key)
        if (ts := self.tasks.get(key)) is not None and ts.state == "no-worker":
            self.slots.pending.discard(ts)

    async def look_at(
        self, name: str, what: str, options: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Look inside a process of this cluster; see :func:`dask_flame.scheduler.looks.look_at`."""
        return await look_at(self, name, what, options)

    async def attach_to(
        self, comm: Comm, name: str, options: dict[str, Any], client: str = ""
    ) -> None:
        """Connect a notebook with a runner; see :mod:`dask_flame.scheduler.attachments`."""
        await attach_to(self, comm, name, options, client)

    # Messages of runners

    def call_overran(
        self, key: Any, worker: str, timeout: float, seconds: float, **kwargs: Any
    ) -> None:
        """Fail a call that has timed out; its runner interrupts its thread.

        Parameters
        ----------
        key : Key
        worker : str
            Address of the worker.
        timeout : float
            The timeout in seconds.
        seconds : float
            Execution time so far.
        """
        ts, ws = self.tasks.get(key), self.workers.get(worker)
        if ts is None or ws is None or ts.processing_on is not ws:
            return
        error = CallTimeout(
            f"{key} was not done within its timeout={timeout:g} s: "
            f"it had been executing on {ws.name} for {seconds:.1f} s"
        )
        self.slots.overran(key)
        self.observer.happened("overran", str(error))
        stimulus = f"flame-overran-{time()}"
        self.handle_task_erred(
            key=key,
            stimulus_id=stimulus,
            worker=worker,
            run_id=ts.run_id,
            exception=pickle.dumps(error),
            exception_text=repr(error),
        )
        # The worker still considers the call as running: release it there.
        self.worker_send(worker, {"op": "free-keys", "keys": [key], "stimulus_id": stimulus})

    def runner_sets_up(self, name: str, done: bool) -> None:
        """Notify the observer of a booting runner that begins its ``setup=``, or has done it."""
        self.observer.runner_sets_up(name, done=done)

    def runner_leaves(self, worker: str, why: str, **kwargs: Any) -> None:
        """Handle a runner that its substrate reclaims: drain it, and notify the observer."""
        ws = self.workers.get(worker)
        if ws is not None:
            self.drain(worker)
            self.observer.runner_leaves(ws.name, why)

    def runner_pauses(self, worker: str, memory: int, begun: list[Any], **kwargs: Any) -> None:
        """Handle a paused runner: move the calls that it has not begun.

        Parameters
        ----------
        worker : str
            Address of the worker.
        memory : int
            Memory in use, in bytes.
        begun : list of Key
            Calls that have begun.
        """
        ws = self.workers.get(worker)
        if ws is None or ws.status is Status.running:
            return
        of = f" of {shown(ws.memory_limit)}" if ws.memory_limit else ""
        used = shown(memory, beside=ws.memory_limit or None)
        self.paused[ws.name] = f"{ws.status.name} by Dask: {used}{of} in use"
        known = set(begun)
        waiting = [ts.key for ts in ws.processing if ts.key not in known]
        if waiting:
            self.transitions(dict.fromkeys(waiting, "released"), f"flame-paused-{time()}")
        self.runner_changed(ws.name)

    def files_refused(self, name: str, why: str) -> None:
        """Handle a runner that cannot put the driver's files in place, nor could another one."""
        self.observer.runner_refused(name, why)

    def _idle_timeout_of(self, ts: TaskState) -> float | str:
        pools = self.policies()
        pool = pools.get(self.slots.pool_of(ts) or self.slots.default)
        return (pool or next(iter(pools.values()))).idle_timeout

    # Overridden methods of distributed's scheduler

    def is_rootish(self, ts: TaskState) -> bool:
        # Root-ish tasks would wait in the stock queue, which ignores lanes and draining.
        return False

    def decide_worker_non_rootish(self, ts: TaskState) -> WorkerState | None:
        if not queueable(ts):
            # A private attribute that only the P2P shuffle sets, on tasks that only reschedule
            # themselves. They keep no slot, and holding them would slow the shuffle down.
            return super().decide_worker_non_rootish(ts)
        return self.slots.choose(ts)

    def bulk_schedule_unrunnable_after_adding_worker(self, ws: WorkerState) -> dict[Any, Any]:
        # The stock scheduler offers all waiting tasks to a new worker. Here
        # `stimulus_queue_slots_maybe_opened`, which distributed calls next, assigns its slots.
        return {}

    def stimulus_queue_slots_maybe_opened(self, *, stimulus_id: str) -> None:
        self.slots.give_back()
        while (key := self.slots.next()) is not None:
            try:
                self.transitions({key: "processing"}, stimulus_id)
            except Exception as error:
                # Fail only this call: otherwise distributed would drop the runner that has just
                # registered, and those that boot in its place.
                self._give_up_on(key, error)

    def check_idle_saturated(self, ws: WorkerState, occ: float = -1.0) -> None:
        # Distributed calls this whenever a worker's calls or its status have changed.
        super().check_idle_saturated(ws, occ)
        self.slots.recount(ws)

    def handle_worker_status_change(self, status: Any, worker: Any, stimulus_id: str) -> None:
        super().handle_worker_status_change(status, worker, stimulus_id)
        ws = self.workers.get(worker) if isinstance(worker, str) else worker
        if ws is not None:
            if ws.status is Status.running:
                self.paused.pop(ws.name, None)
            self.slots.recount(ws)
            self.runner_changed(ws.name)

    def _task_to_msg(self, ts: TaskState) -> dict[str, Any]:
        # A private method. Contents of a call must break neither the loop over waiting calls, in
        # which this runs, nor the runner's connection, which reads the message.
        message: dict[str, Any] = super()._task_to_msg(ts)
        version = self.code.version_of(ts)
        packed, plainly = PackedTask.pack(ts.run_spec, version), None
        if (ws := ts.processing_on) is not None:
            self.code.send(ws.address, version)
            plainly = packed.plain if RUNNER in ws.extra else None
        message["run_spec"] = plainly or ToPickle(packed)
        message["annotations"] = {k: v for k, v in (ts.annotations or {}).items() if plain(v)}
        if (name := self._name_of(ts.key)) is not None:
            message["annotations"][CALL_NAME] = name
        return message

    def _name_of(self, key: Any) -> str | None:
        """Return the name of a call whose key Dask has made, if it is a call of a run."""
        reports = plugin_of(self)
        return reports.name_of(key) if reports is not None and is_generated(key) else None

    async def handle_stream(self, comm: Any, extra: dict[str, Any] | None = None) -> None:
        # Distributed has just made the sender for this client.
        client = (extra or {}).get("client", "")
        if (sender := self.client_comms.get(client)) is not None:
            self.client_comms[client] = SuccessorSender(sender)
        await super().handle_stream(comm, extra)

    async def update_graph(
        self,
        client: str,
        *,
        keys: set[Any],
        flame_code: str | None = None,
        flame_calls: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if is_observer(client):
            refuse_graph(self, client, keys)
            return
        self.graphs_being_read += 1
        try:
            with (
                self.code.submitted(flame_code),
                submitted(flame_calls),
                small_graphs.read_alone(self.graphs_being_read == 1),
            ):
                await super().update_graph(client=client, keys=keys, **kwargs)
        except (SystemExit, KeyboardInterrupt) as error:
            # Annotations may be functions, which update_graph calls.
            told = message_of(error)
            for key in keys:
                op = {"op": "task-erred", "key": key}
                op |= {"exception": told["exception"], "traceback": told["traceback"]}
                self.report(op, client=client)
        finally:
            self.graphs_being_read -= 1

    def _create_taskstate_from_graph(
        self, *, dsk: dict[Any, Any], ordered: dict[Any, int], **kwargs: Any
    ) -> Any:
        # A private method, the last one in which a graph can be changed.
        dask_histories.forget_prefixes(self)
        dsk, ordered = name_data_of_map(dsk, ordered, self.tasks)
        return super()._create_taskstate_from_graph(dsk=dsk, ordered=ordered, **kwargs)

    def handle_long_running(self, key: Any, worker: str, **kwargs: Any) -> None:
        ts, ws = self.tasks.get(key), self.workers.get(worker)
        # A call may leave its slot several times; distributed expects only the first.
        if ts is None or ws is None or ts not in ws.long_running:
            super().handle_long_running(key=key, worker=worker, **kwargs)
        self.slots.left_again(key, worker)
        self.reopen()

    async def add_worker(
        self,
        comm: Any,
        *,
        name: str,
        versions: dict[str, Any],
        extra: dict[str, Any],
        **kwargs: Any,
    ) -> None:
        # Not kept: Dask's pages and clients are sent all that a worker has told.
        found = extra.pop(PACKAGES, None)
        if why := await self._why_refused(name, versions, found):
            # Before any pickled message, such as worker plugins, is sent to it.
            self.observer.runner_refused(name, why)
            answer = {"status": "error", "message": f"{name} {why}", "time": time()}
            await comm.write(answer)
            return
        await super().add_worker(comm, name=name, versions=versions, extra=extra, **kwargs)

    async def _why_refused(
        self, name: str, versions: dict[str, Any], found: dict[str, str] | None
    ) -> str:
        python = python_versions.of_worker(versions)
        why = python_versions.mismatch(python, python_versions.here())
        if why or self._packages is None:
            return why
        try:
            return await self._packages(runner=name, found=found, versions=told_versions(versions))
        except Exception:
            # Rather a runner that was not compared than none.
            logger.exception("the packages of %s could not be compared", name)
            return ""

    async def remove_worker(
        self, address: str, *, stimulus_id: str, expected: bool = False, close: bool = True
    ) -> Literal["OK", "already-removed"]:
        ws = self.workers.get(address)
        expected = expected or address in self.restarting
        if ws is not None:
            # Distributed reassigns its calls before it calls plugins: exclude the worker first.
            self.drain(address)
            if self.inline_results and self.rescue is not None:
                await self.rescue(address)
            self.lost_calls.leaves(ws, expected=expected)
            self._removed.append(address)
            if expected:
                self.observer.runner_retired(ws.name)
        done: Literal["OK", "already-removed"] = await super().remove_worker(
            address, stimulus_id=stimulus_id, expected=expected, close=close
        )
        dask_histories.forget_worker(self, address)
        return done

    def client_releases_keys(self, keys: Any, client: str, stimulus_id: str | None = None) -> None:
        # While the cluster closes, its Clients do so too, and nobody needs what is released: with
        # 60,000 calls this would take seconds, and a Client that waits for it gives up.
        if not self.ending:
            super().client_releases_keys(keys, client, stimulus_id)

    def send_all(self, client_msgs: Any, worker_msgs: Any) -> None:
        # The stock scheduler logs an error if a client has left a moment ago, for example of an
        # event to which it has subscribed.
        if client_msgs and any(map(self._has_left, client_msgs)):
            client_msgs = {c: msgs for c, msgs in client_msgs.items() if not self._has_left(c)}
        super().send_all(client_msgs, worker_msgs)

    def client_send(self, client: str, msg: dict[str, Any]) -> None:
        if not self._has_left(client):
            super().client_send(client, msg)

    def _has_left(self, client: str) -> bool:
        comm = self.client_comms.get(client)
        return comm is not None and comm.closed()

    def heartbeat_worker(self, *, address: str, **kwargs: Any) -> dict[str, Any]:
        if address not in self.workers and address in self._removed:
            # The worker sent this before it was removed, and reading it was delayed, for example by
            # a large message. The stock scheduler returns the same answer, but warns.
            return {"status": "missing"}
        answer: dict[str, Any] = super().heartbeat_worker(address=address, **kwargs)
        return answer

    def report_on_key(self, key: Any = None, *, ts: Any = None, client: str | None = None) -> None:
        # Clients request missing keys this way; the stock scheduler reports them as cancelled
        # without a reason.
        if ts is None and key not in self.tasks and (why := self.lost_calls.cancelled(key)):
            self.report(why, client=client)
        else:
            super().report_on_key(key, ts=ts, client=client)
