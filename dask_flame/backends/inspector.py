"""What the command line asks of a backend: clusters seen and ended from outside (command line).

A backend that offers it has a class method ``overseer``, see :meth:`Backend.overseer`. Nothing here
needs the cluster's driver, which may be dead, or somewhere else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self


@dataclass(frozen=True, kw_only=True)
class RunnerListing:
    """A runner, as the substrate shows it.

    Attributes
    ----------
    name, pool : str
    state : str
        In the substrate's word: ``"running"``, ``"Pending"``, ….
    started : float or None
        Unix time, in seconds.
    where : str
        The process, or the node; empty where it has none yet.
    gpus : float
        How many it has asked for, as far as the substrate tells.
    """

    name: str
    pool: str
    state: str
    started: float | None = None
    where: str = ""
    gpus: float = 0


@dataclass(frozen=True, kw_only=True)
class ClusterListing:
    """A cluster, as the substrate shows it.

    Attributes
    ----------
    id : str
        What nothing else is called.
    name : str
        What its driver calls it; several may have the same.
    state : str
        ``"live"``; ``"starting"``: its driver has not met its scheduler yet; ``"stopped"``: its
        driver lives, and was told to have no runners; ``"ending"``: it goes by itself;
        ``"orphaned"``: see :meth:`Inspector.strays`.
    driver : str
        Where it is, as far as that is known.
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
    """Something of a cluster's that nobody is there for any more.

    Attributes
    ----------
    what : str
        What it is, and its name or number.
    cluster : str
        The id of the cluster that it was made for; empty where that is not known.
    why : str
        Why it is taken for one.
    key : tuple
        The backend's own; what another thing of the same name, or number, does not have.
    """

    what: str
    cluster: str
    why: str
    key: tuple[object, ...] = field(default=(), repr=False)


class Inspector(ABC):
    """Sees clusters from outside, and ends them. To be used with ``async with``.

    Only what is the user's own, and was made by this backend for a cluster, is ever shown or ended.

    Attributes
    ----------
    notes : list of str
        What could not be seen or done, and why; for the user to read.
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
        """All clusters there are, oldest first."""

    @abstractmethod
    async def logs(self, cluster: ClusterListing, *, lines: int) -> Mapping[str, str]:
        """What a cluster's runners have printed last, so many lines each, by their names."""

    @abstractmethod
    async def stop(self, cluster: ClusterListing, *, within: float) -> str:
        """End all runners of a cluster, and all that was made for it, and tell its driver.

        Returns
        -------
        str
            What has become of it and its driver.

        Raises
        ------
        BackendError
            If something is left after so many seconds.
        """

    @abstractmethod
    async def strays(self) -> list[Orphan]:
        """What bears our marks and has nobody; what is just about to end by itself is left out."""

    @abstractmethod
    async def end(self, strays: Sequence[Orphan]) -> list[Orphan]:
        """End these, as far as they are strays still; returns those that are left all the same."""
