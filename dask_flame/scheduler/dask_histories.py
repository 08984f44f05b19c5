"""What Dask's scheduler keeps of what is over, kept bounded (scheduler).

A stock scheduler notes some things for as long as it lives: a span for each burst of calls, a topic
of events for each worker there has ever been, a prefix for each kind of key, and a line whenever
the number of threads changes. Where runners come and go all day, and a client is at work, that is
megabytes a minute. Each list here has a most, beyond which the oldest of what is over goes.
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

#: Spans (see :func:`distributed.span`), kinds of keys, and changes of the number of threads.
MOST_SPANS, MOST_PREFIXES, MOST_CHANGES = 1_000, 5_000, 10_000
#: Lines of the scheduler's log, where ``distributed.admin.log-length`` says nothing else than Dask.
MOST_LINES, _STOCK_LINES = 1_000, 10_000
#: Seconds after which the events of a worker or client that is gone are forgotten.
_AFTER = 60.0


class Spans(SpansSchedulerExtension):
    """Dask's spans, of which the oldest that are done are forgotten."""

    def observe_tasks(self, *args: Any, **kwargs: Any) -> dict[Any, dict[Any, Any]]:
        """Find the spans of new tasks."""
        out: dict[Any, dict[Any, Any]] = super().observe_tasks(*args, **kwargs)
        if len(self.spans) > MOST_SPANS:
            self._forget()
        return out

    def heartbeat(self, ws: Any, data: Mapping[tuple[Any, ...], float]) -> None:
        """Take in what a worker has measured, but of spans that are forgotten."""
        known = {what: value for what, value in data.items() if what[1] in self.spans}
        super().heartbeat(ws, known)

    def _forget(self) -> None:
        # Not down to the most only: this takes its time, and is not to be done for each new one.
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
            group.span_id = None  # further tasks of the same group get another span
        del self.spans[span.id]
        _take_out(self.spans_search_by_name, span.name, span)
        for tag in set(span.name):
            _take_out(self.spans_search_by_tag, tag, span)


def _take_out(index: dict[Any, list[Span]], name: Any, span: Span) -> None:
    index[name] = [other for other in index[name] if other is not span]
    if not index[name]:
        del index[name]


class SoonDone(internals.AsyncTaskGroup):
    """Tasks that a scheduler puts off for an hour, all of them to clean up, are done in a minute.

    Each of them waits with a coroutine, a timer and a context, one for each worker that is gone.
    """

    def call_later(
        self, delay: float, afunc: Callable[..., Coroutine[Any, Any, None]], /, *a: Any, **k: Any
    ) -> None:
        """Do this then, or in a minute if that is sooner."""
        super().call_later(min(delay, _AFTER), afunc, *a, **k)


def bound(scheduler: Scheduler) -> None:
    """Have a scheduler, which has not started, forget soon what has gone."""
    internals.set_background_tasks(scheduler, SoonDone())
    lines = internals.log_handler(scheduler)
    if lines.deque.maxlen == _STOCK_LINES:
        lines.deque = deque(lines.deque, maxlen=MOST_LINES)


def forget_worker(scheduler: Scheduler, address: str) -> None:
    """Forget what is noted of a worker that is gone: Dask only empties it, after a while."""
    topics = internals.topics(scheduler)
    # Not of this one only: the last word of a worker comes when it has been removed.
    for name in [n for n in topics if "://" in n and n not in scheduler.workers]:
        if not topics[name].subscribers:
            del topics[name]
    forget_connections(scheduler.rpc)
    forget_changes(scheduler)


def forget_lines(worker: Worker) -> None:
    """Forget the log of a worker that has closed, while its process goes on (anywhere).

    Its handler goes with the worker, and is held by the logger until then; a line that it has kept
    may hold the worker, by an error's frames.
    """
    handler = internals.log_handler(worker)
    logging.getLogger("distributed.worker").removeHandler(handler)
    handler.deque.clear()


def forget_connections(pool: ConnectionPool) -> None:
    """Forget connections that the other side has closed, of those that are not in use (anywhere).

    Dask does so where one is needed to the same address, which does not happen to a runner that is
    gone, or where there are 512.
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
    """Of the changes of the number of threads, forget the oldest half where they are too many."""
    changes = scheduler.total_nthreads_history
    if len(changes) > MOST_CHANGES:
        gone = len(changes) // 2
        del changes[:gone]
        # Spans know by a position when they began.
        internals.shift_threads_history(scheduler.extensions["spans"].spans.values(), gone)


def forget_prefixes(scheduler: Scheduler) -> None:
    """Of the kinds of keys, forget the oldest of which there are no tasks.

    What is lost with one is how long its tasks take. A prefix is a key without what looks like a
    number of a task: keys that users choose have one each.
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
