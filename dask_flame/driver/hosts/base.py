"""The contract between a cluster and the host of its scheduler (driver)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from distributed import Security

from dask_flame.backends.base import Backend, Ended, RunnerSpec
from dask_flame.core.pool import Pool
from dask_flame.driver.fleets import PoolFleets
from dask_flame.history.records import History
from dask_flame.history.state import Sample
from dask_flame.scheduler.home.home import Home


class SchedulerView(Protocol):
    """The part of a scheduler that every process of a cluster can read.

    Attributes
    ----------
    address : str
        Where runners reach it.
    """

    @property
    def address(self) -> str: ...

    def demand(self, pool: str) -> int:
        """Return the slots that could be used now."""

    def waiting(self, pool: str) -> int:
        """Return the number of calls that are ready to run and have no slot."""

    def held_by_actors(self, pool: str, policy: Pool) -> str:
        """Return which actors hold all slots that calls wait for; empty if none do."""


class AdaptiveBounds(Protocol):
    """The bounds within which the default pool follows demand, as ``cluster.adapt()`` returns them.

    Attributes
    ----------
    minimum, maximum : int
    """

    minimum: int
    maximum: int

    @property
    def history(self) -> Mapping[str, Sequence[Sample]]:
        """Samples of each pool, for the dashboard; the oldest first."""

    def stop(self, reason: str = "unknown") -> None:
        """Follow demand no longer: keep the runners that the default pool has now."""


class SchedulerHost(Protocol):
    """Runs a cluster's scheduler, in this process or apart from it, and is told what happens.

    All methods are called on the cluster's event loop.

    Attributes
    ----------
    scheduler : SchedulerView or None
        None before :meth:`start` has made it.
    home : Home or None
        Where results of ended runners are kept; None if that is not in this process.
    address : str
        Where this machine's Clients reach the scheduler.
    dashboard_port : int
        A port of this machine that leads to the dashboard; 0 if the scheduler's own is used.
    """

    @property
    def scheduler(self) -> SchedulerView | None: ...

    @property
    def home(self) -> Home | None: ...

    @property
    def address(self) -> str: ...

    @property
    def dashboard_port(self) -> int: ...

    async def start(self, stack: contextlib.AsyncExitStack) -> None:
        """Start the scheduler; what ends it is put on a stack."""

    def follow(self, stack: contextlib.AsyncExitStack) -> AdaptiveBounds:
        """Begin to follow demand, once the cluster is connected; what ends it is put on a stack."""

    async def told(self) -> None:
        """Wait until everything that the scheduler knows now is known here."""

    async def finish(self) -> None:
        """Follow demand no longer, and let runners end by themselves."""

    # Reports of the backend

    def ended(self, what: Ended) -> None:
        """Hear that a runner is gone."""

    def reached(self, name: str, step: str) -> None:
        """Hear that a boot has come to a step."""

    def held_up(self, name: str, why: str) -> None:
        """Hear that a boot is held up, or no longer."""

    def stopped(self, why: str) -> None:
        """Hear that the cluster has been stopped from outside."""

    # Wishes of the user

    def resized(self, pool: str, changes: Mapping[str, object], text: str) -> None:
        """Follow a policy that has changed."""

    def fixed(self, pool: str) -> None:
        """Have a pool follow demand no longer."""


class Expire(Protocol):
    """Closes a cluster, for a reason other than that somebody asked for it."""

    def __call__(self, why: str, *, logged: bool = False) -> None: ...


@dataclass(frozen=True, kw_only=True)
class HostParts:
    """The parts of a cluster that every host of its scheduler uses.

    Attributes
    ----------
    name : str
        The cluster's.
    backend : Backend
        It has started.
    fleets : PoolFleets
    history : History
    security : distributed.Security
    disconnect_grace : float
        Seconds.
    max_lifetime : float or None
        Seconds.
    home_limit : int
        Bytes.
    dashboard_address : str or None
    specs : callable
        Returns what runners of these names are told.
    fix : callable
        Has the default pool follow demand no longer; may be called from any thread.
    note_stop : callable
        Has no runner boot any more, for this reason, and says so.
    expire : Expire
    """

    name: str
    backend: Backend
    fleets: PoolFleets
    history: History
    security: Security
    disconnect_grace: float
    max_lifetime: float | None
    home_limit: int
    dashboard_address: str | None
    specs: Callable[[Sequence[str]], list[RunnerSpec]]
    fix: Callable[[], None]
    note_stop: Callable[[str], None]
    expire: Expire
