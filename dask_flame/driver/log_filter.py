"""Hide Dask's log messages while a cluster requests it (driver)."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from contextvars import ContextVar

from dask_flame.core.threads import AT_EXIT

_ROOTS = ("distributed", "bokeh")
#: Loggers with handlers of Dask's, in addition.
_OTHERS = ("tornado.application",)

#: The cluster that the present task or callback works for: a key of :meth:`QuietLogs.held`.
logs_of: ContextVar[object] = ContextVar("flame-logs-of")


class QuietLogs(logging.Filter):
    """Drop Dask's log messages below a level while at least one cluster requests it.

    It is a filter of Dask's log handlers. To change their levels, as distributed's
    ``silence_logging_cmgr`` does, would also drop the messages of other libraries that share a
    handler; and of two clusters, the first one to close would show the messages of the other.
    """

    def __init__(self) -> None:
        super().__init__()
        self._levels: dict[object, int] = {}
        self._handlers: set[logging.Handler] = set()

    @contextlib.contextmanager
    def held(self, level: int, key: object) -> Iterator[Callable[[int], None]]:
        """Drop messages below a level.

        To messages from code in whose context :data:`logs_of` is a key, the level that was
        requested with this key applies; to all others, the lowest of the requested levels.

        Parameters
        ----------
        level : int
        key : object
            Whose messages these are.

        Yields
        ------
        callable
            Requests another level; does nothing after the block.
        """

        def request(level: int) -> None:
            if key in self._levels:  # a cluster may be closed more than once
                self._levels[key] = level
                self._attach()

        self._levels[key] = level
        self._attach()
        try:
            yield request
        finally:
            del self._levels[key]
            if not self._levels:
                self._detach()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a handler is to write a record."""
        if _is_of_exit(record):
            return False
        if record.name.partition(".")[0] not in _ROOTS:
            return True
        level = self._levels.get(logs_of.get(None))
        if level is None:
            # A copy, since a cluster of another thread may close at this moment.
            level = min([*self._levels.values()], default=logging.NOTSET)
        return record.levelno >= level

    def _attach(self) -> None:
        for handler in (
            h for root in (*_ROOTS, *_OTHERS) for h in logging.getLogger(root).handlers
        ):
            if isinstance(handler, logging.StreamHandler):
                handler.addFilter(self)
                self._handlers.add(handler)

    def _detach(self) -> None:
        while self._handlers:
            self._handlers.pop().removeFilter(self)


def _is_of_exit(record: logging.LogRecord) -> bool:
    """Return whether a log record says only that this process exits."""
    error = record.exc_info[1] if record.exc_info else record.msg
    return str(error) == AT_EXIT
