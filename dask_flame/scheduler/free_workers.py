"""Runners with a free slot, in the order in which calls are given to them (scheduler)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from distributed.scheduler import WorkerState


class FreeWorkers:
    """Workers of one pool that have a free slot: the fullest first, of those the last to join.

    Calls fill the fullest runner first, and of several idle ones the one that was used last, so
    that the others become idle, stay idle, and can go. Every operation takes the same time
    whatever the number of workers.
    """

    def __init__(self) -> None:
        # Ordered dicts: in a plain one, the last of what is left is before all that was taken out.
        self._by_free: dict[int, OrderedDict[str, WorkerState]] = {}
        self._free: dict[str, int] = {}

    def put(self, ws: WorkerState, free: int) -> None:
        """This worker has so many free slots now."""
        if self._free.get(ws.address, 0) == max(0, free):
            return
        self.remove(ws.address)
        if free > 0:
            self._free[ws.address] = free
            self._by_free.setdefault(free, OrderedDict())[ws.address] = ws

    def remove(self, address: str) -> None:
        """This worker is not to be given calls."""
        free = self._free.pop(address, 0)
        if free:
            del self._by_free[free][address]
            if not self._by_free[free]:
                del self._by_free[free]

    def __iter__(self) -> Iterator[WorkerState]:
        for free in sorted(self._by_free):
            yield from reversed(self._by_free[free].values())

    def __contains__(self, ws: WorkerState) -> bool:
        return ws.address in self._free

    def __len__(self) -> int:
        return len(self._free)
