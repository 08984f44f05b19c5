"""The interface for notifications of the scheduler about runners and calls (scheduler)."""

from __future__ import annotations

from typing import Protocol


class SchedulerObserver(Protocol):
    """Is notified of changes by a scheduler, immediately and on its event loop.

    Some methods are called several times per call. They must return quickly and must not raise.
    """

    def demand_changed(self) -> None:
        """Handle a possible change of demand."""

    def runner_changed(self, name: str) -> None:
        """Handle a worker that was added or removed, or a possible change of its load or demand."""

    def call_began(self, name: str) -> None:
        """Handle a call that has begun on a worker, which changes its load."""

    def runner_sets_up(self, name: str, *, done: bool) -> None:
        """Handle a booting worker that begins its ``setup=``, or has done it."""

    def runner_refused(self, name: str, why: str) -> None:
        """Handle a worker that was not allowed to register."""

    def runner_leaves(self, name: str, why: str) -> None:
        """Handle a worker that its substrate reclaims; it gets no further calls."""

    def runner_retired(self, name: str) -> None:
        """Handle a worker that was retired and is closing."""

    def not_awaited(self, pool: str, number: int) -> None:
        """Handle the end of a request for a number of runners; their idle time begins now."""

    def happened(self, kind: str, text: str) -> None:
        """Handle an event of a call that the user should see."""


class NoObserver:
    """An observer that ignores all notifications."""

    def demand_changed(self) -> None:
        pass

    def runner_changed(self, name: str) -> None:
        pass

    def call_began(self, name: str) -> None:
        pass

    def runner_sets_up(self, name: str, *, done: bool) -> None:
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
