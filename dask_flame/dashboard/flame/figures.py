"""Figures of the page ``/flame``; their data is filled in by the browser (scheduler)."""

from __future__ import annotations

from typing import Any

from bokeh.core.properties import value
from bokeh.events import MouseLeave, MouseMove, Reset, Tap
from bokeh.models import (
    BasicTicker,
    ColumnDataSource,
    CustomJS,
    CustomJSTickFormatter,
    FixedTicker,
    MultiLine,
    NumeralTickFormatter,
    Patches,
    Quad,
    Range1d,
    Scatter,
    Text,
)
from bokeh.plotting import figure

from dask_flame.dashboard.static import function_call
from dask_flame.dashboard.theme import canvas, plain


def curves(name: str, x_range: Range1d, **sizing: Any) -> Any:
    """Return a figure for all curves of one metric.

    Parameters
    ----------
    name : str
        Name of the figure, and prefix of the names of its parts.
    x_range : bokeh.models.Range1d
        Range of the horizontal axis, which several figures share.
    **sizing
        Options of the figure.

    Returns
    -------
    bokeh.plotting.figure
        The browser finds its sources by name: ``bands`` (spreads of groups), ``lines``, ``veil``
        (covers these while one is highlighted), ``strong`` (highlighted curves), ``ends`` (markers
        at the ends of curves) and ``notes`` (label of the best value).

    Notes
    -----
    A second figure for a logarithmic axis would double the time that a page takes to open.
    Therefore the browser draws exponents, and takes the last two of the vertical axis' tags, a
    ticker and a formatter, in place of the first two.
    """
    fig = figure(
        x_axis_label="step",
        x_range=x_range,
        y_range=Range1d(0.1, 1),
        tools="xpan,xwheel_zoom,box_zoom,reset,save",
        active_drag="box_zoom",
        toolbar_location="right",
        name=name,
        **sizing,
    )
    fig.toolbar.autohide = True
    fig.xaxis.formatter = CustomJSTickFormatter(
        code=function_call("times", "stepTick(tick, axis.axis_label)"), args={"axis": fig.xaxis[0]}
    )
    fig.xaxis.ticker = BasicTicker(min_interval=1e-3, num_minor_ticks=0)
    numbers = NumeralTickFormatter(format="0,0.[000000]")
    exponents = CustomJSTickFormatter(code=function_call("times", "exponentTick(tick)"))
    fig.yaxis.formatter = numbers
    fig.yaxis.tags = [fig.yaxis[0].ticker, numbers, FixedTicker(), exponents]
    plain(fig)
    bands = _source("xs ys color alpha", f"{name}-bands")
    lines = _source("xs ys key runner state color dash alpha width", f"{name}-lines")
    veil = _source("left right top bottom ground", f"{name}-veil")
    strong = _source("key xs ys color dash ground", f"{name}-strong")
    ends = _source("x y color fill marker size", f"{name}-ends")
    notes = _source("x y text align ink ground", f"{name}-notes")
    own = {"line_color": "color", "line_dash": "dash", "line_join": "bevel"}
    fig.add_glyph(bands, Patches(fill_color="color", fill_alpha="alpha", line_color=None))
    fig.add_glyph(lines, MultiLine(line_width="width", line_alpha="alpha", **own))
    # The browser has a canvas of its own for what is in front. It draws that alone when the mouse
    # moves, which takes a small part of the time that all curves take.
    cover = Quad(fill_color="ground", fill_alpha=0.68, line_color=None)
    fig.add_glyph(veil, cover, level="overlay")
    halo = MultiLine(line_color="ground", line_width=6, line_alpha=0.85, line_join="bevel")
    fig.add_glyph(strong, halo, level="overlay")
    fig.add_glyph(strong, MultiLine(line_width=2.8, **own), level="overlay")
    mark = Scatter(
        marker="marker", size="size", line_color="color", line_width=1.8, fill_color="fill"
    )
    fig.add_glyph(ends, mark, level="overlay")
    ring = Scatter(size=13, line_color="ink", line_width=1.4, fill_color=None)
    fig.add_glyph(notes, ring, level="overlay")
    label = Text(
        text="text",
        y_offset=-10,
        text_align="align",
        text_baseline="bottom",
        text_font_size="12px",
        text_font_style="bold",
        text_color="ink",
        background_fill_color="ground",
        background_fill_alpha=0.75,
    )
    fig.add_glyph(notes, label, level="overlay")
    _forward_mouse_events(fig)
    return fig


def grid(name: str, **sizing: Any) -> Any:
    """Return a figure with a small chart for each call or runner; its axes are in pixels.

    Returns
    -------
    bokeh.plotting.figure
        The browser finds its sources by name: ``cells``, ``titles``, ``numbers``, ``lines`` and
        ``ends``, each after the name of the figure.
    """
    fig = figure(
        x_range=Range1d(0, 1),
        y_range=Range1d(1, 0),
        tools="",
        toolbar_location=None,
        min_border=0,
        name=name,
        **sizing,
    )
    fig.axis.visible = False
    fig.grid.visible = False
    fig.outline_line_color = None
    fig.stylesheets = [canvas()]
    cells = _source("left right top bottom rule card", f"{name}-cells")
    titles = _source("x y text color style", f"{name}-titles")
    numbers = _source("x y text color", f"{name}-numbers")
    lines = _source("xs ys key runner color alpha width", f"{name}-lines")
    ends = _source("x y color marker", f"{name}-ends")
    fig.add_glyph(cells, Quad(fill_color="card", line_color="rule"))
    curve = MultiLine(line_color="color", line_alpha="alpha", line_width="width", line_join="bevel")
    fig.add_glyph(lines, curve)
    mark = Scatter(marker="marker", size=value(6), line_color="color", fill_color="color")
    fig.add_glyph(ends, mark)
    words: dict[str, Any] = {"text_color": "color", "text_font_size": "11px"}
    words |= {"text_baseline": "alphabetic", "text_font": value("Helvetica, Arial, sans-serif")}
    fig.add_glyph(titles, Text(text_font_style="style", **words))
    fig.add_glyph(numbers, Text(text_align="right", **words))
    _forward_mouse_events(fig)
    return fig


def _source(columns: str, name: str) -> ColumnDataSource:
    return ColumnDataSource({column: [] for column in columns.split()}, name=name)


def _forward_mouse_events(fig: Any) -> None:
    forward = CustomJS(
        args={"origin": fig},
        code=function_call("times", "tellOfTheMouse(cb_obj, origin)"),
    )
    for event in (MouseMove, MouseLeave, Reset, Tap):
        fig.js_on_event(event, forward)
