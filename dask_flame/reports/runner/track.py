"""``track()``: the progress and speed of a loop, as reports (runner)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from time import perf_counter
from typing import Generic, TypeVar

from dask_flame.core.option_checks import Duration, seconds, whole, wrong
from dask_flame.reports.runner.report import count

T = TypeVar("T")


def track(items: Iterable[T], *, total: int | None = None, every: Duration = "0.5s") -> Tracked[T]:
    """Go through a loop, and report how far it has come and how fast it is.

    Parameters
    ----------
    items : iterable
        A data loader, as a rule.
    total : int, optional
        How many there are; by default what ``len(items)`` says, if it says anything.
    every : duration, default "0.5s"
        Least time between two reports. There is always one at the end.

    Returns
    -------
    Tracked
        To be used in ``for``, more than once if `items` can be. It has the length of `items`.

    Raises
    ------
    PoolError
        An argument is wrong.

    Notes
    -----
    Reported are ``progress``, from 0 to 1, of this loop (not where the total is not known), and
    ``speed``, in items a second since the report before. Their steps count the items of all
    tracked loops of the call, so that epochs follow one another; steps of other reports do not go
    on from them. An item counts once the loop's body is done with it.

    Outside any Dask task it is a plain loop.

    Examples
    --------
    >>> for epoch in range(3):
    ...     for batch in dask_flame.track(loader):
    ...         loss = train(batch)
    ...         dask_flame.report(loss=loss)
    """
    # Not by iter(items), which starts the processes of a data loader.
    if not any(hasattr(type(items), name) for name in ("__iter__", "__getitem__")):
        raise wrong("items", items, "iterable")
    if total is not None:
        total = whole("total", total, 0)
    return Tracked(items, total, seconds("every", every))


class Tracked(Generic[T]):
    """A loop that reports its progress; made by :func:`track`."""

    def __init__(self, items: Iterable[T], total: int | None, every: float) -> None:
        self._items = items
        self._total = total
        self._every = every

    def __len__(self) -> int:
        return len(self._items)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[T]:
        done = told = 0
        last = perf_counter()
        total = self._total
        if total is None:
            try:
                total = len(self)
            except (TypeError, NotImplementedError):
                total = 0  # not known
        try:
            for item in self._items:
                yield item
                done += 1
                now = perf_counter()
                if now - last >= self._every:
                    _tell(done, done - told, now - last, total)
                    told, last = done, now
        finally:
            # Also where the loop was left before its end.
            if done > told:
                _tell(done, done - told, perf_counter() - last, total)


def _tell(done: int, new: int, passed: float, total: int) -> None:
    values = {"speed": new / max(passed, 1e-9)}
    if total:
        values = {"progress": min(1.0, done / total), **values}
    count(new, values)
