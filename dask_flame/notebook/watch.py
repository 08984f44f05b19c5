"""``watch()``: the curves of calls, drawn as they come (driver)."""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

from dask.typing import Key
from distributed import Client, Future
from distributed.utils import is_kernel

from dask_flame.charts.curves import Board, board, text
from dask_flame.core.option_checks import one_of, word, yes_or_no
from dask_flame.errors import PoolError
from dask_flame.reports.driver.futures import futures_of
from dask_flame.reports.driver.replica import Source, source_of

#: Seconds between two pictures, at the least, and between two looks at whether all have ended.
_PICTURE, _LOOK = 0.5, 0.05
#: How many times longer than it takes to draw a picture it is looked at.
_SPARE = 4
_ENDED = {"finished": "done", "error": "failed", "cancelled": "cancelled", "lost": "lost"}


def watch(
    futures: Future | Iterable[Future],
    *,
    metric: str | None = None,
    best: str | None = None,
    log: bool = False,
) -> Any:
    """Draw what calls report, as they report it, until all of them have ended.

    In a notebook the curves grow in the cell, and the last picture stays in the saved notebook; in
    a terminal they are drawn there, if rich is installed. Each call is a curve, the best so far
    stands out, and a ranking is beside them.

    Parameters
    ----------
    futures : Future or iterable of Future
        Calls of one client, on a FlameCluster or any other Dask cluster that has the
        :class:`dask_flame.Reports` plugin.
    metric : str, optional
        What is drawn: a name that the calls report. By default ``loss``, or else what was reported
        first.
    best : {"min", "max"}, optional
        Whether small or large values are good ones. By default that is judged by the name.
    log : bool, default False
        Draw it on a logarithmic axis.

    Returns
    -------
    None
        With an asynchronous client: an awaitable for it.

    Raises
    ------
    FlameError
        The futures are not of one client, or its cluster has no :class:`dask_flame.Reports`.
    TypeError
        They are not futures.
    PoolError
        An option is wrong; or all calls have ended, and reported by other names than `metric`.

    Warns
    -----
    UserWarning
        No call has reported by the name `metric`, and a name much like it was reported, or all have
        ended.

    Notes
    -----
    A call that fails is marked, and raises nothing here: ``client.gather(futures)`` does.
    Stopping the cell stops the drawing, and no call.

    Examples
    --------
    >>> futures = client.map(train, rates)
    >>> dask_flame.watch(futures, metric="loss")
    1 call: 1 done; best loss first
      1  train-...  0.9 at step 0  done
    """
    given, client = futures_of(futures, "watch", "dask_flame.watch(client.map(train, rates))")
    if metric is not None:
        word("metric", metric, "a name that the calls report")
    if best is not None:
        one_of("best", best, ("min", "max"))
    view = _View(given, {"metric": metric, "best_is": best, "log": yes_or_no("log", log)})
    if client is None:
        return view.last(None)
    return _awaited(view, client) if client.asynchronous else _waited(view, client)


def _waited(view: _View, client: Client) -> None:
    source = client.sync(source_of, client)
    if view.ended:
        client.sync(source.caught_up)
        view.check_metric(source)
    with view.screen:
        try:
            for pause in view.pictures(source):
                time.sleep(pause)
            # One that has closed has nothing more to tell.
            if client.status == "running":
                client.sync(source.caught_up)
        finally:
            view.last(source)


async def _awaited(view: _View, client: Client) -> None:
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
    """Some futures, and where they are drawn."""

    def __init__(self, futures: list[Future], options: dict[str, Any]) -> None:
        self._futures = {future.key: future for future in futures}
        self._options = options
        self._warned = False
        self.screen = _screen()

    @property
    def ended(self) -> bool:
        """Whether all calls have."""
        return all(future.done() for future in self._futures.values())

    def check_metric(self, source: Source) -> None:
        """Refuse a name that nothing was reported by, of calls that have ended."""
        drawn = self._board(source)
        if drawn.unreported:
            raise PoolError(_unreported(drawn))

    def pictures(self, source: Source) -> Iterator[float]:
        """Draw whenever something is new; yields how long to wait before the next look."""
        drawn: tuple[int, int] | None = None
        due = 0.0
        while not self.ended:
            now = time.monotonic()
            state = (source.store.version, sum(f.done() for f in self._futures.values()))
            if state != drawn and now >= due:
                drawn = state
                self._draw(source)
                took = time.monotonic() - now
                due = now + max(_PICTURE, _SPARE * took)
            yield _LOOK

    def last(self, source: Source | None) -> None:
        """Draw what stays."""
        self._draw(source, last=True)

    def _draw(self, source: Source | None, *, last: bool = False) -> None:
        drawn = self._board(source)
        self.screen.show(drawn, last=last)
        # It may come later. Where it is likely a slip, nobody should wait for it.
        if drawn.unreported and not self._warned and (last or _meant(drawn)):
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
        return board(list(self._futures), calls, ended, **self._options)


def _unreported(board: Board) -> str:
    yet = " yet; it is drawn once it is" if board.alive else ""
    instead = (_meant(board) or board.others)[0]
    return (
        f"metric={board.metric!r} was not reported by these calls{yet}; there is "
        f'{", ".join(board.others)}; write metric="{instead}"'
    )


def _meant(board: Board) -> list[str]:
    """What was reported and looks like the name that was asked for."""
    return difflib.get_close_matches(board.metric, board.others, n=1, cutoff=0.75)


def _screen() -> _Cell | _Terminal | _Paper:
    """Where boards are drawn, one in the place of the other."""
    if is_kernel():
        return _Cell()
    if sys.stdout.isatty():
        try:
            return _Terminal()
        except ImportError:
            pass
    return _Paper()


class _Cell(contextlib.nullcontext[None]):
    """The output of a notebook's cell: a picture that is replaced, and stays as it was last."""

    def __init__(self) -> None:
        super().__init__()
        self._handle: Any = None

    def show(self, board: Board, *, last: bool) -> None:
        from IPython.display import display

        from dask_flame.notebook.svg import html, svg

        picture = svg(board)
        bundle = {"text/html": html(board, picture), "text/plain": text(board)}
        if last:
            # For what takes a picture out of a saved notebook.
            bundle["image/svg+xml"] = picture
        if self._handle is None:
            self._handle = display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)


class _Terminal:
    """A terminal, by rich."""

    def __init__(self) -> None:
        from rich.live import Live

        self._live = Live(refresh_per_second=4, auto_refresh=False)

    def __enter__(self) -> None:
        self._live.start()

    def __exit__(self, *exc: object) -> None:
        self._live.stop()

    def show(self, board: Board, *, last: bool) -> None:
        from dask_flame.notebook.terminal import Drawn

        self._live.update(Drawn(board), refresh=True)


class _Paper(contextlib.nullcontext[None]):
    """A file, a pipe, or a terminal without rich: the ranking, at the end."""

    def show(self, board: Board, *, last: bool) -> None:
        if last:
            print(text(board))
