"""Show the FlameClusters that live in this process (all places)."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from dask_flame.attached.looking.tables import framed, html
from dask_flame.core.terminal_text import tame


@dataclass(frozen=True)
class Shown:
    """A cluster, as it shows itself.

    Attributes
    ----------
    name : str
    text : str
        Its ``repr``.
    html : str
        What a cell of a notebook shows.
    """

    name: str
    text: str
    html: str


@dataclass(frozen=True, repr=False)
class Pools:
    """The clusters of a process.

    Attributes
    ----------
    process : str
    pid : int
    clusters : tuple of Shown
    """

    process: str
    pid: int
    clusters: tuple[Shown, ...]

    def __iter__(self) -> Iterator[Shown]:
        return iter(self.clusters)

    def __len__(self) -> int:
        return len(self.clusters)

    @property
    def _none(self) -> str:
        return f"{self.process or 'a process'}, process {self.pid}: no FlameCluster"

    def __repr__(self) -> str:
        return "\n".join(tame(cluster.text) for cluster in self.clusters) or self._none

    def _repr_html_(self) -> str:
        if not self.clusters:
            return framed(f"<p>{html(self._none)}</p>")
        return "\n".join(cluster.html for cluster in self.clusters)


def pools(process: str = "") -> Pools:
    """Return the open FlameClusters of this process.

    Parameters
    ----------
    process : str, default ""
        The name of this process, to show.
    """
    found = []
    # Not imported: a process that has not imported it has no cluster.
    module = sys.modules.get("dask_flame.driver.open_clusters")
    for cluster in [] if module is None else module.open_clusters():
        shown = cluster._repr_html_()
        found.append(Shown(str(cluster.name), repr(cluster), str(shown)))
    found.sort(key=lambda cluster: cluster.name)
    return Pools(process, os.getpid(), tuple(found))
