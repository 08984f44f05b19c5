"""Shared memory that belongs to somebody else stays when a runner ends (runner).

Python's resource tracker removes what is left of a process in shared memory, and up to Python 3.12
that is also what the process has only attached to. For a runner that may be the driver's, or
another runner's.
"""

from __future__ import annotations

import sys
import threading
from functools import wraps
from multiprocessing import resource_tracker, shared_memory
from typing import Any


def track_own_only() -> None:
    """Have what this process attaches to, without having made it, not removed at its end."""
    made = shared_memory.SharedMemory.__init__
    if hasattr(made, "__wrapped__"):
        return
    state = threading.local()

    @wraps(made)
    def init(
        self: Any, name: str | None = None, create: bool = False, *args: Any, **kwargs: Any
    ) -> None:
        if create or sys.version_info >= (3, 13):
            if not create:
                kwargs.setdefault("track", False)
            made(self, name, create, *args, **kwargs)
            return
        state.attaching = True
        try:
            made(self, name, create, *args, **kwargs)
        finally:
            state.attaching = False

    class Tracker:
        """What the module has in place of its tracker."""

        @staticmethod
        def register(name: str, kind: str) -> None:
            if not getattr(state, "attaching", False):
                resource_tracker.register(name, kind)

        @staticmethod
        def unregister(name: str, kind: str) -> None:
            # It complains of what it does not know.
            resource_tracker.register(name, kind)
            resource_tracker.unregister(name, kind)

    shared_memory.SharedMemory.__init__ = init  # type: ignore[method-assign]
    if sys.version_info < (3, 13):
        shared_memory.resource_tracker = Tracker  # type: ignore[attr-defined]
