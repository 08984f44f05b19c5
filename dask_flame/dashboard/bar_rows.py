"""Rows of bars over time, with incremental updates (scheduler)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from bokeh.models import (
    CategoricalColorMapper,
    ColumnDataSource,
    CustomJSHover,
    FixedTicker,
    HoverTool,
    Range1d,
)

from dask_flame.dashboard.static import function_call
from dask_flame.dashboard.time_range import FAR, TimeRange

#: Minimum height of a row, and maximum height of all rows at that minimum, in pixels.
_LEAST_ROW, _MOST_THIN = 1.1, 640
_AXIS = 26
#: Number of bars to add before all bars are sent again.
_SPARE = 1_500
_LONGEST_NAME = 17


class Bar(NamedTuple):
    """A bar: its start, its color, its height (of 1), and the texts of its tooltip."""

    left: float
    color: str
    tall: float
    what: str
    note: str


@dataclass(frozen=True, slots=True)
class BarState:
    """A row of bars; each bar ends where the next begins.

    Attributes
    ----------
    key : hashable
        Identifies the row between updates.
    name : str
        Label of the row.
    bars : sequence of Bar
        Bars in order of time.
    end : float or None
        Unix time in seconds at which the last bar ends; None if it has not ended.
    stamp : int
        While it is unchanged, bars were only appended, or the last bar has changed.
    kind : str
        Shown beside the name, as far as there is space.
    """

    key: Hashable
    name: str
    bars: Sequence[Bar]
    end: float | None
    stamp: int = 0
    kind: str = ""


@dataclass(slots=True)
class _Drawn:
    y: int
    stamp: int
    number: int
    at: int  # position of the last bar in the source
    last: tuple[Bar, float]


_COLUMNS = ("y", "left", "right", "color", "tall", "what", "note", "row")


class BarRows:
    """Figure with rows of bars, the first row at the top.

    Parameters
    ----------
    span : TimeRange
        Range of time that the figure shows.
    name : str
        Name of the data source; the figure's name is ``{name}-bars``.
    colors : dict of str to str
        Color of bars on a light background, mapped to the color on a dark one.
    row : int, default 15
        Height of a row in pixels, if there is room.
    most : int, default 460
        Maximum height of all rows in pixels, unless the rows would be too thin.

    Attributes
    ----------
    figure : bokeh.plotting.figure
    colors : bokeh.models.CategoricalColorMapper
        Its palette is changed in the browser with the theme.
    dark : list of str
        Its palette on a dark background.
    """

    def __init__(
        self, span: TimeRange, *, name: str, colors: dict[str, str], row: int = 15, most: int = 460
    ) -> None:
        self._row = row
        self._most = most
        self._drawn: dict[Hashable, _Drawn] = {}
        self._limit = 0
        self._far = 0.0
        self.source = ColumnDataSource({name: [] for name in _COLUMNS}, name=name)
        self.colors = CategoricalColorMapper(
            factors=list(colors), palette=list(colors), name=f"{name}-colors"
        )
        self.dark = list(colors.values())
        self.figure = span.figure(y_range=Range1d(0.5, -0.5), height=80, name=f"{name}-bars")
        fig = self.figure
        fig.ygrid.grid_line_color = None
        fig.yaxis.major_tick_line_color = None
        fig.yaxis.axis_line_color = None
        fig.yaxis.major_label_text_font_size = "11px"
        bars = fig.hbar(
            "y",
            left="left",
            right="right",
            height="tall",
            source=self.source,
            fill_color={"field": "color", "transform": self.colors},
            line_color=None,
        )
        since = CustomJSHover(
            args={"source": self.source, "cover": span.covers[-1]},
            code=function_call("times", "since(source, cover, special_vars.index)"),
        )
        fig.add_tools(
            HoverTool(
                renderers=[bars],
                tooltips=[("runner", "@row"), ("", "@what"), ("since", "@left{0}"), ("", "@note")],
                formatters={"@left": since},
                point_policy="follow_mouse",
            )
        )

    def draw(self, rows: Sequence[BarState], now: float) -> None:
        """Show these rows; send only what has changed."""
        far = now * 1e3 + FAR
        same = list(self._drawn) == [row.key for row in rows] and all(
            self._drawn[row.key].stamp == row.stamp and self._drawn[row.key].number <= len(row.bars)
            for row in rows
        )
        # An unfinished bar ends at a fixed time in the future, and must be extended in time.
        if not same or len(self.source.data["y"]) > self._limit or now * 1e3 > self._far - FAR / 2:
            self._far = far
            self._draw_all(rows)
        else:
            self._draw_news(rows)

    def _draw_all(self, rows: Sequence[BarState]) -> None:
        columns: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
        self._drawn = {}
        for y, row in enumerate(rows):
            self._append(columns, row, y, 0, 0)
        n = len(rows)
        room = min(max(self._row * n, 24.0), self._most)
        room = min(max(room, _LEAST_ROW * n), _MOST_THIN)
        fig = self.figure
        height = round(room) + _AXIS
        if fig.height != height:
            fig.height = height
        fig.y_range.update(start=max(n, 1) - 0.5, end=-0.5)
        # Labels only where there is room for them.
        every = -(-n * 14 // round(room)) if n else 1
        fig.yaxis.ticker = FixedTicker(ticks=list(range(0, n, every)))
        fig.yaxis.major_label_overrides = {
            y: _label(row.name, row.kind) for y, row in enumerate(rows) if y % every == 0
        }
        self.source.data = columns
        self._limit = len(columns["y"]) + _SPARE

    def _draw_news(self, rows: Sequence[BarState]) -> None:
        columns: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
        patches: dict[str, list[tuple[int, Any]]] = {}
        there = len(self.source.data["y"])
        for row in rows:
            drawn = self._drawn[row.key]
            if not drawn.number:
                self._append(columns, row, drawn.y, 0, there)
                continue
            last = self._bar(row, drawn.number - 1)
            if last != drawn.last:
                new, old = self._values(*last, row), self._values(*drawn.last, row)
                for name, value in new.items():
                    if value != old[name]:
                        patches.setdefault(name, []).append((drawn.at, value))
                drawn.last = last
            if drawn.number < len(row.bars):
                self._append(columns, row, drawn.y, drawn.number, there)
        if patches:
            self.source.patch(patches)
        if columns["y"]:
            self.source.stream(columns)

    def _append(
        self, columns: dict[str, list[Any]], row: BarState, y: int, first: int, there: int
    ) -> None:
        for i in range(first, len(row.bars)):
            columns["y"].append(y)
            for name, value in self._values(*self._bar(row, i), row).items():
                columns[name].append(value)
        number = len(row.bars)
        last = self._bar(row, number - 1) if number else (_NOTHING, 0.0)
        at = there + len(columns["y"]) - 1
        self._drawn[row.key] = _Drawn(y, row.stamp, number, at, last)

    def _bar(self, row: BarState, i: int) -> tuple[Bar, float]:
        if i + 1 < len(row.bars):
            return row.bars[i], row.bars[i + 1].left * 1e3
        return row.bars[i], self._far if row.end is None else row.end * 1e3

    @staticmethod
    def _values(bar: Bar, right: float, row: BarState) -> dict[str, Any]:
        return {
            "left": bar.left * 1e3,
            "right": right,
            "color": bar.color,
            "tall": bar.tall,
            "what": bar.what,
            "note": bar.note,
            "row": f"{row.name}, {row.kind}" if row.kind else row.name,
        }


_NOTHING = Bar(0.0, "", 0.0, "", "")


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"…{name[1 - _LONGEST_NAME :]}"


def _label(name: str, kind: str) -> str:
    """Return the label of a row: the name, and the kind as far as there is space."""
    space = _LONGEST_NAME - len(name) - 1
    if not kind or space < 2:
        return _short(name)
    return f"{name} {kind if len(kind) <= space else f'{kind[: space - 1]}…'}"
