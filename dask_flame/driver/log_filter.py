"""Hide Dask's log messages while a cluster requests it (driver)."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator

_ROOTS = ("distributed", "bokeh")


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
    def held(self, level: int) -> Iterator[Callable[[int], None]]:
        """Drop messages below a level; the lowest of several requested levels applies.

        Yields
        ------
        callable
            Requests another level.
        """
        key = object()

        def request(level: int) -> None:
            self._levels[key] = level
            self._attach()

        request(level)
        try:
            yield request
        finally:
            del self._levels[key]
            if not self._levels:
                self._detach()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a handler is to write a record."""
        if record.name.partition(".")[0] not in _ROOTS:
            return True
        # A copy, since a cluster of another thread may close at this moment.
        return record.levelno >= min([*self._levels.values()], default=logging.NOTSET)

    def _attach(self) -> None:
        for handler in (h for root in _ROOTS for h in logging.getLogger(root).handlers):
            if isinstance(handler, logging.StreamHandler):
                handler.addFilter(self)
                self._handlers.add(handler)

    def _detach(self) -> None:
        while self._handlers:
            self._handlers.pop().removeFilter(self)


@contextlib.contextmanager
def without(logger: str, begins: str) -> Iterator[None]:
    """Drop the messages of a logger that begin with `begins`, inside the block."""

    def wanted(record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith(begins)

    log = logging.getLogger(logger)
    log.addFilter(wanted)
    try:
        yield
    finally:
        log.removeFilter(wanted)
