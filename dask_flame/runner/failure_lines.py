"""Show one line for each failed call; its traceback stays in the runner's log (runner).

The whole error is raised where the result is asked for. Distributed also logs it in seven lines,
which the driver would show for each of many calls.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

from dask_flame.core.text import is_generated, label
from dask_flame.prints.frames import short
from dask_flame.prints.runner.streams import CallStream

#: Maximum number of characters of an error in a line.
_LONGEST_ERROR = 200


def show_failures_in_one_line() -> None:
    """Shorten Dask's log messages about failed calls in the driver, from now on.

    ``cluster.get_logs()`` still has the whole messages.
    """
    for name in ("distributed.worker", "distributed", ""):
        for handler in logging.getLogger(name).handlers:
            known = any(isinstance(each, _OneLine) for each in handler.filters)
            if isinstance(handler, logging.StreamHandler) and not known:
                handler.addFilter(_OneLine(handler))


def keep(text: str) -> None:
    """Write a text to the runner's log, but not to the driver."""
    if isinstance(sys.stderr, CallStream):
        sys.stderr.keep(text)
    else:
        sys.stderr.write(text)


class _OneLine(logging.Filter):
    """Handle the messages about failed calls, in place of the handler that has this filter."""

    def __init__(self, handler: logging.StreamHandler[Any]) -> None:
        super().__init__()
        self._handler = handler

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the handler is to write the record."""
        stream = self._handler.stream
        if not isinstance(stream, CallStream) or not is_failure(record):
            return True
        try:
            stream.say(line(record) + "\n")
            stream.keep(self._handler.format(record) + "\n")
        except Exception:
            self._handler.handleError(record)
        return False


def is_failure(record: logging.LogRecord) -> bool:
    """Return whether a log record is distributed's about a call that has raised an error."""
    said = isinstance(record.msg, str) and record.msg.startswith("Compute Failed")
    return said and isinstance(record.args, tuple) and len(record.args) == 5


def line(record: logging.LogRecord) -> str:
    """Return the message about a failed call in one line: its name, and the error.

    The name is its key, or, if Dask has made the key, its function and arguments.
    """
    assert isinstance(record.args, tuple)
    key, _, task, error, _ = record.args
    name = label(key)
    if is_generated(key) and isinstance(task, str) and task[:1] == "<" and task[-1:] == ">":
        name = task[1:-1]
    error = " ".join(str(error).split())
    if len(error) > _LONGEST_ERROR:
        error = f"{error[:_LONGEST_ERROR]} …"
    return f"{short(name)} failed: {error}"
