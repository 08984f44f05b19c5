"""``report()``: send metrics from a running call (runner)."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping
from typing import SupportsFloat

from distributed import Status, Worker
from distributed.worker import warn

from dask_flame.core.current_call import find, several, worker_here
from dask_flame.core.option_checks import shown, word
from dask_flame.core.redaction import veiled
from dask_flame.core.terminal_text import plain
from dask_flame.errors import PoolError
from dask_flame.reports.runner.bound import BoundReport, checked, from_environment, named
from dask_flame.reports.runner.stopping import goes_on
from dask_flame.reports.runner.validate import LONGEST_NAME, last_step
from dask_flame.reports.series import Direction
from dask_flame.reports.wire import NAME


class _Report:
    """Report metrics of the running call, such as its loss or progress.

    They appear on the page ``/flame`` of the Dask dashboard, in ``cluster.reports`` and in
    :func:`dask_flame.stream` about 0.2 seconds later, and always before the call's result or error.
    A report costs a few microseconds, so it can be made at every training step.

    Parameters
    ----------
    step : int, optional
        Position on the horizontal axis, 0 or more. By default the call's previous step plus one,
        starting at 0. Steps may go back, for instance after a checkpoint; reports keep their order.
    of : float, optional
        Number of steps of the call, for its progress and the time that is left. It is remembered,
        so one report of a call may tell it for all.
    *unnamed : mapping of str to float
        Values whose names are not Python identifiers: ``{"val/loss": 0.5}``.
    **values : float
        Named numbers: Python or numpy scalars, or tensors and arrays with one element. A tensor
        on an accelerator is copied to the host, which synchronizes with the accelerator. NaN and
        infinities are kept; None is ignored.

    Returns
    -------
    bool
        True, or False if the call was stopped by ``dask_flame.stop(future, raises=False)``.

    Raises
    ------
    CallStopped
        The call was stopped by :func:`dask_flame.stop`. Every further report raises it, too.

    Warns
    -----
    UserWarning
        A value is not a real number, or `step` is not a valid step. The value is dropped, or the
        next step is used. Each name is warned about once in a call, in the driver as well. `report`
        never raises for that.

    Notes
    -----
    Call it from any thread of a call and anywhere in an ``async def`` call. A thread belongs to the
    call that started it. A thread that Python did not start, or that outlives its call in a thread
    pool, belongs to the only call that runs on the runner. If several calls run there, and in child
    processes of a call, use the function that ``report.bind()`` returns.

    Outside of a Dask task it only checks its arguments, so that a training function can run and be
    tested without a cluster. On a cluster without :class:`Reports` it does nothing and warns once
    in each worker process.

    Unsent reports are lost only if the process of the runner is killed, not when a call ends or
    raises, or when the runner closes.

    Examples
    --------
    >>> def train(rate):
    ...     for step in range(100):
    ...         loss = (1 - rate) ** step
    ...         dask_flame.report(step=step, loss=loss)
    >>> futures = client.map(train, [0.01, 0.03, 0.1])
    """

    def __call__(
        self,
        *unnamed: Mapping[str, SupportsFloat | None],
        step: int | None = None,
        of: SupportsFloat | None = None,
        **values: SupportsFloat | None,
    ) -> bool:
        place = find()
        if place is not None:
            sender, call = place
            if unnamed:
                values = named(unnamed, sender.complain, call) | values
                if not values:
                    return True
            step, numbers = checked(step, values, sender.complain, call)
            if of is not None:
                call.of = last_step(of, sender.complain, call)
            if numbers:
                sender.add(call, step, numbers)
            return goes_on(call.stopped, call.key) if call.stopped else True
        if (bound := from_environment()) is not None:
            return bound(*unnamed, step=step, of=of, **values)
        if unnamed:
            values = named(unnamed, _complain) | values
            if not values:
                return True
        checked(step, values, _complain)
        if of is not None:
            last_step(of, _complain)
        _warn_if_lost(worker_here())
        return True

    def better(self, **directions: Direction) -> None:
        """Declare whether small or large values of metrics are better.

        Without this, it is decided by the metric's name. It applies to all calls on a page.

        Parameters
        ----------
        **directions : {"min", "max"}
            Direction by metric.

        Raises
        ------
        PoolError
            A direction is something else.

        Examples
        --------
        >>> def train(rate):
        ...     dask_flame.report.better(skill="max")
        ...     dask_flame.report(step=1, skill=0.5)
        """
        for metric, best in directions.items():
            if best not in ("min", "max"):
                raise PoolError(
                    f'{plain(metric)}={shown(best)} is neither "min" nor "max"; write '
                    f'report.better({plain(metric)}="max")'
                )
        place = find()
        if place is not None:
            sender, call = place
            sender.describe(call, better={**call.about.get("better", {}), **directions})
        elif (bound := from_environment()) is not None:
            bound.describe(better=directions)
        else:
            _warn_if_lost(worker_here())

    def bind(self) -> BoundReport:
        """Return a function that reports for the running call from anywhere on this machine.

        Returns
        -------
        BoundReport
            Call it like :func:`dask_flame.report`: in threads when several calls run on the runner,
            or, as it can be pickled, in the processes of ``multiprocessing``. A program with its
            ``env`` in the environment reports for this call with plain :func:`dask_flame.report`.
            Outside of a call it does nothing.

        Examples
        --------
        >>> import dask_flame
        >>> bound = dask_flame.report.bind()
        >>> process = multiprocessing.Process(target=train, args=(bound,))      # doctest: +SKIP
        >>> subprocess.run(["python", "train.py"], env={**os.environ, **bound.env})
        ... # doctest: +SKIP
        """
        place = find()
        if place is not None:
            return BoundReport.local(*place)
        bound = from_environment()
        if bound is None:
            _warn_if_lost(worker_here())
            bound = BoundReport()
        return bound

    def __reduce__(self) -> str:
        # Functions that use it are pickled with its name.
        return "report"

    def __repr__(self) -> str:
        return "<function dask_flame.report>"


report = _Report()


def label(text: str) -> None:
    """Name the running call on the page ``/flame``, in pictures and in streams.

    Without a label, a call is named by its key, if you have chosen it, or by the arguments in
    which the calls of its run differ.

    Parameters
    ----------
    text : str
        At most 200 characters are used.

    Raises
    ------
    PoolError
        `text` is not a text, or empty.

    Notes
    -----
    Outside of a Dask task it only checks its argument. Unlike a ``key=``, a label is no identity:
    calls with the same label are different calls.

    Examples
    --------
    >>> def train(config):
    ...     dask_flame.label(f"deep, {config['rate']}")
    ...     dask_flame.report(step=1, loss=0.5)
    """
    text = veiled(plain(word("text", text, "a name for the call")))[:LONGEST_NAME]
    place = find()
    if place is not None:
        sender, call = place
        sender.describe(call, label=text)
    elif (bound := from_environment()) is not None:
        bound.describe(label=text)
    else:
        _warn_if_lost(worker_here())


def count(new: int, values: dict[str, float]) -> bool:
    """Report `new` more items done; the step counts the items of all tracked loops of the call.

    Returns what :func:`report` returns, and raises what it raises.
    """
    place = find()
    if place is not None:
        sender, call = place
        call.tracked += new
        sender.add(call, call.tracked, values, aside=True)
        return goes_on(call.stopped, call.key)
    bound = from_environment()
    return bound is None or bound.count(new, values)


def aside(step: int, values: dict[str, float], *, of: float | None = None) -> bool:
    """Report at a step of so many, without changing the call's next default step.

    Returns what :func:`report` returns, and raises what it raises.
    """
    place = find()
    if place is not None:
        sender, call = place
        call.of = of or call.of
        sender.add(call, step, values, aside=True)
        return goes_on(call.stopped, call.key)
    bound = from_environment()
    return bound is None or bound.aside(step, values, of=of)


def _complain(about: str, message: str) -> None:
    warnings.warn(message, stacklevel=4)


def _warn_if_lost(worker: Worker | None) -> None:
    """Warn if the report should have arrived and cannot."""
    if worker is None:
        if several():
            _warn_no_call()
    elif NAME in worker.plugins:
        if worker.plugins[NAME].here:
            _warn_no_call()
        else:
            _warn_forked()
    elif worker.status == Status.running:
        _warn_unregistered()


# Cached: warn once in a process. Dask's `warn` shows the warning in the driver as well.
@functools.cache
def _warn_unregistered() -> None:
    warn(
        "dask_flame.report() does nothing on this cluster, which has no Reports plugin; once, in "
        "the driver: client.register_plugin(dask_flame.Reports())",
        stacklevel=4,
    )


@functools.cache
def _warn_no_call() -> None:
    warn(
        "dask_flame.report() cannot tell which call it was made in, of several that run here; "
        "write bound = dask_flame.report.bind() in the call itself, and bound(loss=…) here",
        stacklevel=4,
    )


@functools.cache
def _warn_forked() -> None:
    warnings.warn(
        "dask_flame.report() does nothing in a process that a call has forked; write "
        "bound = dask_flame.report.bind() in the call itself, and bound(loss=…) here",
        stacklevel=4,
    )
