"""``watch()``: draw the curves of calls while they run (driver)."""

from __future__ import annotations

import asyncio
import difflib
import time
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

from dask.typing import Key
from distributed import Client, Future

from dask_flame.charts.curves import Board, board
from dask_flame.core.option_checks import one_of, word, yes_or_no
from dask_flame.errors import PoolError
from dask_flame.notebook.screens import Screen, screen
from dask_flame.reports.driver.futures import futures_of
from dask_flame.reports.driver.names_of import names_of
from dask_flame.reports.driver.places_of import places_of
from dask_flame.reports.driver.replica import Source, source_of

#: Minimum seconds between two pictures, and seconds between two checks for the end of all calls.
_PICTURE, _CHECK = 0.5, 0.05
#: Minimum interval between two pictures, as a multiple of the time to draw one.
_DRAWING_FACTOR = 4
_ENDED = {"finished": "done", "error": "failed", "cancelled": "cancelled", "lost": "lost"}


def watch(
    futures: Future | Iterable[Future],
    *,
    metric: str | None = None,
    best: str | None = None,
    log: bool = False,
) -> Any:
    """Draw the metrics that calls report, live, until all calls have ended.

    In a notebook the cell shows the curves while they grow, and the last picture is saved with the
    notebook. In a terminal the curves are drawn there if rich is installed. Each call is a curve;
    the best one so far is highlighted, and a ranking is shown next to the curves.

    Parameters
    ----------
    futures : Future or iterable of Future
        Futures of one client, on a FlameCluster or any other Dask cluster with the
        :class:`dask_flame.Reports` plugin.
    metric : str, optional
        Name of the reported value to draw. By default ``loss``, or otherwise the name that was
        reported first.
    best : {"min", "max"}, optional
        Whether small or large values are better. By default as declared with ``report.better``,
        or decided by the metric's name.
    log : bool, default False
        Whether to use a logarithmic axis.

    Returns
    -------
    None
        With an asynchronous client: an awaitable of None.

    Raises
    ------
    FlameError
        The futures belong to more than one client, or the cluster has no
        :class:`dask_flame.Reports` plugin.
    TypeError
        `futures` contains something other than futures.
    PoolError
        An option is not valid, or all calls have ended without reporting `metric`.

    Warns
    -----
    UserWarning
        No call has reported `metric`, and either a similar name was reported or all calls have
        ended.

    Notes
    -----
    A call that fails is marked in the picture and raises no error here; use
    ``client.gather(futures)`` for that. Interrupting the cell stops the drawing, not the calls.

    Examples
    --------
    >>> futures = client.map(train, rates)
    >>> dask_flame.watch(futures, metric="loss")
    1 call: 1 done; best loss first
      1  rate=...  0.9 at step 0  done
    """
    given, client = futures_of(futures, "watch", "dask_flame.watch(client.map(train, rates))")
    if metric is not None:
        word("metric", metric, "a name that the calls report")
    if best is not None:
        one_of("best", best, ("min", "max"))
    view = _View(given, {"metric": metric, "best_is": best, "log": yes_or_no("log", log)})
    if client is None:
        return view.last(None)
    return _watch_async(view, client) if client.asynchronous else _watch(view, client)


def _watch(view: _View, client: Client) -> None:
    source = client.sync(source_of, client)
    if view.ended:
        client.sync(source.caught_up)
        view.check_metric(source)
    with view.screen:
        try:
            for pause in view.pictures(source):
                time.sleep(pause)
            # A closed client receives no more reports.
            if client.status == "running":
                client.sync(source.caught_up)
        finally:
            view.last(source)


async def _watch_async(view: _View, client: Client) -> None:
    source = await source_of(client)
    if view.ended:
        await source.caught_up()
        view.check_metric(source)
    with view.screen:
        try:
            for pause in view.pictures(source):
                await asyncio.sleep(pause)
            if client.status == "running":
                await source.caught_up()
        finally:
            view.last(source)


class _View:
    """Some futures, and the screen on which they are drawn."""

    def __init__(self, futures: list[Future], options: dict[str, Any]) -> None:
        self._futures = {future.key: future for future in futures}
        self._options = options
        self._warned = False
        self.screen: Screen = screen()

    @property
    def ended(self) -> bool:
        """Whether all calls have ended."""
        return all(future.done() for future in self._futures.values())

    def check_metric(self, source: Source) -> None:
        """Raise an error if all calls have ended and none has reported the metric."""
        drawn = self._board(source)
        if drawn.unreported:
            raise PoolError(_unreported(drawn))

    def pictures(self, source: Source) -> Iterator[float]:
        """Draw after changes; yield the seconds to wait before the next check."""
        drawn: tuple[int, int] | None = None
        due = 0.0
        while not self.ended:
            now = time.monotonic()
            state = (source.store.version, sum(f.done() for f in self._futures.values()))
            if state != drawn and now >= due:
                drawn = state
                self._draw(source)
                took = time.monotonic() - now
                due = now + max(_PICTURE, _DRAWING_FACTOR * took)
            yield _CHECK

    def last(self, source: Source | None) -> None:
        """Draw the final picture."""
        self._draw(source, last=True)

    def _draw(self, source: Source | None, *, last: bool = False) -> None:
        drawn = self._board(source)
        self.screen.show(drawn, last=last)
        # The metric may be reported later. Warn early only if the name looks like a typo.
        if drawn.unreported and not self._warned and (last or _similar(drawn)):
            self._warned = True
            warnings.warn(_unreported(drawn), UserWarning, stacklevel=2)

    def _board(self, source: Source | None) -> Board:
        found = {key: source.store.get(key) for key in self._futures} if source else {}
        calls = {key: call for key, call in found.items() if call is not None}
        ended: dict[Key, str] = {
            key: _ENDED[future.status]
            for key, future in self._futures.items()
            if future.status in _ENDED
        }
        keys = list(self._futures)
        store = source.store if source else None
        about: dict[str, Any] = {"names": names_of(self._client, keys, store)}
        about["places"] = places_of(self._client, store)
        return board(keys, calls, ended, **about, **self._options)

    @property
    def _client(self) -> Client | None:
        return next((future.client for future in self._futures.values()), None)


def _unreported(board: Board) -> str:
    yet = " yet; it is drawn once it is" if board.alive else ""
    instead = (_similar(board) or board.others)[0]
    return (
        f"metric={board.metric!r} was not reported by these calls{yet}; there is "
        f'{", ".join(board.others)}; write metric="{instead}"'
    )


def _similar(board: Board) -> list[str]:
    """Return a reported name that is similar to the requested metric, as a list."""
    return difflib.get_close_matches(board.metric, board.others, n=1, cutoff=0.75)
