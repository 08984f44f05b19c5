"""The interface through which the scheduler tells about runners and calls (scheduler)."""

from __future__ import annotations

from typing import Protocol


class SchedulerObserver(Protocol):
    """Hears of changes from a scheduler, as they happen and in its event loop.

    Some methods are called several times for each call. They must return soon, and must not raise.
    """

    def demand_changed(self) -> None:
        """Demand may have changed."""

    def runner_changed(self, name: str) -> None:
        """A worker came or went, or its load may have changed; demand may have changed too."""

    def call_began(self, name: str) -> None:
        """A call has begun on a worker, and so its load has changed."""

    def runner_refused(self, name: str, why: str) -> None:
        """A worker was not let in."""

    def runner_leaves(self, name: str, why: str) -> None:
        """A worker is being taken away by its substrate. It gets no further calls."""

    def runner_retired(self, name: str) -> None:
        """A worker has been retired, and closes."""

    def not_awaited(self, pool: str, number: int) -> None:
        """Nobody waits for this number of runners any more: their idle time begins anew."""

    def happened(self, kind: str, text: str) -> None:
        """A call has met with something that the user should know: a kind of event, a sentence."""


class NoObserver:
    """The observer of a scheduler that has none."""

    def demand_changed(self) -> None:
        pass

    def runner_changed(self, name: str) -> None:
        pass

    def call_began(self, name: str) -> None:
        pass

    def runner_refused(self, name: str, why: str) -> None:
        pass

    def runner_leaves(self, name: str, why: str) -> None:
        pass

    def runner_retired(self, name: str) -> None:
        pass

    def not_awaited(self, pool: str, number: int) -> None:
        pass

    def happened(self, kind: str, text: str) -> None:
        pass
