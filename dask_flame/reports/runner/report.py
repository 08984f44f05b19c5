"""``report()``: numbers out of a running call (runner)."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping
from typing import SupportsFloat

from distributed import Status, Worker
from distributed.worker import warn

from dask_flame.core.current_call import find, several, worker_here
from dask_flame.reports.runner.bound import BoundReport, checked, from_environment, named
from dask_flame.reports.wire import NAME


class _Report:
    """Send numbers out of the running call: its progress, its loss, whatever is worth a curve.

    They are on the page ``/flame`` of the Dask dashboard, in ``cluster.reports`` and in
    :func:`dask_flame.stream` about a fifth of a second later, and always before the call's own
    result or error is known. Costs a few microseconds: call it at every training step.

    Parameters
    ----------
    step : int, optional
        Where the numbers belong on the horizontal axis; 0 or more. By default the step after the
        last one of this call; a call begins with 0. Steps may go back, as after a checkpoint: what
        is reported keeps its order.
    *unnamed : mapping of str to float
        The same as `values`, for names that are no words of Python's: ``{"val/loss": 0.5}``.
    **values : float
        One or more named numbers: Python or numpy scalars, or tensors and arrays with one element.
        A tensor on an accelerator is fetched, which waits for the accelerator. NaN and infinities
        are kept; None is no value this time.

    Warns
    -----
    UserWarning
        A value is not one real number, or `step` is not a step; once for each name in each call,
        also in the driver. That value is left out, or the next step used, and the call goes on: it
        never raises.

    Notes
    -----
    Call it from any thread of a call, and anywhere in an ``async def`` call. A thread belongs to
    the call that has started it; one whose beginning Python was not told of, or that outlives its
    call in a pool of threads, to the only call that runs on its runner. Where several run there,
    and in processes that a call starts, use what ``report.bind()`` returns.

    Outside any Dask task it checks its arguments and does nothing more: a training function can be
    run and tested plainly. On a cluster without :class:`Reports` it warns once in each worker
    process and does nothing more.

    What a runner had not sent yet is lost when its process is killed, never when a call ends,
    raises, or the runner closes.

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
        **values: SupportsFloat | None,
    ) -> None:
        place = find()
        if place is not None:
            sender, call = place
            if unnamed:
                values = named(unnamed, sender.complain, call) | values
                if not values:
                    return
            step, numbers = checked(step, values, sender.complain, call)
            if numbers:
                sender.add(call, step, numbers)
        elif (bound := from_environment()) is not None:
            bound(*unnamed, step=step, **values)
        else:
            if unnamed:
                values = named(unnamed, _complain) | values
                if not values:
                    return
            checked(step, values, _complain)
            _say_why_not(worker_here())

    def bind(self) -> BoundReport:
        """What reports for the running call from anywhere on this machine.

        Returns
        -------
        BoundReport
            To be called as this is: in threads that could be of several calls, or, as it can be
            pickled, in the processes of ``multiprocessing``. In the environment of any program,
            its ``env`` makes plain :func:`dask_flame.report` there report for this call. Outside
            of a call it does nothing.

        Examples
        --------
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
            _say_why_not(worker_here())
            bound = BoundReport()
        return bound

    def __reduce__(self) -> str:
        # Functions that use it travel with its name.
        return "report"

    def __repr__(self) -> str:
        return "<function dask_flame.report>"


report = _Report()


def count(new: int, values: dict[str, float]) -> None:
    """Report at a step that counts things of all kinds in the call: so many more are done."""
    place = find()
    if place is not None:
        sender, call = place
        call.tracked += new
        sender.add(call, call.tracked, values, aside=True)
    elif (bound := from_environment()) is not None:
        bound.count(new, values)


def aside(step: int, values: dict[str, float]) -> None:
    """Report at a step that the steps of other reports do not go on from."""
    place = find()
    if place is not None:
        sender, call = place
        sender.add(call, step, values, aside=True)
    elif (bound := from_environment()) is not None:
        bound.aside(step, values)


def _complain(about: str, message: str) -> None:
    warnings.warn(message, stacklevel=4)


def _say_why_not(worker: Worker | None) -> None:
    """Warn where something was reported in vain that was meant to arrive."""
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


# Cached, and so said once in a process; through Dask's own `warn`, so that the driver sees it.
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
