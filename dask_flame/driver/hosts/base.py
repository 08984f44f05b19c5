"""The interface between a cluster and the host of its scheduler (driver)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from distributed import Security

from dask_flame.backends.base import Backend
from dask_flame.backends.specs import Ended, RunnerSpec
from dask_flame.core.budget import Budget
from dask_flame.core.connection import ConnectionInfo
from dask_flame.core.pool import Pool
from dask_flame.driver.fleets import PoolFleets
from dask_flame.driver.hosts.known_runs import KnownRuns
from dask_flame.files.driver.cluster_files import ClusterFiles
from dask_flame.history.records import History
from dask_flame.history.state import Sample
from dask_flame.packages.check import RegistrationCheck
from dask_flame.scheduler.home.home import Home


class SchedulerView(Protocol):
    """The state of a scheduler that is available in every process of a cluster.

    Attributes
    ----------
    address : str
        The address for runners.
    """

    @property
    def address(self) -> str: ...

    def demand(self, pool: str) -> int:
        """Return the number of slots that could be used now."""

    def waiting(self, pool: str) -> int:
        """Return the number of ready calls without a slot."""

    def held_by_actors(self, pool: str, policy: Pool) -> str:
        """Describe the actors that hold all slots while calls wait; empty if that is not so."""


class AdaptiveBounds(Protocol):
    """The bounds within which the default pool follows demand; see ``cluster.adapt()``.

    Attributes
    ----------
    minimum, maximum : int
        Number of runners.
    """

    minimum: int
    maximum: int

    @property
    def history(self) -> Mapping[str, Sequence[Sample]]:
        """Samples of each pool for the dashboard, oldest first."""

    def stop(self, reason: str = "unknown") -> None:
        """Stop following demand: keep the default pool's current number of runners."""


class SchedulerHost(Protocol):
    """Run a cluster's scheduler, in this process or elsewhere, and pass events on to it.

    All methods are called on the cluster's event loop.

    Attributes
    ----------
    scheduler : SchedulerView or None
        None before :meth:`start`.
    home : Home or None
        The store for results of ended runners; None if it is not in this process.
    address : str
        The scheduler's address for Clients on this machine.
    dashboard_port : int
        Local port that is forwarded to the dashboard; 0 if the scheduler's own port is used.
    runs : KnownRuns
        The runs of a scheduler in another process; none if it is in this one.
    """

    @property
    def runs(self) -> KnownRuns: ...

    @property
    def scheduler(self) -> SchedulerView | None: ...

    @property
    def home(self) -> Home | None: ...

    @property
    def address(self) -> str: ...

    @property
    def dashboard_port(self) -> int: ...

    async def start(self, stack: contextlib.AsyncExitStack) -> None:
        """Start the scheduler, and push the callbacks that end it on `stack`."""

    def follow(self, stack: contextlib.AsyncExitStack) -> AdaptiveBounds:
        """Follow demand from now on, and push the callbacks that end this on `stack`."""

    async def caught_up(self) -> None:
        """Wait until this process has received the scheduler's current state."""

    def ends(self) -> None:
        """Note that the cluster closes, from any thread, before its Clients do."""

    async def finish(self) -> None:
        """Stop following demand, and let runners exit normally."""

    # Events of the backend

    def ended(self, what: Ended) -> None:
        """Handle the end of a runner."""

    def reached(self, name: str, step: str) -> None:
        """Handle a boot that has reached a step."""

    def held_up(self, name: str, why: str) -> None:
        """Handle a boot that is held up, or no longer if `why` is empty."""

    def queued(self, name: str, *, waits: bool) -> None:
        """Handle a boot that waits its turn, or whose turn has come."""

    def stopped(self, why: str) -> None:
        """Handle a cluster that was stopped from outside."""

    def replaced(self, why: str) -> None:
        """Handle the loss of this cluster to another driver."""

    # Requests of the user

    def resized(self, pool: str, changes: Mapping[str, object], text: str) -> None:
        """Apply a changed policy.

        Parameters
        ----------
        pool : str
        changes : mapping
            The changed options.
        text : str
            Text of the event.
        """

    def fixed(self, pool: str) -> None:
        """Stop following demand in a pool."""

    def budgeted(self, budget: Budget | None, text: str) -> None:
        """Follow another budget.

        Parameters
        ----------
        budget : Budget or None
        text : str
            Text of the event.
        """


@dataclass(frozen=True, kw_only=True)
class Adopted:
    """A running cluster, of which this process becomes the driver.

    Attributes
    ----------
    cluster : str
        Its id on the substrate.
    driver : str
        The id of this process as its driver.
    connection : ConnectionInfo
    """

    cluster: str
    driver: str
    connection: ConnectionInfo = field(repr=False)


class Expire(Protocol):
    """Close a cluster without a request of the user."""

    def __call__(self, why: str, *, logged: bool = False) -> None: ...


@dataclass(frozen=True, kw_only=True)
class HostParts:
    """The parts of a cluster that every host of its scheduler uses.

    Attributes
    ----------
    name : str
        Name of the cluster.
    backend : Backend
        The started backend.
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
    dashboard_token : str or None
        The token that all pages need; None if everybody may read them.
    files : ClusterFiles
        The files for runners.
    specs : callable
        Takes the kinds of runners by their names; returns their launch specifications.
    fix : callable
        Stops following demand in the default pool; callable from any thread.
    note_stop : callable
        Records that the cluster was stopped, with the reason; no more runners boot.
    expire : Expire
    packages : RegistrationCheck or None
        Compares the packages of runners that register; None if they are not compared.
    handover : callable
        Returns what another process needs to become the driver, pickled; see
        :mod:`dask_flame.driver.connect.handover`.
    adopted : Adopted or None
        The cluster of an earlier driver, in place of a new one.
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
    dashboard_token: str | None = field(repr=False)
    files: ClusterFiles
    specs: Callable[[Mapping[str, str]], list[RunnerSpec]]
    fix: Callable[[], None]
    note_stop: Callable[[str], None]
    expire: Expire
    packages: RegistrationCheck | None
    handover: Callable[[], bytes]
    adopted: Adopted | None = None
