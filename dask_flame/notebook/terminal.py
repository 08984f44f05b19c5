"""Draw curves and their ranking in a terminal with rich (driver)."""

from __future__ import annotations

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from dask_flame.charts.curves import FEW, Board, further, span
from dask_flame.charts.ranking import NOTHING, shown
from dask_flame.charts.ticks import tick
from dask_flame.core.terminal_text import plain
from dask_flame.notebook.braille import GREY, bright, dots

_HEIGHT = 14
_ROWS = 10
#: Minimum width at which states are written out; marks for them are always shown.
_WIDE = 60
_MARKS = {"running": "○", "done": "●", "failed": "✗", "cancelled": "✗", "lost": "✗"}


class Drawn:
    """Rich renderable of a board, as wide as the terminal."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        board = self._board
        yield Text.assemble((plain(board.metric) or "curves", "bold"), "  ", (board.title, "dim"))
        limits = span(board)
        if limits is None:
            yield Text("; ".join(filter(None, board.nothing)), "dim")
        else:
            room = max(10, min(options.max_height - _ROWS - 6, _HEIGHT))
            yield from _chart(board, limits, options.max_width, room)
        if board.curves:
            yield _table(board, wide=options.max_width >= _WIDE)


def _chart(
    board: Board, limits: tuple[float, float, float, float], width: int, height: int
) -> list[Text]:
    x0, x1, y0, y1 = limits
    low, high = (10**y0, 10**y1) if board.log else (y0, y1)
    labels = [f"{high:.4g}", *[""] * (height - 2), f"{low:.4g}"]
    margin = max(map(len, labels))
    rows = dots(board, max(10, width - margin - 3), height).rows()
    lines = []
    for label, row in zip(labels, rows, strict=True):
        line = Text(f"{label:>{margin}} │", "dim")
        for characters, color in row:
            line.append(characters, style=f"not dim {color}" if color else "")
        lines.append(line)
    first, last = tick(x0, [x1]), tick(x1, [x1])
    between = " " * max(1, width - margin - 3 - len(first) - len(last) - len(" step"))
    lines.append(Text(f"{'':>{margin}}  {first}{between}{last} step", "dim"))
    return lines


def _table(board: Board, *, wide: bool) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("", min_width=1)
    table.add_column("call", overflow="ellipsis", no_wrap=True)
    for head in (f"best {plain(board.metric)}", "at step", "last"):
        table.add_column(escape(head), justify="right", no_wrap=True)
    if wide:
        table.add_column("state")
    for place, curve in enumerate(board.curves[:_ROWS]):
        color = bright(curve) if place < FEW else GREY
        mark = Text(_MARKS.get(curve.call.state, "○"), color)
        bad = curve.call.state in ("failed", "cancelled", "lost")
        cells: list[RenderableType] = [
            mark,
            Text(curve.name),
            shown(curve.best),
            NOTHING if curve.at is None else f"{curve.at:,}",
            Text(shown(curve.latest), "red" if curve.diverged else ""),
        ]
        if wide:
            cells.append(Text(curve.call.outcome, "red" if bad else ""))
        table.add_row(*cells, style="bold" if curve is board.leader else "")
    if more := further(board.curves[_ROWS:]):
        table.add_row("", Text(more, "dim"))
    return table
