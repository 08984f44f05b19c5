"""``runs()``: the runs of a cluster, and those that are kept (driver)."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial
from typing import Any

from dask.typing import Key
from distributed import Client, get_client

from dask_flame.core.option_checks import shown
from dask_flame.errors import FlameError
from dask_flame.reports.driver.archive import Archive
from dask_flame.reports.driver.export import Exports
from dask_flame.reports.driver.keeper import kept_in
from dask_flame.reports.runs import Progress, Run, progress
from dask_flame.reports.series import CallReports
from dask_flame.reports.wire import NAME

#: Maximum number of seconds to wait for calls that were submitted before the question.
_ARRIVAL = 5.0
#: Seconds between two looks for them.
_POLL = 0.005


class RunReports(Exports):
    """A run with its calls; returned by :func:`dask_flame.runs`.

    Attributes
    ----------
    run : Run
        Its id, name, begin and number of calls.
    kept : bool
        Whether it was read from the file ``flame.reports.keep``.
    size : int or None
        Bytes that its calls take in this file; None if it was not read from it.
    """

    def __init__(
        self,
        run: Run,
        load: Callable[[], Mapping[Key, CallReports]],
        *,
        kept: bool,
        size: int | None = None,
    ) -> None:
        self.run = run
        self.kept = kept
        self.size = size
        self._load = load

    @property
    def id(self) -> str:
        return self.run.id

    @property
    def name(self) -> str:
        return self.run.name

    @property
    def begun(self) -> float:
        """Unix time in seconds of the first submission."""
        return self.run.begun

    @cached_property
    def _calls(self) -> dict[Key, CallReports]:
        return dict(self._load())

    @property
    def calls(self) -> dict[Key, CallReports]:
        """The calls, ordered by submission."""
        return dict(self._calls)

    def progress(self, now: float) -> Progress:
        """Return how far its calls have come; see :func:`dask_flame.reports.runs.progress`."""
        return progress(self._calls.values(), now, self.run.total)

    def _run_names(self) -> dict[str, str]:
        return {self.id: self.name}

    def __repr__(self) -> str:
        return f"<Run {self.name!r}: {max(self.run.total, len(self._calls))} calls>"


def kept_runs() -> list[RunReports]:
    """Return the runs in the file ``flame.reports.keep``, oldest first.

    Raises
    ------
    FlameError
        Runs are not kept, or the file cannot be read.
    """
    with _archive("read") as archive:
        found, sizes = archive.runs(), archive.sizes()
    return [
        RunReports(run, partial(archive.calls, run.id), kept=True, size=sizes.get(run.id, 0))
        for run in found
    ]


def delete_kept(run: str) -> None:
    """Remove the run with this id from the file ``flame.reports.keep``.

    Raises
    ------
    FlameError
        Runs are not kept, or the file cannot be written.
    """
    with _archive("written") as archive:
        archive.delete([run])


@contextlib.contextmanager
def _archive(done: str) -> Iterator[Archive]:
    path = kept_in()
    if path is None:
        raise FlameError(
            "runs are not kept: flame.reports.keep of Dask's configuration names no file; write "
            'dask.config.set({"flame.reports.keep": "~/.local/share/dask-flame/runs.db"})'
        )
    try:
        yield Archive(path)
    except Exception as error:
        if isinstance(error, FlameError):
            raise
        raise FlameError(
            f"flame.reports.keep={shown(str(path))} cannot be {done}: {error}"
        ) from error


def runs(client: Client | None = None) -> Any:
    """Return the runs of a cluster, and those that earlier clusters have kept.

    Runs are kept if ``flame.reports.keep`` of Dask's configuration names a file. Without a client,
    only kept runs are returned.

    Parameters
    ----------
    client : distributed.Client, optional
        By default the current client, if there is one.

    Returns
    -------
    list of RunReports
        Oldest first. Each has an ``id``, a ``name``, ``begun``, ``calls``, and the exports of
        ``cluster.reports``, such as ``to_pandas()``. They do not change any more; call `runs`
        again for their progress. With an asynchronous client: an awaitable of it.

    Raises
    ------
    FlameError
        The cluster has no :class:`Reports` plugin, or the file cannot be read.
    TypeError
        `client` is not a Client.

    Examples
    --------
    >>> with dask_flame.run("depth sweep"):
    ...     futures = client.map(train, rates)
    >>> dask_flame.runs()[-1].name
    'depth sweep'
    """
    if client is None:
        try:
            client = get_client()
        except ValueError:
            return _merged([], [])
    if not isinstance(client, Client):
        raise TypeError(
            f"client={shown(client)} is not a distributed.Client; write dask_flame.runs(client)"
        )
    return client.sync(_all, client)


async def _all(client: Client) -> list[RunReports]:
    # Calls are submitted by another connection than this question, and may arrive after it.
    futures = reversed(list(client.futures.items()))
    newest = next((key for key, future in futures if future.status == "pending"), None)
    told = await client.run_on_scheduler(_told, newest)
    if told is None:
        raise FlameError(
            "this cluster has no Reports plugin, so it has no runs; write "
            "client.register_plugin(dask_flame.Reports())"
        )
    return _merged(*told)


async def _told(
    newest: Key | None, *, dask_scheduler: Any
) -> tuple[list[Run], list[CallReports]] | None:
    """Return the runs and calls of the Reports plugin, with those of a key; on the scheduler."""
    plugin = dask_scheduler.plugins.get(NAME)
    deadline = time.monotonic() + _ARRIVAL
    # No event tells of new tasks.
    while newest is not None and newest not in dask_scheduler.tasks and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(_POLL)
    return None if plugin is None else (plugin.runs(), list(plugin.calls().values()))


def _merged(present: list[Run], calls: list[CallReports]) -> list[RunReports]:
    """Return the present runs and the kept ones, without kept copies of the present ones."""
    found = {run.id: run for run in ([] if kept_in() is None else kept_runs())}
    for run in present:
        own = {call.key: call for call in calls if call.run == run.id}
        found[run.id] = RunReports(run, partial(dict, own), kept=False)
    return sorted(found.values(), key=lambda run: run.begun)
