"""Bound the histories that Dask's scheduler keeps (scheduler).

A stock scheduler keeps some records forever: a span for each burst of calls, an event topic for
each worker, a prefix for each kind of key, and an entry for each change of the number of threads.
If runners start and end all day while a client works, these take megabytes a minute. Here each has
a maximum, beyond which the oldest obsolete entries are removed.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any

from distributed import Scheduler, Worker
from distributed.core import ConnectionPool
from distributed.scheduler import TaskGroup
from distributed.spans import Span, SpansSchedulerExtension

from dask_flame.core import distributed_internals as internals

#: Maximum numbers of spans (see :func:`distributed.span`), key prefixes, and thread count changes.
MOST_SPANS, MOST_PREFIXES, MOST_CHANGES = 1_000, 5_000, 10_000
#: Maximum lines of the scheduler's log if ``distributed.admin.log-length`` has Dask's default.
MOST_LINES, _STOCK_LINES = 1_000, 10_000
#: Seconds after which the events of a removed worker or client are deleted.
_AFTER = 60.0


class Spans(SpansSchedulerExtension):
    """Dask's spans extension, without the oldest finished spans."""

    def observe_tasks(self, *args: Any, **kwargs: Any) -> dict[Any, dict[Any, Any]]:
        """Assign new tasks to spans, then remove old spans if there are too many."""
        out: dict[Any, dict[Any, Any]] = super().observe_tasks(*args, **kwargs)
        if len(self.spans) > MOST_SPANS:
            self._forget()
        return out

    def heartbeat(self, ws: Any, data: Mapping[tuple[Any, ...], float]) -> None:
        """Record a worker's measurements, except those of removed spans."""
        known = {what: value for what, value in data.items() if what[1] in self.spans}
        super().heartbeat(ws, known)

    def _forget(self) -> None:
        # Remove a quarter at once, as this is too slow to do for each new span.
        extra = len(self.spans) - MOST_SPANS * 3 // 4
        for span in list(self.root_spans):
            if extra <= 0:
                return
            if span.done:
                family = list(span.traverse_spans())
                extra -= len(family)
                self.root_spans.remove(span)
                for member in family:
                    self._forget_one(member)

    def _forget_one(self, span: Span) -> None:
        for group in span.groups:
            group.span_id = None  # new tasks of the same group get a new span
        del self.spans[span.id]
        _take_out(self.spans_search_by_name, span.name, span)
        for tag in set(span.name):
            _take_out(self.spans_search_by_tag, tag, span)


def _take_out(index: dict[Any, list[Span]], name: Any, span: Span) -> None:
    index[name] = [other for other in index[name] if other is not span]
    if not index[name]:
        del index[name]


class SoonDone(internals.AsyncTaskGroup):
    """Run the scheduler's delayed cleanup tasks after a minute rather than an hour.

    Each removed worker has one such task, with a coroutine, a timer and a context.
    """

    def call_later(
        self, delay: float, afunc: Callable[..., Coroutine[Any, Any, None]], /, *a: Any, **k: Any
    ) -> None:
        """Schedule a coroutine function, after a minute at most."""
        super().call_later(min(delay, _AFTER), afunc, *a, **k)


def bound(scheduler: Scheduler) -> None:
    """Bound the delays and the log of a scheduler that has not started."""
    internals.set_background_tasks(scheduler, SoonDone())
    lines = internals.log_handler(scheduler)
    if lines.deque.maxlen == _STOCK_LINES:
        lines.deque = deque(lines.deque, maxlen=MOST_LINES)


def forget_worker(scheduler: Scheduler, address: str) -> None:
    """Delete the records of a removed worker, which Dask would only empty, after a while."""
    topics = internals.topics(scheduler)
    # Check all topics, as a worker's last event comes after its removal.
    for name in [n for n in topics if "://" in n and n not in scheduler.workers]:
        if not topics[name].subscribers:
            del topics[name]
    forget_connections(scheduler.rpc)
    forget_changes(scheduler)


def forget_lines(worker: Worker) -> None:
    """Delete the log of a closed worker whose process continues (anywhere).

    The logger keeps the worker's handler as long as the worker exists; but a log record in it can
    keep the worker alive, through the frames of an exception.
    """
    handler = internals.log_handler(worker)
    logging.getLogger("distributed.worker").removeHandler(handler)
    handler.deque.clear()


def forget_connections(pool: ConnectionPool) -> None:
    """Remove unused connections that the other side has closed (anywhere).

    Dask removes them when it connects to the same address, which does not happen after a runner has
    ended, or when there are 512.
    """
    for address in list(pool.available):
        comms = pool.available[address]
        for comm in [comm for comm in comms if comm.closed()]:
            comms.discard(comm)
            pool.semaphore.release()
        if not comms and not pool.occupied.get(address):
            del pool.available[address]
            pool.occupied.pop(address, None)


def forget_changes(scheduler: Scheduler) -> None:
    """Remove the older half of the thread count changes if there are too many."""
    changes = scheduler.total_nthreads_history
    if len(changes) > MOST_CHANGES:
        gone = len(changes) // 2
        del changes[:gone]
        # Spans refer to positions in this list.
        internals.shift_threads_history(scheduler.extensions["spans"].spans.values(), gone)


def forget_prefixes(scheduler: Scheduler) -> None:
    """Remove the oldest key prefixes without tasks if there are too many.

    This loses the average duration of their tasks. A prefix is a key without its token; keys chosen
    by users often have a prefix each.
    """
    prefixes = scheduler.task_prefixes
    if len(prefixes) <= MOST_PREFIXES:
        return
    extra = len(prefixes) - MOST_PREFIXES * 3 // 4
    for name in [n for n, prefix in prefixes.items() if not _lives(scheduler, prefix.groups)]:
        if extra <= 0:
            return
        del prefixes[name]
        extra -= 1


def _lives(scheduler: Scheduler, groups: Iterable[TaskGroup]) -> bool:
    return any(scheduler.task_groups.get(group.name) is group for group in groups)
