"""Runners with free slots, in the order in which calls are assigned to them (scheduler)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from distributed.scheduler import WorkerState


class FreeWorkers:
    """Workers of one pool with free slots: the fullest first, the latest first among equals.

    Calls fill the busiest runner first, and among idle ones the one used last, so that the others
    become idle, stay idle, and can end. The time of all operations is independent of the number of
    workers.
    """

    def __init__(self) -> None:
        # A plain dict is slow here: finding its last item passes over all removed ones after it.
        self._by_free: dict[int, OrderedDict[str, WorkerState]] = {}
        self._free: dict[str, int] = {}

    def put(self, ws: WorkerState, free: int) -> None:
        """Set the number of free slots of a worker."""
        # This runs several times per call, and mostly changes nothing.
        before = self._free.get(ws.address, 0)
        if before == free or (free < 0 and not before):
            return
        if before:
            self.remove(ws.address)
        if free > 0:
            self._free[ws.address] = free
            if (same := self._by_free.get(free)) is None:
                same = self._by_free[free] = OrderedDict()
            same[ws.address] = ws

    def remove(self, address: str) -> None:
        """Remove a worker, which gets no calls."""
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
