"""``ReportSender``: gathers what the calls of one runner report, and sends it (runner)."""

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
from dask_flame.core.messages import RUNNER
from dask_flame.core.terminal_text import tame
from dask_flame.reports.runner.subprocess_server import SubprocessServer
from dask_flame.reports.runner.validate import COMPLAINTS, unfit_name
from dask_flame.reports.wire import NAME, TOPIC, Record, RunningCall, encode
from dask_flame.serialization.task_arguments import arguments_of


class ReportSender(WorkerPlugin):
    """Buffers the reports of one runner and sends them in batches; :class:`Reports` registers it.

    Parameters
    ----------
    interval : float
        Least seconds between two batches, unless a call ends or `size` is reached.
    size : int
        Reports that are sent at once without waiting for `interval`.
    names : int
        Different names that one call may report values of.
    hide_random : bool
        Whether what looks random in arguments is not shown.

    Attributes
    ----------
    calls : dict
        By their keys, the executions that run now and have reported.
    forks : int
        Where :func:`dask_flame.core.current_call.forks` is another number, this is a copy in a
        forked process, which sends nothing.
    """

    name = NAME

    # A little patience, so that a burst of first reports makes one batch.
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
        self._values = 0  # in the buffer
        self._awake = False
        self._full = False
        self._timer: object | None = None
        self._sent = float("-inf")
        # Threads of one call may report at once.
        self._lock = threading.Lock()
        self.channel = SubprocessServer(self, worker.loop)
        follow_threads()

    def teardown(self, worker: Worker) -> None:
        self.channel.close()
        self.flush()

    def transition(self, key: Key, start: str, finish: str, **kwargs: Any) -> None:
        # Runs before the worker tells the scheduler of the same change, on the same stream: what
        # is sent here is there first.
        if finish not in _RUNNING and (call := self.calls.pop(key, None)) is not None:
            call.over = True
            self.flush()

    @property
    def here(self) -> bool:
        """Whether this is the runner's process."""
        return self.forks == forks()

    def open(self, key: Key) -> RunningCall:
        """The execution of this call that runs now."""
        with self._lock:
            call = self.calls.get(key)
            if call is None:
                self._opened += 1
                # The methods of an actor run under a name that its other instances share.
                actor = key not in self._worker.state.tasks
                shown = f"{key}@{self._worker.name}" if actor else key
                call = RunningCall(shown, f"{self._id}-{self._opened}", actor)
                call.arguments = arguments_of(self._worker, key, hide_random=self.hide_random)
                self.calls[key] = call
        return call

    def add(
        self, call: RunningCall, step: int | None, values: dict[str, float], *, aside: bool = False
    ) -> None:
        """Note a report; `aside` is one that the steps of others do not go on from."""
        if not values.keys() <= call.names:
            values = self._fitting(call, values)
            if not values:
                return
        with self._lock:
            if step is None:
                step = call.next
            if not aside:
                call.next = step + 1
            self._buffer.append((call, step, time(), values))
            self._values += len(values)
        # `flush` lowers these flags before it takes from the buffer: a report that finds one up is
        # in what will be taken.
        if not self._awake:
            self._awake = True
            self._worker.loop.add_callback(self._wait)
        elif (
            len(self._buffer) >= self.size or self._values >= _VALUES * self.size
        ) and not self._full:
            self._full = True
            self._worker.loop.add_callback(self.flush)

    def _fitting(self, call: RunningCall, values: dict[str, float]) -> dict[str, float]:
        """Of some values, among which are new ones, those for which there is room."""
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
        """Warn of what a call does, in the driver and here; once for each thing in each call."""
        if about in call.complaints or len(call.complaints) >= COMPLAINTS:
            return
        call.complaints.add(about)
        if len(call.complaints) == COMPLAINTS:
            message += "; what else is wrong in this call is not said"
        # Named, as it may be one of many.
        message = tame(f"{message} (in {call.key!r} on {self._worker.name})")
        if getattr(sys.stderr, "shown_in_driver", False):
            # What is written there is shown in the driver.
            sys.stderr.write(f"UserWarning: {message}\n")
            return
        event = {"message": pickle.dumps(message), "category": pickle.dumps(UserWarning)}
        self._worker.log_event("warn", event)
        if here:
            # Where warnings are errors it must not become the call's.
            with contextlib.suppress(UserWarning):
                warnings.warn(message, stacklevel=4)

    def flush(self) -> None:
        """Send what is buffered; on the event loop only."""
        self._awake = self._full = False
        self._values = 0
        if self._timer is not None:
            self._worker.loop.remove_timeout(self._timer)
            self._timer = None
        # By its length, as calls may append to it meanwhile.
        n = len(self._buffer)
        records = self._buffer[:n]
        del self._buffer[:n]
        if records:
            self._sent = monotonic()
            self._worker.log_event(TOPIC, encode(str(self._worker.name), records, self._pool))

    def _wait(self) -> None:
        if self._awake and self._timer is None:
            delay = max(self._burst, self._sent + self.interval - monotonic())
            self._timer = self._worker.loop.call_later(delay, self.flush)


#: Values of a report, as a rule, or fewer: with more, fewer reports are sent at once.
_VALUES = 20
_TOO_MANY = (
    "report() got more than {0:,} different names, which is the most of one call; further ones are "
    "left out. Put what varies into step= or into the call's arguments, or, for more, write "
    'dask.config.set({{"flame.reports.names": …}}) before the cluster is made'
)

#: States of a task whose code may still be running.
_RUNNING = frozenset({"executing", "long-running", "cancelled", "resumed"})
