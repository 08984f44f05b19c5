"""``track()``: report the progress and speed of a loop (runner)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from time import perf_counter
from typing import Generic, TypeVar

from dask_flame.core.option_checks import Duration, seconds, whole, wrong
from dask_flame.errors import CallStopped
from dask_flame.reports.runner.report import count

T = TypeVar("T")


def track(items: Iterable[T], *, total: int | None = None, every: Duration = "0.5s") -> Tracked[T]:
    """Iterate over items, and report the progress and speed of the loop.

    Parameters
    ----------
    items : iterable
        For instance a data loader.
    total : int, optional
        Number of items. By default ``len(items)``, if it is defined.
    every : duration, default "0.5s"
        Minimum time between two reports. The end of the loop is always reported.

    Returns
    -------
    Tracked
        An iterable with the length of `items`. It can be iterated over more than once if `items`
        can.

    Raises
    ------
    PoolError
        An argument is not valid.

    Notes
    -----
    It reports ``progress``, from 0 to 1, of this loop (unless the total is unknown), and ``speed``,
    in items per second since the previous report. The step counts the items of all tracked loops of
    the call, so that epochs follow each other; it does not change the default step of other
    reports. An item counts when the body of the loop has finished with it.

    Its reports, like others, raise :class:`CallStopped` after :func:`dask_flame.stop`. With
    ``stop(future, raises=False)`` the loop ends instead.

    Outside of a Dask task it only iterates.

    Examples
    --------
    >>> for epoch in range(3):
    ...     for batch in dask_flame.track(loader):
    ...         loss = train(batch)
    ...         wanted = dask_flame.report(loss=loss)
    """
    # iter(items) would start the processes of a data loader.
    if not any(hasattr(type(items), name) for name in ("__iter__", "__getitem__")):
        raise wrong("items", items, "iterable")
    if total is not None:
        total = whole("total", total, 0)
    return Tracked(items, total, seconds("every", every))


class Tracked(Generic[T]):
    """Iterable that reports its progress; returned by :func:`track`.

    Parameters
    ----------
    items : iterable
        Items to iterate over.
    total : int or None
        Number of items; None to use ``len(items)``.
    every : float
        Minimum seconds between two reports.
    """

    def __init__(self, items: Iterable[T], total: int | None, every: float) -> None:
        self._items = items
        self._total = total
        self._every = every

    def __len__(self) -> int:
        return len(self._items)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[T]:
        done = reported = 0
        last = perf_counter()
        total = self._total
        if total is None:
            try:
                total = len(self)
            except (TypeError, NotImplementedError):
                total = 0  # unknown
        try:
            for item in self._items:
                yield item
                done += 1
                now = perf_counter()
                if now - last >= self._every:
                    new, passed = done - reported, now - last
                    reported, last = done, now
                    if not _report(done, new, passed, total):
                        return
        finally:
            # Also if the loop was left early.
            if done > reported:
                # The loop ends anyway.
                with contextlib.suppress(CallStopped):
                    _report(done, done - reported, perf_counter() - last, total)


def _report(done: int, new: int, passed: float, total: int) -> bool:
    values = {"speed": new / max(passed, 1e-9)}
    if total:
        values = {"progress": min(1.0, done / total), **values}
    return count(new, values)
