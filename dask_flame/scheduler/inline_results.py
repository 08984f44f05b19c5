"""Small results, which come with the message that their call has finished (scheduler).

They are copies: the runner holds the result, too, for calls that depend on it. A Client in this
process reads a copy without asking the runner. When the last runner that holds a result is lost or
ends, the copy moves home.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

from distributed import Scheduler, SchedulerPlugin
from distributed.protocol.serialize import Serialized

#: Maximum bytes of all copies. Beyond it, the oldest are dropped; their runners still hold them.
_MOST = 64 * 2**20
#: Bytes that a copy takes in addition to its own.
_EACH = 200
#: The header of an object that distributed has pickled.
_HEADER: Mapping[str, Any] = {"serializer": "pickle", "writeable": ()}


class InlineResults(SchedulerPlugin):
    """Keep copies of small results while they are wanted, in bounded memory.

    Parameters
    ----------
    limit : int
        Maximum bytes of one result; 0: runners send none.
    most : int, optional
        Maximum bytes of all copies, 64 MiB by default.
    """

    name = "flame-inline-results"

    def __init__(self, limit: int, most: int = _MOST) -> None:
        self.limit = limit
        self._most = most
        self._kept: OrderedDict[Any, bytes] = OrderedDict()
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, key: object) -> bool:
        return key in self._kept

    def keep(self, key: Any, data: bytes) -> None:
        """Keep the copy of a result that is in memory now."""
        self.forget([key])
        self._kept[key] = data
        self.nbytes += len(data) + _EACH
        while self.nbytes > self._most:
            _, oldest = self._kept.popitem(last=False)
            self.nbytes -= len(oldest) + _EACH

    def forget(self, keys: Iterable[Any]) -> None:
        """Drop the copies of these results, if there are any."""
        for key in keys:
            if (data := self._kept.pop(key, None)) is not None:
                self.nbytes -= len(data) + _EACH

    def pickled(self, keys: Iterable[Any]) -> dict[Any, bytes]:
        """Return the pickles of those results of which there are copies."""
        return {key: self._kept[key] for key in keys if key in self._kept}

    def serialized(self, keys: Iterable[Any]) -> dict[Any, Serialized]:
        """Return the same as their runners would send it."""
        return {k: Serialized(dict(_HEADER), [data]) for k, data in self.pickled(keys).items()}

    # Scheduler plugin

    def transition(self, key: Any, start: str, finish: str, *args: Any, **kwargs: Any) -> None:
        if start == "memory" and key in self._kept:
            self.forget([key])

    def restart(self, scheduler: Scheduler) -> None:
        self._kept.clear()
        self.nbytes = 0
