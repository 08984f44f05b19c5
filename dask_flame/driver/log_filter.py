"""Hide Dask's log messages while a cluster requests it (driver)."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator

_ROOTS = ("distributed", "bokeh")


class QuietLogs:
    """Raise the levels of Dask's log handlers while at least one cluster requests it.

    Distributed's ``silence_logging_cmgr`` restores the level that it found: of two clusters, the
    first one to close would show the messages of the other.
    """

    def __init__(self) -> None:
        self._levels: dict[object, int] = {}
        self._before: dict[logging.Handler, int] = {}
        self._set: int | None = None

    @contextlib.contextmanager
    def held(self, level: int) -> Iterator[Callable[[int], None]]:
        """Hide messages below a level; the lowest of several requested levels applies.

        Yields
        ------
        callable
            Requests another level.
        """
        key = object()

        def request(level: int) -> None:
            self._levels[key] = level
            self._apply()

        request(level)
        try:
            yield request
        finally:
            del self._levels[key]
            self._apply()

    def _apply(self) -> None:
        handlers = [h for root in _ROOTS for h in logging.getLogger(root).handlers]
        for handler in handlers:
            if not isinstance(handler, logging.StreamHandler):
                continue
            if handler in self._before and handler.level != self._set:
                del self._before[handler]  # changed elsewhere since: keep that level
                continue
            if self._levels:
                self._before.setdefault(handler, handler.level)
                handler.setLevel(min(self._levels.values()))
            elif handler in self._before:
                handler.setLevel(self._before.pop(handler))
        self._set = min(self._levels.values(), default=None)


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
