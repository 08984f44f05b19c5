"""``watch()``: the curves of calls, drawn as they come (driver)."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

from dask.typing import Key
from distributed import Client, Future
from distributed.utils import is_kernel

from dask_flame.errors import FlameError
from dask_flame.notebook.board import Board, board, text
from dask_flame.reports.copies import Source, source_of

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

    Notes
    -----
    A call that fails is marked, and raises nothing here: ``client.gather(futures)`` does.
    Stopping the cell stops the drawing, and no call.

    Examples
    --------
    >>> futures = client.map(train, rates)                     # doctest: +SKIP
    >>> dask_flame.watch(futures, metric="accuracy")           # doctest: +SKIP
    """
    given = [futures] if isinstance(futures, Future) else list(futures)
    for future in given:
        if not isinstance(future, Future):
            raise TypeError(
                f"watch() takes futures, not {type(future).__name__}; a line that works: "
                "dask_flame.watch(client.map(train, rates))"
            )
    if best not in (None, "min", "max"):
        raise ValueError(f'best={best!r} is not "min" or "max"; leave it out, or write best="min"')
    clients = {id(future.client): future.client for future in given}
    if len(clients) > 1:
        raise FlameError(
            f"these futures are of {len(clients)} clients; watch each client's futures apart"
        )
    view = _View(given, {"metric": metric, "best_is": best, "log": log})
    if not clients:
        return view.last(None)
    (client,) = clients.values()
    return _awaited(view, client) if client.asynchronous else _waited(view, client)


def _waited(view: _View, client: Client) -> None:
    source = client.sync(source_of, client)
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
        self.screen = _screen()

    def pictures(self, source: Source) -> Iterator[float]:
        """Draw whenever something is new; yields how long to wait before the next look."""
        drawn: tuple[int, int] | None = None
        due = 0.0
        while not all(future.done() for future in self._futures.values()):
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
        found = {key: source.store.get(key) for key in self._futures} if source else {}
        calls = {key: call for key, call in found.items() if call is not None}
        ended: dict[Key, str] = {
            key: _ENDED[future.status]
            for key, future in self._futures.items()
            if future.status in _ENDED
        }
        self.screen.show(board(list(self._futures), calls, ended, **self._options), last=last)


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
