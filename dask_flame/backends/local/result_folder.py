"""The driver's folder for results spilled to its disk (driver)."""

from __future__ import annotations

import os

from dask_flame.core.folder_locks import hold
from dask_flame.core.own_folders import make_temporary
from dask_flame.core.placed_links import remove_folder


class DriverFolder:
    """A folder that lives as long as its driver, even if supervisors are killed.

    The driver removes it. If the driver is killed, its supervisor does so, or a runner that has
    outlived both; ``dask flame sweep`` recognizes it by its lock, which ends with the driver.

    Parameters
    ----------
    cluster : str
        Prefix of the marks of the cluster's processes.
    place : str
        Where to create it; empty: the default place for temporary files.
    """

    def __init__(self, cluster: str, place: str) -> None:
        self.path = make_temporary(f"dask-flame-{cluster}-", place)
        self._made_by = os.getpid()
        self._held = hold(self.path)

    def let_go(self) -> None:
        """Close the lock without removing the folder, as in a forked child."""
        while self._held:
            os.close(self._held.pop())

    def remove(self) -> None:
        """Remove the folder with its contents; only in the process that created it."""
        if os.getpid() == self._made_by:
            remove_folder(self.path)
            self.let_go()
