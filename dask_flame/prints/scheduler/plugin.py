"""``Prints``: scheduler plugin that shows the output of calls in the driver (scheduler)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from distributed import Scheduler, SchedulerPlugin
from distributed.protocol.pickle import dumps

from dask_flame.core.option_checks import function, number, whole, wrong
from dask_flame.core.rate_limit import Limits
from dask_flame.prints.driver.show import Show
from dask_flame.prints.runner.sender import PrintSender
from dask_flame.prints.wire import NAME, SAID

#: Called with a runner's name and pieces, see :mod:`dask_flame.prints.wire`.
Taker = Callable[[str, Sequence[Sequence[Any]]], object]
#: Topic whose events every Dask client prints.
_PRINT = "print"
#: Where to find lines that are not shown.
_REST = "the workers' own output has them"


class Prints(SchedulerPlugin):
    """Scheduler plugin that shows the output of calls in the driver, with worker and call.

    It works on any Dask cluster whose workers can import dask_flame; a FlameCluster already has it.
    Every client of the cluster shows the output, as with :func:`distributed.print`. Workers also
    write it to their own output. Workers in the scheduler's process are not changed, because their
    output is already visible there.

    Parameters
    ----------
    limits : Limits, optional
        Maximum number of lines. By default the values under ``flame.prints`` in the configuration.
    to : callable, optional
        Called with the output instead of showing it in the clients.

    Raises
    ------
    PoolError
        An option is not valid.

    Examples
    --------
    >>> client.register_plugin(dask_flame.Prints())
    """

    name = NAME
    idempotent = True

    def __init__(self, limits: Limits | None = None, *, to: Taker | None = None) -> None:
        if limits is None:
            # Read the configuration here, in the user's process.
            from dask_flame.prints.settings import limits as configured

            limits = configured()
        self._limits = _checked(limits)
        self._to = None if to is None else function("to", to)
        self._show: Show | None = None
        self._lines: list[str] = []
        self._scheduler: Scheduler | None = None

    async def start(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        if self._to is None:
            self._show = Show(self._write, self._limits, rest=_REST)
            self._to = self._show.said
        # Before workers send: a scheduler disconnects workers that send an unknown operation.
        scheduler.stream_handlers[SAID] = self._said
        await scheduler.register_worker_plugin(
            comm=None, plugin=dumps(PrintSender(self._limits)), name=NAME, idempotent=True
        )

    async def close(self) -> None:
        if self._show is not None:
            self._show.close()
        self._scheduler = None

    def remove_worker(self, scheduler: Scheduler, worker: str, **kwargs: Any) -> None:
        if self._show is not None and (ws := scheduler.workers.get(worker)) is not None:
            self._show.over(str(ws.name))

    def _said(self, runner: str, pieces: Sequence[Sequence[Any]], **kwargs: Any) -> None:
        if self._to is not None:
            self._to(runner, pieces)

    def _write(self, line: str) -> None:
        if not self._lines and self._scheduler is not None:
            self._scheduler.loop.add_callback(self._publish)
        self._lines.append(line)

    def _publish(self) -> None:
        lines, self._lines = self._lines, []
        if self._scheduler is not None:
            event = {"args": ("".join(lines),), "sep": "", "end": "", "flush": True}
            self._scheduler.log_event(_PRINT, event)


def _checked(limits: Limits) -> Limits:
    if not isinstance(limits, Limits):
        raise wrong("limits", limits, "a dask_flame.core.rate_limit.Limits")
    return Limits(
        burst=whole("burst", limits.burst, 1),
        rate=number("rate", limits.rate),
        total_burst=whole("total_burst", limits.total_burst, 1),
        total_rate=number("total_rate", limits.total_rate),
    )
