"""The files that a cluster gives its runners (driver)."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from dask_flame.core.folder_locks import hold
from dask_flame.core.own_folders import make_temporary
from dask_flame.core.placed_links import remove_folder
from dask_flame.core.settings import configured
from dask_flame.core.threads import in_thread
from dask_flame.files.driver.local import place_here
from dask_flame.files.driver.option import cannot_be_read, check_files, too_large
from dask_flame.files.scheduler.store import BlockStore
from dask_flame.files.tree import BLOCK, FILE, blocks, dumps


class ClusterFiles:
    """The files of ``files=``, put in place here or kept for runners elsewhere.

    Parameters
    ----------
    given : mapping or None
        The option.
    remote : bool
        Whether runners are on other machines.
    disposable : bool
        Whether a runner's own file system ends with it, so that files there may be replaced.

    Attributes
    ----------
    store : BlockStore
        What runners ask the scheduler for.
    plan : dict
        What a runner is started with: the digests of the list of files, and whether it may replace
        files. Empty if it has nothing to do.

    Raises
    ------
    PoolError
        The option is not valid.
    """

    def __init__(self, given: Any, *, remote: bool, disposable: bool) -> None:
        self._items = check_files(given)
        self._remote = remote
        self._disposable = disposable
        self._folder = ""
        self._held: list[int] = []
        self.store = BlockStore()
        self.plan: dict[str, Any] = {}

    async def start(self, cluster: str, folder: str | None) -> None:
        """Put the files in place on this machine, or read them for runners elsewhere.

        Parameters
        ----------
        cluster : str
            The cluster's name.
        folder : str or None
            A folder that is removed with the cluster, whatever ends it.

        Raises
        ------
        PoolError
        """
        if self._items and not self._remote:
            await in_thread(place_here, self._items, folder or self._own_folder(cluster))
        elif self._items:
            await in_thread(self._read)
        self.store.complete()

    async def upload(self, ask: Callable[..., Awaitable[Any]]) -> None:
        """Send everything to a scheduler elsewhere, and forget it here.

        Parameters
        ----------
        ask : callable
            Sends a message and waits for the answer.
        """
        for pack in self.store.packs():
            await ask("files", pack=pack)
        await ask("files", pack=None)
        self.store.clear()

    def close(self) -> None:
        """Remove what was put in place, if the backend has no folder for it."""
        if self._folder:
            remove_folder(self._folder)
            while self._held:
                os.close(self._held.pop())
        self.store.clear()

    def _own_folder(self, cluster: str) -> str:
        # Nothing removes it after a kill of this process, except `dask flame sweep`.
        self._folder = make_temporary(f"dask-flame-{cluster}-")
        self._held = hold(self._folder)
        return self._folder

    def _read(self) -> None:
        limit = configured("files.limit")
        planned, size = [], 0
        for item in self._items:
            names = []
            try:
                for block in blocks(item.source) if item.kind == FILE else ():
                    names.append(self.store.keep(block))
                    size += len(block)
                    if size > limit:  # a file has grown
                        raise too_large(self._items, size, limit)
            except OSError as error:
                raise cannot_be_read(item.source, error) from None
            planned.append(replace(item, blocks=tuple(names)))
        plan = dumps(planned)
        names = [self.store.keep(plan[at : at + BLOCK]) for at in range(0, len(plan), BLOCK)]
        self.plan = {"plan": names, "replace": self._disposable}
