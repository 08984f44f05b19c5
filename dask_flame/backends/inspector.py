"""The interface through which the command line lists and ends clusters (command line).

A backend with an inspector has a class method ``inspector``, see :meth:`Backend.inspector`. An
inspector does not need the cluster's driver, which may be dead or on another machine.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self


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
    """

    name: str
    pool: str
    state: str
    started: float | None = None
    where: str = ""
    gpus: float = 0


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
    """

    id: str
    name: str
    state: str
    driver: str = ""
    started: float | None = None
    runners: tuple[RunnerListing, ...] = ()


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


class Inspector(ABC):
    """List and end clusters, without their drivers. Use it with ``async with``.

    An inspector only lists or ends objects of this user that this backend created for a cluster.

    Attributes
    ----------
    notes : list of str
        Messages for the user about everything that could not be listed or done, and why.
    """

    def __init__(self) -> None:
        self.notes: list[str] = []

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

    @abstractmethod
    async def orphans(self) -> list[Orphan]:
        """Return objects of clusters without a driver, except those about to end by themselves."""

    @abstractmethod
    async def end(self, orphans: Sequence[Orphan]) -> list[Orphan]:
        """End objects that are still orphaned; return those that could not be ended."""
