"""``Reports``: gathers what running calls report, and shows it (scheduler)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import time
from typing import Any

from dask.typing import Key
from distributed import Scheduler, SchedulerPlugin
from distributed.protocol.pickle import dumps

from dask_flame.core.distributed_internals import forget_events
from dask_flame.core.option_checks import whole, yes_or_no
from dask_flame.core.redaction import veiled
from dask_flame.core.settings import configured
from dask_flame.history.state import Snapshot
from dask_flame.reports.runner.sender import ReportSender
from dask_flame.reports.scheduler.followers import Followers
from dask_flame.reports.scheduler.store import ReportStore
from dask_flame.reports.wire import NAME, TOPIC, decode

#: Characters of an exception's text.
_LONGEST = 300

logger = logging.getLogger("dask_flame")


class Reports(SchedulerPlugin):
    """A scheduler plugin that makes :func:`dask_flame.report` work and adds the page ``/flame``.

    Works on any Dask cluster whose workers can import dask_flame; a FlameCluster has it already.
    Workers that come later are told when they register. Registering it twice does nothing.

    Parameters
    ----------
    calls, points, total : int
        The limits of its :class:`ReportStore`.
    names : int, optional
        How many different names one call may report values of; further ones are left out, which is
        said once. By default ``flame.reports.names`` of Dask's configuration.
    hide_random : bool, optional
        Whether what looks random in a call's arguments is taken for a secret, and not shown. By
        default ``flame.reports.hide-random``.

    Attributes
    ----------
    store : ReportStore
        What was reported. It stays readable after the cluster has closed.
    pools : callable or None
        Set by whoever owns the runners; called on the scheduler's event loop, about once a second
        for each page that is open. Returns what the page shows of the pools.
        Where it is None the page shows the scheduler's workers as one pool.

    Examples
    --------
    >>> client.register_plugin(dask_flame.Reports())  # doctest: +SKIP
    """

    name = NAME
    # A second one would start empty, and so hide what was reported.
    idempotent = True

    def __init__(
        self,
        *,
        calls: int = 1_000,
        points: int = 4_000,
        total: int = 5_000_000,
        names: int | None = None,
        hide_random: bool | None = None,
    ) -> None:
        self._names = configured("reports.names") if names is None else whole("names", names, 1)
        self._hide = (
            configured("reports.hide-random")
            if hide_random is None
            else yes_or_no("hide_random", hide_random)
        )
        self.store = ReportStore(calls=calls, points=points, total=total)
        limits = dict(zip(("calls", "points", "total"), self.store.limits, strict=True))
        self._options = {**limits, "names": self._names, "hide_random": self._hide}
        self.pools: Callable[[], Snapshot] | None = None
        self._scheduler: Scheduler | None = None
        self._followers: Followers | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # Travels to the scheduler before it starts, and without the store's lock.
        return _make, (type(self), self._options)

    async def start(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._followers = Followers(scheduler, self.store)
        await scheduler.register_worker_plugin(
            comm=None,
            plugin=dumps(ReportSender(names=self._names, hide_random=self._hide)),
            name=NAME,
            idempotent=True,
        )
        # Imported here, as bokeh may be missing where no dashboard is wanted.
        from dask_flame.dashboard import install

        try:
            install(scheduler)
        except Exception:
            # Reports are worth having without their page.
            logger.warning("The page /flame could not be added to the dashboard", exc_info=True)

    async def close(self) -> None:
        if self._followers is not None:
            self._followers.close()
        self._scheduler = self._followers = None
        self.pools = None

    def log_event(self, topic: str, msg: Any) -> None:
        if topic != TOPIC or self._scheduler is None:
            return
        # Dask would keep the last 1,000 messages, of up to a thousand reports each, of which all
        # that is kept is in the store.
        forget_events(self._scheduler, TOPIC)
        for batch in decode(msg):
            ts = self._scheduler.tasks.get(batch.key)
            wanted = batch.actor or (ts is not None and ts.state == "processing")
            self.store.add(batch, state="running" if wanted else "cancelled")

    def transition(
        self,
        key: Key,
        start: str,
        finish: str,
        *args: Any,
        stimulus_id: str,
        **kwargs: Any,
    ) -> None:
        # First what is quick and false for most of the millions of tasks that never report.
        if ("processing" not in (start, finish)) or key not in self.store:
            return
        if finish == "processing":
            self.store.begin(key, time())
        elif finish == "memory":
            self.store.end(key, "done", time())
        elif finish == "erred" or stimulus_id.startswith("task-erred"):
            # An error with retries left goes to "released", with the worker's stimulus.
            self.store.end(key, "failed", time(), _short(kwargs.get("exception_text")))
        else:
            self.store.end(key, "lost" if self._wanted(key) else "cancelled", time())

    def add_client(self, scheduler: Scheduler, client: str) -> None:
        if self._followers is not None:
            self._followers.returned(client)

    def remove_client(self, scheduler: Scheduler, client: str) -> None:
        if self._followers is not None:
            self._followers.leave(client)

    def remove_worker(
        self, scheduler: Scheduler, worker: str, *, stimulus_id: str, **kwargs: Any
    ) -> None:
        if len(self.store):
            self.store.keep_actors({str(ws.name) for ws in scheduler.workers.values()}, time())

    def restart(self, scheduler: Scheduler) -> None:
        # Forgets all tasks without a transition.
        self.store.end_all("cancelled", time())

    def _wanted(self, key: Key) -> bool:
        assert self._scheduler is not None
        ts = self._scheduler.tasks.get(key)
        return ts is not None and bool(ts.who_wants or ts.waiters)


def _short(text: Any) -> str:
    """An exception's text, as the scheduler knows it: one line, and not too long."""
    line = veiled(" ".join(str(text or "").split()))
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"


def _make(cls: type[Reports], options: dict[str, Any]) -> Reports:
    return cls(**options)
