"""Hide single log messages while something is done that tells of it otherwise (any place)."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator


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
