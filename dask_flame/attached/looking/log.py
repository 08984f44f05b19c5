"""Follow the log of this process while somebody reads it (all places)."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import traceback
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from dask_flame.attached.looking.tables import clock, framed, html, html_table, shortened
from dask_flame.core.redaction import veiled
from dask_flame.core.terminal_text import plain

#: Number of kept lines, and the length of one.
KEPT, _LONGEST = 1_000, 4_000
#: Number of earlier lines, and bytes of a file in which they are looked for.
_EARLIER, _TAIL = 100, 64_000


@dataclass(frozen=True)
class LogLine:
    """A line of the log.

    Attributes
    ----------
    number : int
        Counts from 1; earlier lines, from a file, have 0.
    at : float or None
        Unix time, in seconds; None if it is part of the text.
    level, logger, text : str
        The text is without secrets. It includes the traceback of an error.
    """

    number: int
    at: float | None
    level: str
    logger: str
    text: str

    def __str__(self) -> str:
        lines = "\n".join(plain(line) for line in self.text.splitlines())
        if self.at is None:
            return lines
        return f"{clock(self.at)} {self.level} {plain(self.logger)}: {lines}"


@dataclass(frozen=True, repr=False)
class Log:
    """Some lines of the log of a process.

    Attributes
    ----------
    process : str
    pid : int
    lines : tuple of LogLine
    lost : int
        Number of lines that were dropped, because they were not read in time.
    since : str
        From when on there are lines.
    """

    process: str
    pid: int
    lines: tuple[LogLine, ...]
    lost: int = 0
    since: str = ""

    def __iter__(self) -> Iterator[LogLine]:
        return iter(self.lines)

    def __len__(self) -> int:
        return len(self.lines)

    def __repr__(self) -> str:
        parts = [f"({self.since})"] * bool(self.since)
        parts += [f"({self.lost:,} lines were dropped)"] * bool(self.lost)
        return "\n".join([*parts, *map(str, self.lines)])

    def _repr_html_(self) -> str:
        rows = [
            [clock(line.at) if line.at is not None else "", line.level, line.logger, line.text]
            for line in self.lines
        ]
        quiet = f"<p class=quiet>{html(self.since)}</p>" if self.since else ""
        return framed(quiet, html_table(["time", "level", "logger", "text"], rows))


class LogTap:
    """Keeps the last lines of this process's log while somebody reads them.

    The first reader adds a handler to the root logger, and to the loggers that do not pass their
    records on to it; the last reader to leave removes it. Records that an application's levels
    drop are not made, and so not seen.

    Parameters
    ----------
    process : str
    kept : int, default 1,000
        Number of kept lines.

    Notes
    -----
    All methods may be called from any thread.
    """

    def __init__(self, process: str = "", *, kept: int = KEPT) -> None:
        self._process = process
        self._lock = threading.Lock()
        self._kept = kept
        self._readers = 0
        self._pid = os.getpid()
        self._lines: deque[LogLine] = deque(maxlen=kept)
        self._number = 0
        self._news = threading.Condition(self._lock)
        self._handler: _Handler | None = None
        self._loggers: list[logging.Logger] = []

    def open(self) -> int:
        """Begin to read; return the number of the last line so far."""
        with self._lock:
            self._readers += 1
            if self._handler is None:
                self._handler = _Handler(self)
            number = self._number
        self._follow()
        return number

    def close(self) -> None:
        """End reading; without readers, nothing stays in the process's logging."""
        with self._lock:
            self._readers = max(0, self._readers - 1)
            if self._readers:
                return
            handler, self._handler = self._handler, None
            loggers, self._loggers = self._loggers, []
            self._lines.clear()
            self._news.notify_all()
        for logger in loggers:
            if handler is not None:
                logger.removeHandler(handler)

    def _follow(self) -> None:
        """Add the handler to the loggers that need it, also to those that are new."""
        root = logging.getLogger()
        manager = root.manager.loggerDict.copy()
        alone = [
            each
            for each in manager.values()
            if isinstance(each, logging.Logger) and not each.propagate
        ]
        with self._lock:
            handler = self._handler
            if handler is None:
                return
            new = [each for each in (root, *alone) if handler not in each.handlers]
            self._loggers += new
            for each in new:
                each.addHandler(handler)

    def read(self, after: int = 0, *, within: float = 0.0) -> Log:
        """Return the lines after the one with this number.

        Parameters
        ----------
        after : int, default 0
        within : float, default 0.0
            Seconds to wait for one, if there is none yet.
        """
        self._follow()
        with self._lock:
            if self._number <= after and within > 0:
                self._news.wait_for(lambda: self._number > after or not self._readers, within)
            lines = tuple(line for line in self._lines if line.number > after)
            lost = (lines[0].number - after - 1) if lines else max(0, self._number - after)
        return Log(self._process, os.getpid(), lines, lost)

    def add(self, record: logging.LogRecord) -> None:
        """Keep a record."""
        if os.getpid() != self._pid:
            return  # forked from the process that is read, perhaps while its lock was held
        text = _text(record)
        with self._lock:
            if self._handler is None:
                return
            self._number += 1
            line = LogLine(self._number, record.created, record.levelname, record.name, text)
            self._lines.append(line)
            self._news.notify_all()

    def earlier(self, most: int = _EARLIER) -> Log:
        """Return lines from before the first reader came, where the process keeps some.

        These are the ends of the files that it logs to, and what a handler with a buffer holds.
        """
        lines: list[LogLine] = []
        for handler in _handlers():
            if isinstance(handler, _Handler):
                continue
            if isinstance(handler, logging.FileHandler):
                tail = _tail(handler.baseFilename)
                lines += [LogLine(0, None, "", "", veiled(text)) for text in tail[-most:]]
            elif isinstance(buffer := getattr(handler, "buffer", None), list):
                records = [each for each in buffer if isinstance(each, logging.LogRecord)]
                lines += [
                    LogLine(0, each.created, each.levelname, each.name, _text(each))
                    for each in records[-most:]
                ]
        since = (
            "earlier lines are from where this process keeps them"
            if lines
            else "lines from now on: this process keeps no earlier ones in a file or a buffer"
        )
        return Log(self._process, os.getpid(), tuple(lines[-most:]), since=since)


class _Handler(logging.Handler):
    """Passes records on to a tap; never raises, and never waits for a reader."""

    def __init__(self, tap: LogTap) -> None:
        super().__init__()
        self._tap = tap

    def createLock(self) -> None:  # noqa: N802
        # The tap has its own. A lock of logging's would be held at a fork.
        self.lock = None

    def handle(self, record: logging.LogRecord) -> bool:
        with contextlib.suppress(Exception):
            self._tap.add(record)
        return True


def _text(record: logging.LogRecord) -> str:
    try:
        text = record.getMessage()
    except Exception:
        text = str(record.msg)
    if record.exc_info and record.exc_info[1] is not None:
        text = "\n".join([text, *traceback.format_exception(record.exc_info[1])]).rstrip()
    elif record.exc_text:
        text = f"{text}\n{record.exc_text}"
    return veiled(shortened(text, _LONGEST))


def _handlers() -> list[logging.Handler]:
    root = logging.getLogger()
    named = (each for each in root.manager.loggerDict.copy().values())
    loggers = [root, *(each for each in named if isinstance(each, logging.Logger))]
    return list(dict.fromkeys(handler for each in loggers for handler in each.handlers))


def _tail(file: str) -> list[str]:
    """Return the last lines of a file."""
    try:
        with open(file, "rb") as opened:
            size = opened.seek(0, os.SEEK_END)
            opened.seek(max(0, size - _TAIL))
            lines = opened.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return []
    return lines[size > _TAIL :]
