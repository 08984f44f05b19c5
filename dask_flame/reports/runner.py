"""``report()`` and what carries it to the scheduler (runner)."""

from __future__ import annotations

import asyncio
import functools
import operator
import reprlib
import uuid
from time import monotonic, time
from typing import Any, SupportsFloat

from dask.typing import Key
from distributed import Status, Worker, WorkerPlugin, get_worker
from distributed.worker import warn

from dask_flame.protocol import RUNNER
from dask_flame.reports.wire import NAME, TOPIC, Call, Record, encode

#: The last step that a page can show exactly: JavaScript's numbers are doubles.
_LAST_STEP = 2**53 - 1
#: States of a task whose code may still be running.
_RUNNING = frozenset({"executing", "long-running", "cancelled", "resumed"})


def report(*, step: int | None = None, **values: SupportsFloat) -> None:
    """Send numbers out of the running call: its progress, its loss, whatever is worth a curve.

    They are on the page ``/flame`` of the Dask dashboard and in :class:`ReportStore` about a fifth
    of a second later, and always before the call's own result or error is known. Costs a few
    microseconds: call it at every training step.

    Parameters
    ----------
    step : int, optional
        Where the numbers belong on the horizontal axis; 0 or more. By default the step after the
        last one of this call; a call begins with 0.
    **values : float
        One or more named numbers: Python or numpy scalars, or tensors without dimensions. A tensor
        on an accelerator is fetched, which waits for the accelerator. NaN and infinities are kept.

    Raises
    ------
    TypeError
        If a value is not one real number, or `step` is not an integer.
    ValueError
        If there is no value, `step` is negative, or a number is too large.

    Notes
    -----
    Call it from the call's own thread, or from the coroutine of an ``async def`` call itself.
    Outside any Dask task, and in threads that the call started, it checks its arguments and does
    nothing more: a training function can be run and tested plainly. On a cluster without
    :class:`Reports` it warns once in each worker process and does nothing more.

    What a runner had not sent yet is lost when its process is killed, never when a call ends,
    raises, or the runner closes.

    Examples
    --------
    >>> def train(rate):
    ...     for step in range(100):
    ...         loss = (1 - rate) ** step
    ...         dask_flame.report(step=step, loss=loss)
    >>> futures = client.map(train, [0.01, 0.03, 0.1])  # doctest: +SKIP
    """
    if not values:
        raise ValueError(f"report() got no value; {_WORKS}")
    numbers = {k: v if type(v) is float else _number(k, v) for k, v in values.items()}
    if step is not None and (type(step) is not int or not 0 <= step <= _LAST_STEP):
        step = _step(step)
    try:
        worker = get_worker()
    except ValueError:
        return
    sender = worker.plugins.get(NAME)
    if sender is not None:
        sender.add(step, numbers)
    elif worker.status == Status.running:
        _warn_unregistered()


class ReportSender(WorkerPlugin):
    """Buffers the reports of one runner and sends them in batches; :class:`Reports` registers it.

    Parameters
    ----------
    interval : float
        Least seconds between two batches, unless a call ends or `size` is reached.
    size : int
        Reports that are sent at once without waiting for `interval`.
    """

    name = NAME

    # A little patience, so that a burst of first reports makes one batch.
    _burst = 0.02

    def __init__(self, *, interval: float = 0.15, size: int = 1000) -> None:
        self.interval = interval
        self.size = size

    def setup(self, worker: Worker) -> None:
        self._worker = worker
        pool = worker.startup_information.get(RUNNER)
        self._pool: str = "" if pool is None else pool(worker)
        self._id = uuid.uuid4().hex[:12]
        self._opened = 0
        self._calls: dict[Key, Call] = {}
        self._buffer: list[Record] = []
        self._awake = False
        self._full = False
        self._timer: object | None = None
        self._sent = float("-inf")

    def teardown(self, worker: Worker) -> None:
        self.flush()

    def transition(self, key: Key, start: str, finish: str, **kwargs: Any) -> None:
        # Runs before the worker tells the scheduler of the same change, on the same stream: what
        # is sent here is there first.
        if finish not in _RUNNING and self._calls.pop(key, None) is not None:
            self.flush()

    def add(self, step: int | None, values: dict[str, float]) -> None:
        """Note a report of the call that runs in this thread."""
        try:
            key = self._worker.get_current_task()
        except KeyError:
            key = _current_coroutine(self._worker)
            if key is None:
                _warn_no_call()
                return
        call = self._calls.get(key) or self._open(key)
        if step is None:
            step = call.next
        call.next = step + 1
        self._buffer.append((call, step, time(), values))
        # `flush` lowers these flags before it takes from the buffer: a report that finds one up is
        # in what will be taken.
        if not self._awake:
            self._awake = True
            self._worker.loop.add_callback(self._wait)
        elif len(self._buffer) >= self.size and not self._full:
            self._full = True
            self._worker.loop.add_callback(self.flush)

    def flush(self) -> None:
        """Send what is buffered; on the event loop only."""
        self._awake = self._full = False
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

    def _open(self, key: Key) -> Call:
        self._opened += 1
        # The methods of an actor run under a name that its other instances share.
        actor = key not in self._worker.state.tasks
        shown = f"{key}@{self._worker.name}" if actor else key
        call = self._calls[key] = Call(shown, f"{self._id}-{self._opened}", actor)
        return call


def _current_coroutine(worker: Worker) -> Key | None:
    """The key of the ``async def`` call that this runs in.

    distributed notes the key of a call by its thread, which such calls share with the event loop.
    The name of their asyncio task is the one thing that tells them apart.
    """
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return None
    if task is not None:
        name = task.get_name()
        for key in worker.active_keys:
            if name == f"execute({key!r})":
                return key
    return None


_WORKS = "a line that works: report(step=1, loss=0.25)"


def _number(name: str, value: Any) -> float:
    """`value` as a float, or an error that says what to write instead."""
    shown = f"report({name}={reprlib.repr(value)})"
    if getattr(value, "ndim", 0):
        raise TypeError(
            f"{shown}: {name} must be one real number, not {type(value).__name__} of shape "
            f"{tuple(value.shape)}; reduce it first, as in report(step=1, {name}=x.mean())"
        )
    if not isinstance(value, (str, bytes, bytearray)):
        item = getattr(value, "item", None)
        try:
            return float(item() if callable(item) else value)
        except OverflowError:
            raise ValueError(f"{shown}: {name} is too large for a float; {_WORKS}") from None
        except (TypeError, ValueError):
            pass
    raise TypeError(
        f"{shown}: {name} must be one real number, not {type(value).__name__}; {_WORKS}"
    )


def _step(value: Any) -> int:
    """`value` as a step, or an error that says what to write instead."""
    try:
        if isinstance(value, bool):
            raise TypeError
        step = operator.index(value)
    except TypeError:
        raise TypeError(
            f"report(step={reprlib.repr(value)}): step must be an integer, not "
            f"{type(value).__name__}; {_WORKS}"
        ) from None
    if not 0 <= step <= _LAST_STEP:
        raise ValueError(
            f"report(step={reprlib.repr(step)}): step must be from 0 to 2**53 - 1; {_WORKS}"
        )
    return step


# Cached, and so said once in a process; through Dask's own `warn`, so that the driver sees it.
@functools.cache
def _warn_unregistered() -> None:
    warn(
        "dask_flame.report() does nothing on this cluster, which has no Reports plugin; once, in "
        "the driver: client.register_plugin(dask_flame.Reports())",
        stacklevel=3,
    )


@functools.cache
def _warn_no_call() -> None:
    warn(
        "dask_flame.report() cannot tell which call it was made in: call it in the coroutine of "
        "an `async def` call itself, not in a task that this started, nor in an actor's coroutine",
        stacklevel=4,
    )
