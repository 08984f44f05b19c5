"""The interface through which other processes find and end clusters (command line, driver).

A backend with an inspector has a class method ``inspector``, see :meth:`Backend.inspector`. An
inspector does not need the cluster's driver, which may be dead or on another machine.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from dask_flame.attached.looking.values import Stacks
from dask_flame.core.connection import ConnectionInfo
from dask_flame.errors import BackendError


@dataclass(frozen=True, kw_only=True)
class RunnerListing:
    """A runner, as listed by the substrate.

    Attributes
    ----------
    name, pool : str
    state : str
        The state in the substrate's terms: ``"running"``, ``"Pending"``, ….
    started : float or None
        Unix time, in seconds.
    where : str
        The process, or the node; empty if it has none yet.
    gpus : float
        Number of requested GPUs, as far as the substrate reports it.
    kind : str
        Its kind among those of its pool, such as ``"A100, spot"``; empty if it is not known.
    """

    name: str
    pool: str
    state: str
    started: float | None = None
    where: str = ""
    gpus: float = 0
    kind: str = ""


@dataclass(frozen=True, kw_only=True)
class ClusterListing:
    """A cluster, as listed by the substrate.

    Attributes
    ----------
    id : str
        A unique id.
    name : str
        The name that its driver uses; not unique.
    state : str
        ``"live"``; ``"starting"``: its driver has not connected to its scheduler yet;
        ``"stopped"``: its driver is running, and must not boot runners; ``"ending"``: it is about
        to end by itself; ``"orphaned"``: see :meth:`Inspector.orphans`.
    driver : str
        The place of its driver, as far as it is known.
    started : float or None
        Unix time, in seconds.
    runners : tuple of RunnerListing
    made_by : str
        User and host of its first driver, where the backend notes them for a cluster that can be
        adopted; see :func:`dask_flame.core.connection.this_user`.
    """

    id: str
    name: str
    state: str
    driver: str = ""
    started: float | None = None
    runners: tuple[RunnerListing, ...] = ()
    made_by: str = ""


@dataclass(frozen=True, kw_only=True)
class Orphan:
    """An object of a cluster whose driver no longer exists.

    Attributes
    ----------
    what : str
        The kind of object, and its name or number.
    cluster : str
        The id of its cluster; empty if unknown.
    why : str
        Why it is considered an orphan.
    key : tuple
        The backend's key, which distinguishes it from other objects of the same name or number.
    """

    what: str
    cluster: str
    why: str
    key: tuple[object, ...] = field(default=(), repr=False)


@dataclass(frozen=True, kw_only=True)
class Entrance:
    """A way to a cluster's scheduler.

    Attributes
    ----------
    address : str
        The scheduler's address for this process.
    connection : ConnectionInfo
    close : callable
        Return an awaitable that closes the way.
    """

    address: str
    connection: ConnectionInfo = field(repr=False)
    close: Callable[[], Awaitable[None]] = field(repr=False)


class Inspector(ABC):
    """List and end clusters, without their drivers. Use it with ``async with``.

    An inspector only lists or ends objects of this user that this backend created for a cluster.

    Attributes
    ----------
    notes : list of str
        Messages for the user about everything that could not be listed or done, and why.
    unseen : list of str
        What could not be looked at, such as kinds of objects or hosts: what is there is not listed.
        The command line shows what it has found, and then fails.
    """

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.unseen: list[str] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    @abstractmethod
    async def clusters(self) -> list[ClusterListing]:
        """Return all clusters, oldest first."""

    @abstractmethod
    async def logs(self, cluster: ClusterListing, *, lines: int) -> Mapping[str, str]:
        """Return the last ``lines`` lines of output of each of a cluster's runners, by name."""

    async def stacks(self, cluster: ClusterListing, runner: str) -> Stacks:
        """Return what a runner executes. Local clusters only, unless a backend overrides it.

        Raises
        ------
        BackendError
            It cannot be found out from here.
        """
        write = f'cluster.runners["{runner}"].stacks()'
        raise BackendError(
            f"the stacks of {runner} cannot be read from here; write {write} in the driver of "
            f"{cluster.name}, or look at the page /inspect of its dashboard"
        )

    @abstractmethod
    async def stop(self, cluster: ClusterListing, *, within: float) -> str:
        """End all runners and objects of a cluster, and notify its driver.

        Parameters
        ----------
        cluster : ClusterListing
        within : float
            Maximum duration, in seconds.

        Returns
        -------
        str
            The outcome for the cluster and its driver.

        Raises
        ------
        BackendError
            If something is left after `within` seconds.
        """

    async def enter(self, cluster: ClusterListing) -> Entrance:
        """Open a way to a cluster's scheduler, which lasts until it or the inspector is closed.

        This is optional.

        Raises
        ------
        BackendError
            It cannot be reached, or this user may not connect to it.
        """
        raise BackendError(f"this backend cannot connect to {cluster.id} from another process")

    @abstractmethod
    async def orphans(self) -> list[Orphan]:
        """Return objects of clusters without a driver, except those about to end by themselves."""

    @abstractmethod
    async def end(self, orphans: Sequence[Orphan]) -> list[Orphan]:
        """End objects that are still orphaned; return those that could not be ended."""


#: Whose the options of the command line are that say where clusters are.
_WHOSE = {"namespace": "Kubernetes", "context": "Kubernetes", "app": "Fly", "hosts": "SSH"}


def check_where(where: Collection[str], *, own: Collection[str] = (), write: str = "") -> None:
    """Refuse options of the command line that belong to another backend.

    Parameters
    ----------
    where : collection of str
        The given options.
    own : collection of str
        Those that the backend has.
    write : str, default ""
        The end of the error, with what to write in their place: ``"; on Fly write --app"``.

    Raises
    ------
    BackendError
    """
    for option in where:
        if option not in own:
            whose = _WHOSE.get(option, "another backend")
            raise BackendError(
                f"--{option} is an option of {whose}; leave it out, or add --backend "
                f"{whose.lower()}{write}"
            )


def stop_outcome(cluster: ClusterListing, *, told: bool) -> str:
    """Return the outcome of :meth:`Inspector.stop` where the driver may be on another machine.

    Parameters
    ----------
    cluster : ClusterListing
        As it was before it was stopped.
    told : bool
        Whether its driver was notified.
    """
    if cluster.state == "orphaned":
        return "ended; its driver was gone"
    was = "and was told" if told else "and could not be told: it may begin again"
    return f"stopped; its driver, {cluster.driver}, may live on, {was}"


async def lasting_orphans(
    look: Callable[[], Awaitable[Sequence[Orphan]]], *, within: float, pause: float
) -> list[Orphan]:
    """Return the orphans that do not end by themselves.

    Parameters
    ----------
    look : callable
        Return the orphans that there are now.
    within : float
        Seconds that they have to end, from the first look on.
    pause : float
        Seconds between two looks.
    """
    found = {orphan.key: orphan for orphan in await look()}
    deadline = time.monotonic() + within
    while found and time.monotonic() < deadline:
        await asyncio.sleep(pause)
        there = {orphan.key for orphan in await look()}
        found = {key: orphan for key, orphan in found.items() if key in there}
    return list(found.values())
