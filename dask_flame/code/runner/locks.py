"""Locks of modules that are being imported, which never deadlock (runner)."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator


class ModuleLocks:
    """One lock for each module, by name; a thread may take the same one again.

    Two threads that import modules which import each other would wait for each other. As Python
    does, the second one then goes on with the module that is only partly executed.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._holders: dict[str, int] = {}
        self._depth: Counter[str] = Counter()
        self._waiting: dict[int, str] = {}

    @contextlib.contextmanager
    def hold(self, name: str) -> Iterator[bool]:
        """Hold the lock of a module in the body; yield False if that would deadlock."""
        taken = self._take(name)
        try:
            yield taken
        finally:
            if taken:
                self._release(name)

    def _take(self, name: str) -> bool:
        me = threading.get_ident()
        with self._changed:
            while self._holders.get(name, me) != me:
                if self._would_deadlock(name, me):
                    return False
                self._waiting[me] = name
                try:
                    self._changed.wait()
                finally:
                    del self._waiting[me]
            self._holders[name] = me
            self._depth[name] += 1
            return True

    def _release(self, name: str) -> None:
        with self._changed:
            self._depth[name] -= 1
            if not self._depth[name]:
                del self._holders[name], self._depth[name]
                self._changed.notify_all()

    def _would_deadlock(self, name: str, me: int) -> bool:
        """Return whether the holder of a lock waits, through others, for this thread."""
        seen = set()
        while (holder := self._holders.get(name)) is not None and holder not in seen:
            if holder == me:
                return True
            seen.add(holder)
            if (wanted := self._waiting.get(holder)) is None:
                return False
            name = wanted
        return False
