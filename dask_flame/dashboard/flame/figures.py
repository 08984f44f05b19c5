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
    NumeralTickFormatter,
    Range1d,
)
from bokeh.plotting import figure

from dask_flame.dashboard.static import function_call
from dask_flame.dashboard.theme import canvas, plain


def curves(name: str, kind: str, x_range: Range1d, **sizing: Any) -> dict[str, Any]:
    """Return a figure for all curves of one metric.

    Parameters
    ----------
    name : str
        Prefix of the models' names.
    kind : {"linear", "log"}
        Scale of the vertical axis.
    x_range : bokeh.models.Range1d
        Range of the horizontal axis, which several figures share.
    **sizing
        Options of the figure.

    Returns
    -------
    dict
        The ``figure``, and its sources: ``bands`` (spreads of groups), ``lines``, ``strong``
        (highlighted curves), ``ends`` (markers at the ends of curves) and ``notes`` (label of the
        best value).
    """
    fig = figure(
        y_axis_type=kind,
        x_axis_label="step",
        x_range=x_range,
        y_range=Range1d(0.1, 1),
        tools="xpan,xwheel_zoom,box_zoom,reset,save",
        active_drag="box_zoom",
        toolbar_location="right",
        name=f"{name}-{kind}",
        **sizing,
    )
    fig.toolbar.autohide = True
    fig.xaxis.formatter = CustomJSTickFormatter(
        code=function_call("times", "stepTick(tick, axis.axis_label)"), args={"axis": fig.xaxis[0]}
    )
    fig.xaxis.ticker = BasicTicker(min_interval=1e-3, num_minor_ticks=0)
    if kind == "linear":
        fig.yaxis.formatter = NumeralTickFormatter(format="0,0.[000000]")
    plain(fig)
    bands = _source("xs ys color alpha", f"{name}-{kind}-bands")
    lines = _source("xs ys key runner state color dash alpha width", f"{name}-{kind}-lines")
    strong = _source("xs ys color dash ground", f"{name}-{kind}-strong")
    ends = _source("x y color fill marker size", f"{name}-{kind}-ends")
    notes = _source("x y text align ink ground", f"{name}-{kind}-notes")
    own = {"line_color": "color", "line_dash": "dash", "line_join": "round"}
    fig.patches("xs", "ys", source=bands, fill_color="color", fill_alpha="alpha", line_color=None)
    fig.multi_line("xs", "ys", source=lines, line_width="width", line_alpha="alpha", **own)
    fig.multi_line("xs", "ys", source=strong, line_color="ground", line_width=7, line_alpha=0.85)
    fig.multi_line("xs", "ys", source=strong, line_width=3.2, **own)
    fig.scatter(
        "x",
        "y",
        source=ends,
        marker="marker",
        size="size",
        line_color="color",
        line_width=1.8,
        fill_color="fill",
    )
    fig.scatter("x", "y", source=notes, size=13, line_color="ink", line_width=1.4, fill_color=None)
    fig.text(
        "x",
        "y",
        text="text",
        source=notes,
        y_offset=-10,
        text_align="align",
        text_baseline="bottom",
        text_font_size="12px",
        text_font_style="bold",
        text_color="ink",
        background_fill_color="ground",
        background_fill_alpha=0.75,
    )
    _forward_mouse_events(fig)
    return {
        "figure": fig,
        "bands": bands,
        "lines": lines,
        "strong": strong,
        "ends": ends,
        "notes": notes,
    }


def grid(name: str, **sizing: Any) -> dict[str, Any]:
    """Return a figure with a small chart for each call or runner; its axes are in pixels.

    Returns
    -------
    dict
        The ``figure``, and its sources: ``cells``, ``titles``, ``numbers``, ``lines``, ``ends``.
    """
    fig = figure(
        x_range=Range1d(0, 1),
        y_range=Range1d(1, 0),
        tools="",
        toolbar_location=None,
        min_border=0,
        name=f"{name}-grid",
        **sizing,
    )
    fig.axis.visible = False
    fig.grid.visible = False
    fig.outline_line_color = None
    fig.stylesheets = [canvas()]
    cells = _source("left right top bottom rule card", f"{name}-cells")
    titles = _source("x y text color style", f"{name}-titles")
    numbers = _source("x y text color", f"{name}-numbers")
    lines = _source("xs ys key runner color alpha width", f"{name}-grid-lines")
    ends = _source("x y color marker", f"{name}-grid-ends")
    fig.quad(
        left="left",
        right="right",
        top="top",
        bottom="bottom",
        source=cells,
        fill_color="card",
        line_color="rule",
    )
    fig.multi_line(
        "xs",
        "ys",
        source=lines,
        line_color="color",
        line_alpha="alpha",
        line_width="width",
        line_join="round",
    )
    fig.scatter(
        "x", "y", source=ends, marker="marker", size=6, line_color="color", fill_color="color"
    )
    words: dict[str, Any] = {"text": "text", "text_color": "color", "text_font_size": "11px"}
    words |= {"text_baseline": "alphabetic", "text_font": value("Helvetica, Arial, sans-serif")}
    fig.text("x", "y", source=titles, text_font_style="style", **words)
    fig.text("x", "y", source=numbers, text_align="right", **words)
    _forward_mouse_events(fig)
    return {
        "figure": fig,
        "cells": cells,
        "titles": titles,
        "numbers": numbers,
        "lines": lines,
        "ends": ends,
    }


def _source(columns: str, name: str) -> ColumnDataSource:
    return ColumnDataSource({column: [] for column in columns.split()}, name=name)


def _forward_mouse_events(fig: Any) -> None:
    forward = CustomJS(
        args={"origin": fig},
        code=function_call("times", "tellOfTheMouse(cb_obj, origin)"),
    )
    for event in (MouseMove, MouseLeave, Reset, Tap):
        fig.js_on_event(event, forward)
