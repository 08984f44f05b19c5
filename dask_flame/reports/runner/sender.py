"""``ReportSender``: collects the reports of the calls on a runner and sends them (runner)."""

from __future__ import annotations

import contextlib
import sys
import threading
import uuid
import warnings
from time import monotonic, time
from typing import Any

from dask.typing import Key
from distributed import Worker, WorkerPlugin
from distributed.protocol import pickle

from dask_flame.core.current_call import count_forks, follow_threads, forks
from dask_flame.core.messages import RUNNER, STOP
from dask_flame.core.terminal_text import tame
from dask_flame.reports.runner.stopping import RequestedStops
from dask_flame.reports.runner.subprocess_server import SubprocessServer
from dask_flame.reports.runner.validate import COMPLAINTS, unfit_name
from dask_flame.reports.wire import NAME, TOPIC, Record, RunningCall, encode
from dask_flame.serialization.task_arguments import about_task


class ReportSender(WorkerPlugin):
    """Buffers the reports of one runner and sends them in batches; registered by :class:`Reports`.

    Parameters
    ----------
    interval : float, default 0.15
        Minimum seconds between two batches, unless a call ends or `size` is reached.
    size : int, default 1000
        Number of buffered reports that are sent without waiting for `interval`.
    names : int, default 1000
        Maximum number of different metric names in one call.
    hide_random : bool, default True
        Whether to hide random-looking text in a call's arguments.

    Attributes
    ----------
    calls : dict
        Running calls that have reported, by key.
    forks : int
        Number of forks when the plugin was set up. If
        :func:`dask_flame.core.current_call.forks` returns another number, this is a copy in a
        forked process, which sends nothing.
    """

    name = NAME

    # Wait this long (seconds) before the first batch, so that it holds the reports of a burst.
    _burst = 0.02

    def __init__(
        self,
        *,
        interval: float = 0.15,
        size: int = 1000,
        names: int = 1000,
        hide_random: bool = True,
    ) -> None:
        self.interval = interval
        self.size = size
        self.names = names
        self.hide_random = hide_random

    def setup(self, worker: Worker) -> None:
        count_forks()
        self.forks = forks()
        self._worker = worker
        pool = worker.startup_information.get(RUNNER)
        self._pool: str = "" if pool is None else pool(worker)
        self._id = uuid.uuid4().hex[:12]
        self._opened = 0
        self.calls: dict[Key, RunningCall] = {}
        self._buffer: list[Record] = []
        self._described: set[RunningCall] = set()
        self._values = 0  # number of values in the buffer
        self._awake = False
        self._full = False
        self._timer: object | None = None
        self._sent = float("-inf")
        # Several threads of a call may report at the same time.
        self._lock = threading.Lock()
        self._stops = RequestedStops(worker)
        worker.stream_handlers[STOP] = self._stop
        self.channel = SubprocessServer(self, worker.loop, worker.local_directory)
        follow_threads()

    def teardown(self, worker: Worker) -> None:
        self.channel.close()
        worker.stream_handlers.pop(STOP, None)
        self.flush()

    def transition(self, key: Key, start: str, finish: str, **kwargs: Any) -> None:
        # Runs before the worker sends the same transition to the scheduler on the same stream, so
        # that reports arrive before the result.
        if finish not in _RUNNING and (call := self.calls.pop(key, None)) is not None:
            call.over = True
            self.flush()
        if self._stops:
            self._stops.forget(key, finish)

    def _stop(self, key: Key, run_id: int, how: str, **kwargs: Any) -> None:
        self._stops.add(key, run_id, how)
        if (call := self.calls.get(key)) is not None:
            call.stopped = self._stops.of(key)

    @property
    def here(self) -> bool:
        """Whether this is the process of the runner, not a fork of it."""
        return self.forks == forks()

    def open(self, key: Key) -> RunningCall:
        """Return the running execution of a call."""
        with self._lock:
            call = self.calls.get(key)
            if call is None:
                self._opened += 1
                # An actor's methods run under a key that its other instances share.
                actor = key not in self._worker.state.tasks
                shown = f"{key}@{self._worker.name}" if actor else key
                call = RunningCall(shown, f"{self._id}-{self._opened}", actor)
                call.about = about_task(self._worker, key, hide_random=self.hide_random)
                call.stopped = self._stops.of(key)
                self.calls[key] = call
        return call

    def add(
        self, call: RunningCall, step: int | None, values: dict[str, float], *, aside: bool = False
    ) -> None:
        """Buffer a report; with `aside` it does not change the call's next default step.

        Parameters
        ----------
        call : RunningCall
            The call that reports.
        step : int or None
            Step of the report; None for the next step.
        values : dict of str to float
            Reported values.
        aside : bool, default False
            Whether to leave the next default step unchanged.
        """
        if not values.keys() <= call.names:
            values = self._accepted(call, values)
            if not values:
                return
        with self._lock:
            if step is None:
                step = call.next
            if not aside:
                call.next = step + 1
            self._buffer.append((call, step, time(), values))
            self._values += len(values)
        # `flush` clears these flags before it takes the buffer: a report that finds a flag set is
        # included in that flush.
        if not self._awake:
            self._awake = True
            self._worker.loop.add_callback(self._wait)
        elif (
            len(self._buffer) >= self.size or self._values >= _VALUES * self.size
        ) and not self._full:
            self._full = True
            self._worker.loop.add_callback(self.flush)

    def describe(self, call: RunningCall, **about: Any) -> None:
        """Send fields of a call, whether or not it reports.

        Parameters
        ----------
        call : RunningCall
        **about
            Fields of :class:`~dask_flame.CallReports`.
        """
        with self._lock:
            call.about |= about
            self._described.add(call)
        if not self._awake:
            self._awake = True
            self._worker.loop.add_callback(self._wait)

    def _accepted(self, call: RunningCall, values: dict[str, float]) -> dict[str, float]:
        """Return the values whose names are known or can be added."""
        fitting, unfit = {}, ""
        with self._lock:
            for name, value in values.items():
                if name not in call.names:
                    if why := unfit_name(name):
                        unfit = why
                        continue
                    if len(call.names) >= self.names:
                        unfit = unfit or _TOO_MANY.format(self.names)
                        continue
                    call.names.add(name)
                fitting[name] = value
        if unfit:
            self.complain(call, unfit, unfit)
        return fitting

    def complain(self, call: RunningCall, about: str, message: str, *, here: bool = True) -> None:
        """Warn about a call, in the driver and on the runner; once for each subject in a call.

        Parameters
        ----------
        call : RunningCall
            The call to warn about.
        about : str
            Subject of the warning, such as the name of a value.
        message : str
            Text of the warning.
        here : bool, default True
            Whether to warn on the runner as well.
        """
        if about in call.complaints or len(call.complaints) >= COMPLAINTS:
            return
        call.complaints.add(about)
        if len(call.complaints) == COMPLAINTS:
            message += "; what else is wrong in this call is not said"
        # Name the call, as it may be one of many.
        message = tame(f"{message} (in {call.key!r} on {self._worker.name})")
        if getattr(sys.stderr, "shown_in_driver", False):
            # Text written to this stream is shown in the driver.
            sys.stderr.write(f"UserWarning: {message}\n")
            return
        event = {"message": pickle.dumps(message), "category": pickle.dumps(UserWarning)}
        self._worker.log_event("warn", event)
        if here:
            # Where warnings are errors, this one must not fail the call.
            with contextlib.suppress(UserWarning):
                warnings.warn(message, stacklevel=4)

    def flush(self) -> None:
        """Send the buffered reports; on the event loop only."""
        self._awake = self._full = False
        self._values = 0
        if self._timer is not None:
            self._worker.loop.remove_timeout(self._timer)
            self._timer = None
        # Take a fixed number, because calls may append meanwhile.
        n = len(self._buffer)
        records = self._buffer[:n]
        del self._buffer[:n]
        with self._lock:
            described, self._described = self._described, set()
        if records or described:
            self._sent = monotonic()
            message = encode(str(self._worker.name), records, self._pool, described)
            self._worker.log_event(TOPIC, message)

    def _wait(self) -> None:
        if self._awake and self._timer is None:
            delay = max(self._burst, self._sent + self.interval - monotonic())
            self._timer = self._worker.loop.call_later(delay, self.flush)


#: Values that a typical report has at most; a larger one counts for several reports.
_VALUES = 20
_TOO_MANY = (
    "report() got more than {0:,} different names, which is the most of one call; further ones are "
    "left out. Put what varies into step= or into the call's arguments, or, for more, write "
    'dask.config.set({{"flame.reports.names": …}}) before the cluster is made'
)

#: States of a task whose code may still be running.
_RUNNING = frozenset({"executing", "long-running", "cancelled", "resumed"})
