"""The pools: how many runners, what is asked of them, and what was decided (scheduler)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from typing import Any

from bokeh.models import ColumnDataSource, Div, FixedTicker, Range1d
from bokeh.models.layouts import Column
from bokeh.plotting import figure

from dask_flame.dashboard.boots import BootBars
from dask_flame.dashboard.look import BOOTING, BUSY, DEMAND, IDLE, INK, QUIET, RULE
from dask_flame.dashboard.pools import Sample, count, total
from dask_flame.dashboard.ranking import counted
from dask_flame.dashboard.theme import FULL_WIDTH

#: Seconds that the timeline can show, with the marks on its axis.
_WINDOWS = {
    60: {-60: "60 s", -45: "45 s", -30: "30 s", -15: "15 s", 0: "now"},
    120: {-120: "2 min", -90: "90 s", -60: "60 s", -30: "30 s", 0: "now"},
    300: {-300: "5 min", -240: "4", -180: "3", -120: "2", -60: "1 min", 0: "now"},
    600: {-600: "10 min", -480: "8", -360: "6", -240: "4", -120: "2 min", 0: "now"},
}
_EVENTS = 40
_LINES = ("booting", "ready", "busy", "demand")


class Runners:
    """The pools' state: counts, a timeline, the last boots and events.

    Attributes
    ----------
    root : bokeh.models.layouts.Column
    """

    def __init__(self, **sizing: Any) -> None:
        self._window = 0
        self._source = ColumnDataSource({"x": [], "zero": [], **{k: [] for k in _LINES}})
        self._counts = Div(
            name="flame-pools", sizing_mode="stretch_width", stylesheets=[FULL_WIDTH]
        )
        self._events = Div(
            name="flame-events",
            sizing_mode="stretch_both",
            styles={"overflow-y": "auto", "min-height": "0"},
            stylesheets=[FULL_WIDTH],
        )
        self._timeline = self._figure()
        self._boots = BootBars(sizing_mode="stretch_width")
        self.root = Column(
            children=[self._counts, self._timeline, self._boots.root, self._events],
            spacing=4,
            **sizing,
        )

    def draw(self, state: Mapping[str, Any]) -> None:
        """Show this state, in the form that ``Reports.pools`` describes."""
        _set(self._counts, "".join(_pool(pool) for pool in state["pools"]) or _NO_POOLS)
        self._boots.draw(state.get("boots"), state["now"])
        _set(self._events, _event_list(state["events"]))
        self._draw_history(total([p["history"] for p in state["pools"]]), state["now"])

    def _draw_history(self, samples: Sequence[Sample], now: float) -> None:
        age = now - samples[0][0] if samples else 0
        window = next((w for w in _WINDOWS if age <= w), max(_WINDOWS))
        if window != self._window:
            self._window = window
            self._timeline.x_range.start = -window
            self._timeline.xaxis.ticker = FixedTicker(ticks=list(_WINDOWS[window]))
            self._timeline.xaxis.major_label_overrides = _WINDOWS[window]
        # One sample before the window's edge holds until the first one in it; the last, until now.
        inside = [s for s in samples if s[0] > now - window]
        before = [s for s in samples if s[0] <= now - window][-1:]
        drawn: list[Any] = [(-float(window), *s[1:]) for s in before]
        drawn += [(s[0] - now, *s[1:]) for s in inside]
        drawn += [(0.0, *s[1:]) for s in drawn[-1:]]
        self._source.data = {
            "x": [s[0] for s in drawn],
            "zero": [0] * len(drawn),
            "busy": [s[4] for s in drawn],
            "ready": [s[3] for s in drawn],
            "booting": [s[3] + s[2] for s in drawn],
            "demand": [s[1] for s in drawn],
        }
        # Room above the highest line, and whole numbers on a short axis.
        highest = max((max(s[1], s[2] + s[3]) for s in drawn), default=0)
        self._timeline.y_range.end = max(4, highest * 1.15)

    def _figure(self) -> figure:
        fig = figure(
            height=150,
            sizing_mode="stretch_width",
            toolbar_location=None,
            tools="",
            x_range=Range1d(-60, 0),
            y_range=Range1d(0, 4),
            min_border_right=22,
            name="flame-timeline",
        )
        fig.outline_line_color = None
        fig.xgrid.grid_line_color = None
        fig.ygrid.grid_line_color = RULE
        fig.yaxis.ticker.num_minor_ticks = 0
        fig.yaxis.ticker.desired_num_ticks = 4
        fig.yaxis.ticker.min_interval = 1
        for axis in (*fig.xaxis, *fig.yaxis):
            axis.axis_line_color = axis.major_tick_line_color = QUIET
            axis.major_label_text_color = INK
            axis.minor_tick_line_color = None
        for low, high, colour in (
            ("zero", "busy", BUSY),
            ("busy", "ready", IDLE),
            ("ready", "booting", BOOTING),
        ):
            fig.varea_step(
                "x",
                low,
                high,
                source=self._source,
                fill_color=colour,
                fill_alpha=0.85,
                step_mode="after",
            )
        fig.step(
            "x", "demand", source=self._source, line_color=DEMAND, line_width=1.6, mode="after"
        )
        return fig


_NO_POOLS = f'<div style="color:{QUIET}">No pools.</div>'


def _set(div: Div, text: str) -> None:
    if div.text != text:
        div.text = text


def _pool(pool: Mapping[str, Any]) -> str:
    n = count(pool["runners"])
    # Without a bound, the bar is full when all runners there are are busy.
    room = max(pool["max"] or n.asked, n.asked, 1)
    bar = "".join(
        f'<div style="width:{100 * k / room:.2f}%; background:{colour}"></div>'
        for k, colour in ((n.busy, BUSY), (n.idle, IDLE), (n.booting, BOOTING))
    )
    runners = counted(n.asked, "runner")
    if pool["max"] is not None:
        runners = f"{n.asked} of {counted(pool['max'], 'runner')}"
    slots = f", {pool['concurrency']} calls each" if pool["concurrency"] > 1 else ""
    leaving = ((n.draining, "draining"), (n.ending, "ending"))
    ending = "".join(f" · {number} {word}" for number, word in leaving if number)
    waiting = f" ({pool['waiting']} waiting)" if pool["waiting"] else ""
    numbers = " ".join(
        f'<div style="white-space:nowrap"><span style="display:inline-block; width:10px; '
        f'height:{height}px; background:{colour}; vertical-align:middle"></span> '
        f"{words}</div>"
        for words, colour, height in (
            (f"{n.busy} busy", BUSY, 10),
            (f"{n.idle} idle", IDLE, 10),
            (f"{n.booting} booting", BOOTING, 10),
            (f"demand {pool['demand']}{waiting}", DEMAND, 2),
        )
    )
    return f"""
<div style="margin-bottom:8px; font-size:13px; color:{INK}">
 <div style="display:flex; justify-content:space-between; gap:8px">
  <b style="font-size:14px">{escape(str(pool["name"]))}</b>
  <span style="color:{QUIET}">{runners}{slots}{ending}</span>
 </div>
 <div style="display:flex; height:10px; background:#FFF; border:1px solid {RULE};
   border-radius:3px; overflow:hidden; margin:4px 0">{bar}</div>
 <div style="display:flex; flex-wrap:wrap; justify-content:space-between; gap:2px 10px">
  {numbers}
 </div>
</div>"""


def _event_list(events: Sequence[Mapping[str, Any]] | None) -> str:
    if events is None:
        rows = f'<div style="color:{QUIET}">No pool decides over these workers.</div>'
    elif not events:
        rows = f'<div style="color:{QUIET}">Nothing was decided yet.</div>'
    else:
        rows = "".join(map(_event, reversed(events[-_EVENTS:])))
    return f"""
<div style="font-size:13px; color:{INK}">
 <b style="font-size:14px">Events</b>
 {rows}
</div>"""


def _event(event: Mapping[str, Any]) -> str:
    clock = datetime.fromtimestamp(event["at"]).strftime("%H:%M:%S")
    return f"""
<div style="display:flex; gap:8px; padding:3px 0; border-top:1px solid {RULE}">
 <span style="color:{QUIET}; white-space:nowrap">{clock}</span>
 <span style="min-width:0; overflow-wrap:anywhere"><b>{escape(str(event["kind"]))}</b>
  {escape(str(event["text"]))}</span>
</div>"""
