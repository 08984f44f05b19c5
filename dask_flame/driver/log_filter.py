"""Dask's log lines, left out as long as there is a cluster that wants it (driver)."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

_ROOTS = ("distributed", "bokeh")


class QuietLogs:
    """Raises the levels of Dask's log handlers while it is held, by however many.

    distributed's own way puts back what it has found. Of two clusters that overlap, the first to
    close would thereby have the other one's lines shown.
    """

    def __init__(self) -> None:
        self._levels: dict[object, int] = {}
        self._before: dict[logging.Handler, int] = {}
        self._set: int | None = None

    @contextlib.contextmanager
    def held(self, level: int) -> Iterator[None]:
        """Leave out lines below a level; of several, the lowest level counts."""
        key = object()
        self._levels[key] = level
        self._apply()
        try:
            yield
        finally:
            del self._levels[key]
            self._apply()

    def _apply(self) -> None:
        handlers = [h for root in _ROOTS for h in logging.getLogger(root).handlers]
        for handler in handlers:
            if not isinstance(handler, logging.StreamHandler):
                continue
            if handler in self._before and handler.level != self._set:
                del self._before[handler]  # somebody has changed it since: it is theirs
                continue
            if self._levels:
                self._before.setdefault(handler, handler.level)
                handler.setLevel(min(self._levels.values()))
            elif handler in self._before:
                handler.setLevel(self._before.pop(handler))
        self._set = min(self._levels.values(), default=None)


@contextlib.contextmanager
def without(logger: str, begins: str) -> Iterator[None]:
    """Drop what a logger says that begins so, for as long as this is held."""

    def wanted(record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith(begins)

    log = logging.getLogger(logger)
    log.addFilter(wanted)
    try:
        yield
    finally:
        log.removeFilter(wanted)
