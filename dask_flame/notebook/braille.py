"""Draw curves with braille characters, each with its color; pure (driver)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from dask_flame.charts.curves import FEW, Board, Curve, scaled, span
from dask_flame.reports.downsample import LEAST, thin

_BLANK = 0x2800
#: Bit of each dot in a character, by row and column.
_BITS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
#: Color of curves in the background.
GREY = "#808080"


@dataclass
class Dots:
    """Grid of characters, each two dots wide and four dots high.

    Attributes
    ----------
    width, height : int
        Size in characters.
    """

    width: int
    height: int
    _bits: dict[tuple[int, int], int] = field(default_factory=dict)
    _colors: dict[tuple[int, int], str] = field(default_factory=dict)

    def line(self, x0: int, y0: int, x1: int, y1: int, color: str) -> None:
        """Draw a line between two dots; row 0 is at the top.

        Parameters
        ----------
        x0, y0, x1, y1 : int
            Columns and rows of the two dots.
        color : str
            Color as hexadecimal RGB.
        """
        steps = max(abs(x1 - x0), abs(y1 - y0), 1)
        for n in range(steps + 1):
            x, y = round(x0 + (x1 - x0) * n / steps), round(y0 + (y1 - y0) * n / steps)
            cell = (y // 4, x // 2)
            if 0 <= cell[0] < self.height and 0 <= cell[1] < self.width:
                self._bits[cell] = self._bits.get(cell, 0) | _BITS[y % 4][x % 2]
                self._colors[cell] = color

    def rows(self) -> list[list[tuple[str, str]]]:
        """Return the rows, each as spans of characters with a color, which is empty for blanks."""
        rows = []
        for y in range(self.height):
            row: list[tuple[str, str]] = []
            for x in range(self.width):
                color = self._colors.get((y, x), "")
                character = chr(_BLANK + self._bits[y, x]) if (y, x) in self._bits else " "
                if row and row[-1][1] == color:
                    row[-1] = (row[-1][0] + character, color)
                else:
                    row.append((character, color))
            rows.append(row)
        return rows


def bright(curve: Curve) -> str:
    """Return a curve's color between those of the page, legible on dark and light backgrounds."""
    light, dark = bytes.fromhex(curve.color[1:]), bytes.fromhex(curve.dark[1:])
    return f"#{bytes((a + b) // 2 for a, b in zip(light, dark, strict=True)).hex()}"


def dots(board: Board, width: int, height: int) -> Dots:
    """Draw the curves of a board, the best one on top.

    Parameters
    ----------
    board : Board
        Curves to draw.
    width, height : int
        Size in characters.

    Returns
    -------
    Dots
    """
    field = Dots(width, height)
    limits = span(board)
    if limits is not None:
        drawn = [curve for curve in board.curves if curve.last is not None]
        for place, curve in reversed(list(enumerate(drawn))):
            color = bright(curve) if place < FEW else GREY
            _draw(field, board, curve, limits, color)
    return field


def _draw(
    field: Dots,
    board: Board,
    curve: Curve,
    limits: tuple[float, float, float, float],
    color: str,
) -> None:
    x0, x1, y0, y1 = limits
    kept = thin(curve.values, max(LEAST, 6 * field.width))
    values = scaled(curve.values[kept], log=board.log)
    columns = (curve.steps[kept] - x0) / ((x1 - x0) or 1.0) * (2 * field.width - 1)
    rows = (y1 - values) / ((y1 - y0) or 1.0) * (4 * field.height - 1)
    before: tuple[int, int] | None = None
    leads = curve is board.leader
    for column, row in zip(columns, rows, strict=True):
        if not np.isfinite(row):
            before = None
            continue
        here = (round(column), round(row))
        start = before or here
        for down in (0, 1) if leads else (0,):
            field.line(start[0], start[1] + down, here[0], here[1] + down, color)
        before = here
