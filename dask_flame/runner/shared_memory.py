"""Keep shared memory of other processes when a runner ends (runner).

Python's resource tracker removes all shared memory that an ended process has used. Before Python
3.13 this includes segments that the process only attached to, which may belong to the driver or
another runner.
"""

from __future__ import annotations

import sys
import threading
from functools import wraps
from multiprocessing import resource_tracker, shared_memory
from typing import Any


def track_own_only() -> None:
    """Do not remove shared memory at exit that this process attached to but did not create."""
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
        """Replaces the module's resource tracker."""

        @staticmethod
        def register(name: str, kind: str) -> None:
            if not getattr(state, "attaching", False):
                resource_tracker.register(name, kind)

        @staticmethod
        def unregister(name: str, kind: str) -> None:
            # The tracker prints a traceback for names that it does not know.
            resource_tracker.register(name, kind)
            resource_tracker.unregister(name, kind)

    shared_memory.SharedMemory.__init__ = init  # type: ignore[method-assign]
    if sys.version_info < (3, 13):
        shared_memory.resource_tracker = Tracker  # type: ignore[attr-defined]
