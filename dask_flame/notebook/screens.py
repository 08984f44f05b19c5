"""Places where ``watch()`` draws: cells, consoles, terminals and files (driver)."""

from __future__ import annotations

import contextlib
import sys
from typing import Any, Protocol

from distributed.utils import is_kernel

from dask_flame.charts.curves import Board, text
from dask_flame.core.terminal_text import plain
from dask_flame.notebook.svg import html, svg

#: Width of the line that consoles show, in characters.
_WIDTH = 79


class Screen(contextlib.AbstractContextManager[None], Protocol):
    """Where boards are drawn, each in place of the one before."""

    def show(self, board: Board, *, last: bool) -> None: ...


def screen() -> Screen:
    """Return the screen of the current front end."""
    if is_kernel():
        return Cell() if _replaces_displays() else Console()
    marimo = sys.modules.get("marimo")
    if marimo is not None and marimo.running_in_notebook():
        return Marimo(marimo)
    if sys.stdout.isatty():
        try:
            return Terminal()
        except ImportError:
            pass
    return Plain()


def _replaces_displays() -> bool:
    """Return whether the front end of the current cell can replace an earlier display.

    Consoles print what is displayed and ignore updates. Their requests, which jupyter_client makes,
    allow input and have no metadata; notebooks add the cell's ID, and programs that run notebooks
    allow no input.
    """
    from IPython import get_ipython

    request = get_ipython().get_parent() or {}
    return bool(request.get("metadata")) or not request.get("content", {}).get("allow_stdin")


def _bundle(board: Board, *, last: bool) -> dict[str, str]:
    picture = svg(board)
    bundle = {"text/html": html(board, picture), "text/plain": text(board)}
    if last:
        # For tools that extract pictures from a saved notebook.
        bundle["image/svg+xml"] = picture
    return bundle


class Cell(contextlib.nullcontext[None]):
    """Output of a notebook cell: a picture that is replaced, and is saved with the notebook."""

    def __init__(self) -> None:
        super().__init__()
        self._handle: Any = None

    def show(self, board: Board, *, last: bool) -> None:
        from IPython.display import display

        bundle = _bundle(board, last=last)
        if self._handle is None:
            self._handle = display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)


class Console(contextlib.nullcontext[None]):
    """Console of a kernel, such as ``jupyter console``: a line that changes, then the last board.

    A console that can show pictures shows the last one as a picture.
    """

    def __init__(self) -> None:
        super().__init__()
        self._line = ""

    def show(self, board: Board, *, last: bool) -> None:
        from IPython.display import display

        line = "" if last else "; ".join(filter(None, (board.title, board.headline)))
        line = plain(line)[:_WIDTH]
        if line != self._line:
            print(f"\r{line:<{len(self._line)}}", end="" if line else "\r", flush=True)
            self._line = line
        if last:
            display(_bundle(board, last=True), raw=True)


class Marimo(contextlib.nullcontext[None]):
    """Output of a cell of marimo."""

    def __init__(self, marimo: Any) -> None:
        super().__init__()
        self._marimo = marimo

    def show(self, board: Board, *, last: bool) -> None:
        self._marimo.output.replace(self._marimo.Html(html(board, svg(board))))


class Terminal:
    """Terminal, drawn with rich."""

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


class Plain(contextlib.nullcontext[None]):
    """File, pipe, or terminal without rich: prints the ranking at the end."""

    def show(self, board: Board, *, last: bool) -> None:
        if last:
            print(text(board))
