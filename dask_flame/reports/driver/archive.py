"""A file that keeps runs across clusters (driver)."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgpack
from dask.typing import Key

from dask_flame.core.own_folders import make_own, why_unsafe
from dask_flame.core.terminal_text import plain
from dask_flame.errors import FlameError
from dask_flame.reports.downsample import thin_steps
from dask_flame.reports.runs import Run
from dask_flame.reports.scheduler.call_record import dumped, loaded
from dask_flame.reports.series import CallReports, Series

#: Version of the tables, in SQLite's ``user_version``.
_VERSION = 1
_TABLES = """
CREATE TABLE runs (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, begun REAL NOT NULL, total INTEGER NOT NULL,
    named INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE calls (
    run TEXT NOT NULL, key BLOB NOT NULL, attempt INTEGER NOT NULL, content BLOB NOT NULL,
    PRIMARY KEY (run, key, attempt)
);
"""
#: Not in the first version of the tables, which other drivers may have created.
_WRITTEN = "CREATE TABLE IF NOT EXISTS written (run TEXT PRIMARY KEY, at REAL NOT NULL)"
#: Seconds in which a run is not removed after something was added to it: its cluster may live.
_FRESH = 86_400.0
#: Maximum number of points of a series to keep.
_POINTS = 1_000
#: Seconds to wait for another driver that writes.
_PATIENCE = 5.0


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is kept; None is no limit.

    Attributes
    ----------
    runs : int or None
        Number of runs.
    age : float or None
        Seconds since something was added to a run.
    size : int or None
        Bytes of the calls of all runs.
    """

    runs: int | None = None
    age: float | None = None
    size: int | None = None


class Archive:
    """Runs in a file of SQLite, which several drivers may write at the same time.

    Parameters
    ----------
    path : Path
        Created by the first write, readable by its owner only. Nothing is written if other users
        could replace it, or make files beside it.

    Notes
    -----
    All methods may raise ``sqlite3.Error`` and ``OSError``, and :class:`FlameError` if a later
    version of dask-flame has written the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, runs: Iterable[Run], calls: Iterable[CallReports]) -> None:
        """Add runs and the attempts of calls, in place of those with the same identities.

        Parameters
        ----------
        runs : iterable of Run
        calls : iterable of CallReports
            Each belongs to one of these runs, so that none is without its run if that was removed
            meanwhile.
        """
        runs = list(runs)
        make_own(self.path.parent)
        # SQLite reads files beside this one: a journal of another user would be rolled back.
        self._check(why_unsafe(self.path.parent, alone=True))
        # SQLite gives its other files the mode of this one.
        os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
        self._check(why_unsafe(self.path))
        with self._open() as connection:
            self._prepare(connection)
            self._write(connection, runs, calls)

    def _check(self, why: str) -> None:
        if why:
            raise FlameError(
                f"flame.reports.keep={plain(str(self.path))} is not safe from other users of this "
                f"machine: {plain(why)}; choose a file in a folder of your own"
            )

    def _write(
        self, connection: sqlite3.Connection, runs: Iterable[Run], calls: Iterable[CallReports]
    ) -> None:
        with connection:
            connection.executemany(
                "INSERT INTO runs VALUES (?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET "
                "name = excluded.name, total = max(total, excluded.total)",
                [(run.id, run.name, run.begun, run.total, run.named) for run in runs],
            )
            now = time.time()
            connection.executemany(
                "INSERT OR REPLACE INTO written VALUES (?, ?)", [(run.id, now) for run in runs]
            )
            connection.executemany(
                "INSERT INTO calls VALUES (?, ?, ?, ?) ON CONFLICT (run, key, attempt) "
                "DO UPDATE SET content = excluded.content",
                (
                    (call.run, msgpack.packb(call.key), call.attempt, _packed(call))
                    for latest in calls
                    for call in (*latest.earlier, latest)
                ),
            )

    def runs(self) -> list[Run]:
        """Return the kept runs, oldest first; none if there is no file."""
        rows = self._read("SELECT id, name, begun, total, named FROM runs ORDER BY begun")
        return [
            Run(number, name, begun, total, named=bool(named))
            for number, name, begun, total, named in rows
        ]

    def calls(self, run: str) -> dict[Key, CallReports]:
        """Return the kept calls of a run, with their earlier attempts."""
        found: dict[Key, CallReports] = {}
        for (content,) in self._read("SELECT content FROM calls WHERE run = ? ORDER BY rowid", run):
            try:
                call = _unpacked(content)
            except Exception as error:
                raise FlameError(
                    f"a call of run {run[:8]} in flame.reports.keep={plain(str(self.path))} cannot "
                    f"be read: {error}; remove the run with: dask flame runs {run[:8]} --delete"
                ) from error
            before = found.get(call.key)
            if before is not None:
                earlier, latest = sorted((before, call), key=lambda one: one.attempt)
                call = replace(latest, earlier=(*earlier.earlier, replace(earlier, earlier=())))
            found[call.key] = call
        return dict(sorted(found.items(), key=lambda item: item[1].submitted or item[1].started))

    def sizes(self) -> dict[str, int]:
        """Return the bytes that the calls of each run take."""
        rows = self._read("SELECT run, sum(length(content)) FROM calls GROUP BY run")
        return dict(rows)

    def delete(self, runs: Iterable[str]) -> None:
        """Remove runs with these ids, and their calls."""
        with self._changing() as connection:
            self._delete(connection, runs)

    def prune(self, limits: Limits, own: Collection[str] = (), now: float | None = None) -> int:
        """Remove the oldest runs beyond some limits, and return their number.

        Parameters
        ----------
        limits : Limits
        own : collection of str
            Ids of runs that are not removed. Those of other drivers are not removed either within
            a day after something was added to them.
        now : float, optional
            Unix time in seconds; by default the present.
        """
        now = time.time() if now is None else now
        with self._changing() as connection:
            rows = connection.execute(
                "SELECT id, coalesce(at, begun), coalesce(size, 0) FROM runs "
                "LEFT JOIN written ON written.run = id LEFT JOIN "
                "(SELECT run, sum(length(content)) AS size FROM calls GROUP BY run) AS c "
                "ON c.run = id ORDER BY begun, id"
            ).fetchall()
            n, size, removed = len(rows), sum(row[2] for row in rows), []
            for run, at, own_size in rows:
                if run in own or now - at < _FRESH:
                    continue
                old = limits.age is not None and now - at > limits.age
                many = limits.runs is not None and n > limits.runs
                large = limits.size is not None and size > limits.size
                if old or many or large:
                    removed.append(run)
                    n, size = n - 1, size - own_size
            self._delete(connection, removed)
        return len(removed)

    @contextlib.contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        """Open the file, if there is one with runs, for one change that other drivers see whole."""
        self._check(why_unsafe(self.path))
        with self._open() as connection:
            self._prepare(connection)
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
            # Give back what is free to the file system, if the file was made for that.
            with contextlib.suppress(sqlite3.OperationalError):
                # With execute() it would give back a single page.
                connection.executescript("PRAGMA incremental_vacuum")

    def _delete(self, connection: sqlite3.Connection, runs: Iterable[str]) -> None:
        which = [(run,) for run in runs]
        for table, column in (("calls", "run"), ("written", "run"), ("runs", "id")):
            connection.executemany(f"DELETE FROM {table} WHERE {column} = ?", which)

    def _read(self, query: str, *values: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query; none if there is no file, or it is empty."""
        if not self.path.exists():
            return []
        with self._open() as connection:
            if self._version(connection) == 0:
                return []
            return connection.execute(query, values).fetchall()

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(self.path, timeout=_PATIENCE)
        try:
            yield connection
        finally:
            connection.close()

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Create the tables of a new file."""
        if self._version(connection) == _VERSION:
            with connection:
                connection.execute(_WRITTEN)
            return
        # Another driver may use it at this moment; then this stays as it is.
        with contextlib.suppress(sqlite3.OperationalError):
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.execute("PRAGMA journal_mode = WAL")
        with connection:
            # Another driver may create them at the same time.
            connection.execute("BEGIN IMMEDIATE")
            if self._version(connection) == 0:
                for statement in _TABLES.split(";\n"):
                    connection.execute(statement)
                connection.execute(_WRITTEN)
                connection.execute(f"PRAGMA user_version = {_VERSION}")

    def _version(self, connection: sqlite3.Connection) -> int:
        """Return the version of the tables, 0 if there are none; refuse other files."""
        # One statement, since another driver may create the tables between two.
        version, tables = connection.execute(
            "SELECT user_version, (SELECT count(*) FROM sqlite_master) FROM pragma_user_version"
        ).fetchone()
        if version not in (0, _VERSION) or (version == 0 and tables):
            raise FlameError(
                f"flame.reports.keep={plain(str(self.path))} was not written by this version of "
                "dask-flame; choose another file"
            )
        return int(version)


def _packed(call: CallReports) -> bytes:
    series = {name: _thinned(series) for name, series in call.series.items()}
    plain_values = dumped(replace(call, series=series, earlier=()))
    packed: bytes = msgpack.packb(plain_values)
    return zlib.compress(packed, 1)


def _unpacked(content: bytes) -> CallReports:
    values: Mapping[str, Any] = msgpack.unpackb(zlib.decompress(content), use_list=False)
    return loaded(values)


def _thinned(series: Series) -> Series:
    if len(series) <= _POINTS:
        return series
    kept = thin_steps(series.steps, series.values, _POINTS)
    return Series(
        [series.steps[i] for i in kept],
        [series.values[i] for i in kept],
        [series.times[i] for i in kept],
        series.made,
    )
