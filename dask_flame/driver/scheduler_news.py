"""Collect the scheduler's notifications until the next decision (driver)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True)
class RecentNews:
    """Changes since the last decision.

    Attributes
    ----------
    changed : set of str
        Names of runners that were added or removed, or whose load may have changed.
    began : set of str
        Names of runners on which a call has begun.
    set_up : list of (str, bool)
        Names of runners that began their ``setup=``, or have done it.
    not_awaited : list of (str, int)
        Pools and numbers of runners that no client waits for any more.
    happened : deque of (str, str)
        Kinds and texts of events. If there are too many, the oldest are dropped.
    """

    changed: set[str] = field(default_factory=set)
    began: set[str] = field(default_factory=set)
    set_up: list[tuple[str, bool]] = field(default_factory=list)
    not_awaited: list[tuple[str, int]] = field(default_factory=list)
    happened: deque[tuple[str, str]] = field(default_factory=lambda: deque(maxlen=1000))


class SchedulerNews:
    """Collect notifications of a scheduler until the next decision takes them.

    This is a :class:`~dask_flame.scheduler.observer.SchedulerObserver`.

    Parameters
    ----------
    on_change : callable
        Called without arguments whenever demand or the load of a runner may have changed.

    Attributes
    ----------
    refused : dict of str to str
        Names of runners that the scheduler refused, with the reason.
    leaving : dict of str to str
        Names of runners that their substrate reclaims, with the reason.
    retired : set of str
        Names of runners that were retired and are closing.
    """

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._recent = RecentNews()
        self.refused: dict[str, str] = {}
        self.leaving: dict[str, str] = {}
        self.retired: set[str] = set()

    def take(self) -> RecentNews:
        """Return the changes since the last call of this method."""
        recent, self._recent = self._recent, RecentNews()
        return recent

    def forget(self, name: str) -> None:
        """Forget a runner that has ended."""
        self.refused.pop(name, None)
        self.leaving.pop(name, None)
        self.retired.discard(name)

    # Methods of the observer, called by the scheduler

    def demand_changed(self) -> None:
        self._on_change()

    def runner_changed(self, name: str) -> None:
        self._recent.changed.add(name)
        self._on_change()

    def call_began(self, name: str) -> None:
        recent = self._recent
        recent.changed.add(name)
        recent.began.add(name)
        self._on_change()

    def runner_sets_up(self, name: str, *, done: bool) -> None:
        self._recent.set_up.append((name, done))
        self._on_change()

    def runner_refused(self, name: str, why: str) -> None:
        self.refused[name] = why
        self.runner_changed(name)

    def runner_leaves(self, name: str, why: str) -> None:
        self.leaving[name] = why
        self.runner_changed(name)

    def runner_retired(self, name: str) -> None:
        self.retired.add(name)

    def not_awaited(self, pool: str, number: int) -> None:
        self._recent.not_awaited.append((pool, number))

    def happened(self, kind: str, text: str) -> None:
        self._recent.happened.append((kind, text))
