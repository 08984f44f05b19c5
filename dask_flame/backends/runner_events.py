"""What the parts of a backend report of its runners (driver)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from dask_flame.backends.specs import Ended

#: The reason for :meth:`RunnerEvents.stopped` if the command line has asked for it.
STOPPED = "the cluster was stopped with `dask flame stop`"


class RunnerEvents(Protocol):
    """Takes what happens to runners, as :class:`dask_flame.backends.Backend` does."""

    def ended(self, what: Ended) -> None: ...
    def progress(self, name: str, step: str) -> None: ...
    def trouble(self, name: str, why: str) -> None: ...
    def queued(self, name: str) -> None: ...
    def started(self, name: str) -> None: ...
    def stopped(self, why: str) -> None: ...
