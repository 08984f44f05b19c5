"""The curves: one for each call, and the best on top (scheduler)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from bokeh.models import (
    ColumnDataSource,
    GlyphRenderer,
    HoverTool,
    LinearAxis,
    LogAxis,
    MultiLine,
    NumeralTickFormatter,
)
from bokeh.plotting import figure

from dask_flame.dashboard.look import INK, QUIET, RULE, Palette
from dask_flame.dashboard.ranking import Ranked
from dask_flame.reports import CallReports, Series
from dask_flame.reports.thinning import thin

#: Points of all curves together that are sent to the browser at each change, about.
_POINTS = 24_000
#: Curves that are drawn strongly; more would hide each other.
_FEW = 8
_MARKERS = {"running": "circle", "done": "square", "failed": "x", "cancelled": "x", "lost": "x"}


class Curves:
    """Two figures of the same curves, one with a logarithmic axis; one of them is visible.

    Attributes
    ----------
    linear, log : bokeh.plotting.figure
    """

    def __init__(self, palette: Palette, **sizing: Any) -> None:
        self._palette = palette
        self._lines = ColumnDataSource(self._rows((), {}), name="flame-curves")
        self._best = ColumnDataSource(self._rows((), {}), name="flame-best")
        self._ends = ColumnDataSource(
            {"x": [], "y": [], "colour": [], "marker": []}, name="flame-ends"
        )
        # Kept, as looking for them in a figure at each change would cost more than all the rest.
        self._drawn: list[tuple[LinearAxis | LogAxis, MultiLine]] = []
        self.linear = self._figure("linear", **sizing)
        self.log = self._figure("log", **sizing)
        self.log.visible = False

    def use_log(self, log: bool) -> None:
        """Show the figure with a logarithmic axis, or the other one."""
        self.log.visible, self.linear.visible = log, not log

    def draw(self, rows: Sequence[Ranked], metric: str, names: dict[Any, str]) -> None:
        """Draw the calls that have this metric; `rows` are ranked, best first."""
        limit = max(100, _POINTS // max(1, len(rows)))
        # The best is drawn last, on top.
        curves = [
            (row.call, *_points(row.call.series[metric], limit))
            for row in reversed(rows)
            if metric in row.call.series
        ]
        self._lines.data = self._rows(curves, names)
        first = curves[-1:] if len(curves) > 1 and rows[0].best is not None else []
        self._best.data = self._rows(first, names)
        ends = [(call, *_end(x, y)) for call, x, y in curves]
        self._ends.data = {
            "x": [x for _, x, _ in ends],
            "y": [y for _, _, y in ends],
            "colour": [self._palette.colour(call.runner) for call, _, _ in ends],
            "marker": [_MARKERS[call.state] for call, _, _ in ends],
        }
        alpha = 0.9 if len(curves) <= _FEW else 0.55
        for axis, glyph in self._drawn:
            axis.axis_label = metric
            glyph.line_alpha = alpha

    def _rows(
        self, curves: Sequence[tuple[CallReports, Any, Any]], names: dict[Any, str]
    ) -> dict[str, list[Any]]:
        calls = [call for call, _, _ in curves]
        return {
            "xs": [x for _, x, _ in curves],
            "ys": [y for _, _, y in curves],
            "key": [str(call.key) for call in calls],
            "call": [names[call.key] for call in calls],
            "runner": [call.runner for call in calls],
            "state": [call.state for call in calls],
            "attempt": [call.attempt for call in calls],
            "colour": [self._palette.colour(call.runner) for call in calls],
            "dash": [self._palette.dash(call.runner) for call in calls],
        }

    def _figure(self, y_axis_type: str, **sizing: Any) -> figure:
        fig = figure(
            y_axis_type=y_axis_type,
            x_axis_label="step",
            tools="xpan,xwheel_zoom,box_zoom,reset,save",
            active_drag="box_zoom",
            toolbar_location="right",
            name=f"flame-{y_axis_type}",
            **sizing,
        )
        fig.toolbar.autohide = True
        fig.xaxis.formatter = NumeralTickFormatter(format="0,0.[0]")
        fig.xgrid.grid_line_color = None
        fig.ygrid.grid_line_color = RULE
        fig.outline_line_color = None
        for axis in (*fig.xaxis, *fig.yaxis):
            axis.axis_line_color = axis.major_tick_line_color = QUIET
            axis.minor_tick_line_color = None
            axis.axis_label_text_color = axis.major_label_text_color = INK
            axis.axis_label_text_font_style = "normal"
            axis.axis_label_text_font_size = "13px"
            axis.major_label_text_font_size = "12px"
        style = {"line_color": "colour", "line_dash": "dash", "line_join": "round"}
        lines = fig.multi_line("xs", "ys", source=self._lines, line_width=1.7, **style)
        self._drawn.append((fig.yaxis[0], lines.glyph))
        fig.multi_line(
            "xs", "ys", source=self._best, line_color="white", line_width=8, line_alpha=0.9
        )
        fig.multi_line("xs", "ys", source=self._best, line_width=4, **style)
        fig.scatter(
            "x",
            "y",
            source=self._ends,
            marker="marker",
            size=8,
            line_color="colour",
            line_width=1.6,
            fill_color="white",
        )
        # Wider than what is seen, so that a line is easy to hit.
        target = fig.multi_line("xs", "ys", source=self._lines, line_width=12, line_alpha=0)
        fig.add_tools(_hover(target))
        return fig


def _hover(renderer: GlyphRenderer) -> HoverTool:
    return HoverTool(
        renderers=[renderer],
        line_policy="nearest",
        limit=1,
        tooltips=[
            ("call", "@call"),
            ("runner", "@runner"),
            ("attempt", "@attempt"),
            ("step", "$snap_x{0,0}"),
            ("value", "$snap_y{%.5g}"),
        ],
        formatters={"$snap_y": "printf"},
    )


def _points(series: Series, limit: int) -> tuple[Any, Any]:
    """A series as the browser gets it: not too many points, and infinities as gaps.

    With an infinity the browser would find no range for its axis.
    """
    x, y = np.asarray(series.steps, dtype=float), np.asarray(series.values, dtype=float)
    if len(x) > limit:
        kept = thin(series.values, limit)
        x, y = x[kept], y[kept]
    return x, np.where(np.isinf(y), np.nan, y)


def _end(x: Any, y: Any) -> tuple[float, float]:
    """The last point that can be drawn, or NaNs."""
    finite = np.flatnonzero(np.isfinite(y))
    return (float(x[finite[-1]]), float(y[finite[-1]])) if len(finite) else (np.nan, np.nan)
