"""The driver's folder, for results that rest on its disk (driver)."""

from __future__ import annotations

import os
import shutil
import tempfile

from dask_flame.core.folder_locks import hold


class DriverFolder:
    """A folder that lasts as long as its driver, whatever becomes of guards.

    The driver removes it. Where the driver is killed its guard does, or a runner that has outlived
    both; ``dask flame sweep`` knows it by its lock, which ends with the driver.

    Parameters
    ----------
    cluster : str
        What the marks of the cluster's processes begin with.
    place : str
        Where to make it; empty: in the usual place for temporary files.
    """

    def __init__(self, cluster: str, place: str) -> None:
        self.path = tempfile.mkdtemp(prefix=f"dask-flame-{cluster}-", dir=place or None)
        self._made_by = os.getpid()
        self._held = hold(self.path)

    def let_go(self) -> None:
        """Hold it no longer, as in a child that was forked: its lock is the driver's."""
        while self._held:
            os.close(self._held.pop())

    def remove(self) -> None:
        """Remove it with all that is in it, in the process that has made it."""
        if os.getpid() == self._made_by:
            shutil.rmtree(self.path, ignore_errors=True)
            self.let_go()
