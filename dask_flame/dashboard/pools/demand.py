"""Chart of the demand and the runners of the pools over time (scheduler)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from bokeh.models import (
    ColumnDataSource,
    CustomJSHover,
    Div,
    HoverTool,
    Label,
    Range1d,
)
from bokeh.models import Span as Line
from bokeh.models.layouts import Column

from dask_flame.charts.colors import BAD, BOOTING, BUSY, DEMAND, IDLE, QUIET
from dask_flame.dashboard.pools.rows import total
from dask_flame.dashboard.static import function_call
from dask_flame.dashboard.time_range import TimeRange
from dask_flame.history.events import Event
from dask_flame.history.state import PoolSummary, Sample

_LINES = ("zero", "busy", "ready", "booting", "demand", "target")
_COLUMNS = ("x", *_LINES, "slots")
#: Maximum number of samples in the browser.
_MOST = 4_000
#: Markers of events by kind: a shape, and a color that is legible on any background.
MARKS = {
    "boot": ("triangle", "#009E73"),
    "retire": ("inverted_triangle", "#8C96A5"),
    "policy": ("square", "#CC79A7"),
    "lease": ("diamond", "#CC79A7"),
    "failed": ("x", BAD),
    "lost": ("x", BAD),
    "held": ("circle", BAD),
    "stopped": ("circle", BAD),
    "budget": ("diamond", "#CC79A7"),
}
#: Height of the plot as a multiple of the existing and planned runners; demand beyond is cut off.
_ROOM = 2.0


class Demand:
    """Busy, idle and booting runners as areas, demand and plan as lines, and events as markers.

    Parameters
    ----------
    span : TimeRange
        Range of time that the figure shows.

    Attributes
    ----------
    root : bokeh.models.layouts.Column
    inks : list of bokeh.models.Model
        Glyphs that take the theme's demand color in the browser.
    says : list of bokeh.models.Label
        Labels that take the theme's quiet color.
    """

    def __init__(self, span: TimeRange) -> None:
        self._span = span
        self._pools: Any = None
        self._last: Sample | None = None
        self._events: Any = None
        # Not empty, because bokeh 3.9 hangs when it draws an area without points.
        self.source = ColumnDataSource({name: [0, 0] for name in _COLUMNS}, name="pools-history")
        self.events = ColumnDataSource(
            {name: [] for name in ("x", "y", "marker", "color", "kind", "text")},
            name="pools-event-marks",
        )
        clock = CustomJSHover(code=function_call("times", "clock(value)"))
        self.figure = fig = span.figure(y_range=Range1d(0, 4), height=190, name="pools-demand-plot")
        fig.extra_y_ranges = {"marks": Range1d(0, 1)}
        fig.yaxis.ticker.num_minor_ticks = 0
        fig.yaxis.ticker.desired_num_ticks = 4
        fig.yaxis.ticker.min_interval = 1
        self.areas = []
        for low, high, color in (
            ("zero", "busy", BUSY),
            ("busy", "ready", IDLE),
            ("ready", "booting", BOOTING),
        ):
            area = fig.varea_step(
                "x",
                low,
                high,
                source=self.source,
                fill_color=color,
                fill_alpha=0.85,
                step_mode="after",
            )
            self.areas.append(area.glyph)
        lines = [
            fig.step(
                "x",
                name,
                source=self.source,
                line_color=DEMAND,
                line_width=width,
                line_dash=dash,
                mode="after",
            )
            for name, width, dash in (("demand", 1.8, "solid"), ("target", 1.6, [2, 3]))
        ]
        self._least, self._most = (
            Line(dimension="width", line_color=QUIET, line_dash=[6, 4], line_width=1)
            for _ in range(2)
        )
        self.says = [
            Label(
                x=4,
                y=0,
                x_units="screen",
                y_offset=2,
                text="",
                text_font_size="11px",
                text_color=QUIET,
                name=f"pools-{word}-label",
            )
            for word in ("min", "max")
        ]
        for thing in (self._least, self._most, *self.says):
            fig.add_layout(thing)
        marks = fig.scatter(
            "x",
            "y",
            source=self.events,
            marker="marker",
            size=9,
            fill_color="color",
            line_color="color",
            line_width=2,
            y_range_name="marks",
            level="overlay",
        )
        fig.add_tools(
            HoverTool(
                renderers=[marks],
                tooltips=[("", "@kind, @x{0}"), ("", "@text")],
                formatters={"@x": clock},
            ),
            HoverTool(
                renderers=lines[:1],
                mode="vline",
                line_policy="prev",
                tooltips=[
                    ("from", "@x{0}"),
                    ("demand", "@slots slots"),
                    ("plan", "@target"),
                    ("busy", "@busy"),
                    ("idle and busy", "@ready"),
                    ("with those booting", "@booting"),
                ],
                formatters={"@x": clock},
            ),
        )
        self.inks = [line.glyph for line in lines]
        self.marks = marks
        self._head = Div(name="pools-demand-head", sizing_mode="stretch_width", text=_HEAD)
        self.root = Column(children=[self._head, fig], sizing_mode="stretch_width", spacing=0)

    def draw(
        self,
        pools: Sequence[PoolSummary],
        events: Sequence[Event] | None,
        now: float,
    ) -> None:
        """Show the sums over these pools.

        Parameters
        ----------
        pools : sequence of PoolSummary
            Pools to show.
        events : sequence of Event or None
            Events to mark.
        now : float
            Unix time in seconds.
        """
        names = [pool.name for pool in pools]
        if names != self._pools:
            self._pools, self._last = names, None
        self._draw_history(pools, now)
        self._draw_events(events or ())
        self._scale(pools)

    def _draw_history(self, pools: Sequence[PoolSummary], now: float) -> None:
        last = self._last
        histories = [
            [_in_runners(s, pool.concurrency) for s in _since(pool.history, last)] for pool in pools
        ]
        slots = {s[0]: s[1] for s in total([_since(p.history, last) for p in pools])}
        new = [s for s in total(histories) if last is None or s[0] > last[0]]
        if not new:
            if last is not None:
                self.source.patch({"x": [(len(self.source.data["x"]) - 1, now * 1e3)]})
            return
        self._last = new[-1]
        rows = [
            (s[0] * 1e3, 0, s[4], s[3], s[3] + s[2], s[1], s[5], slots.get(s[0], 0)) for s in new
        ]
        # The last sample holds until now.
        rows.append((now * 1e3, *rows[-1][1:]))
        columns = {name: [row[i] for row in rows] for i, name in enumerate(_COLUMNS)}
        if last is None:
            self.source.data = columns
            return
        end = len(self.source.data["x"]) - 1
        self.source.patch({name: [(end, values[0])] for name, values in columns.items()})
        self.source.stream({name: values[1:] for name, values in columns.items()}, _MOST)

    def _draw_events(self, events: Sequence[Event]) -> None:
        shown = [event for event in events if event.kind in MARKS]
        seen = (len(shown), shown[-1].at if shown else 0.0, shown[0].at if shown else 0.0)
        if seen == self._events:
            return
        self._events = seen
        self.events.data = {
            "x": [event.at * 1e3 for event in shown],
            "y": [0.93] * len(shown),
            "marker": [MARKS[event.kind][0] for event in shown],
            "color": [MARKS[event.kind][1] for event in shown],
            "kind": [event.kind for event in shown],
            "text": [event.text.partition("\n")[0][:300] for event in shown],
        }

    def _scale(self, pools: Sequence[PoolSummary]) -> None:
        start, end = (1e3 * t for t in self._span.window)
        data = self.source.data
        first = max(0, bisect_right(data["x"], start) - 1)
        inside = range(first, bisect_right(data["x"], end))
        there = max((max(data["booting"][i], data["target"][i]) for i in inside), default=0)
        asked = max((data["demand"][i] for i in inside), default=0)
        least = sum(pool.min for pool in pools)
        bounds = [pool.max for pool in pools if pool.max is not None]
        most = sum(bounds) if len(bounds) == len(pools) else None
        top = max(4.0, 1.3 * max(there, min(asked, _ROOM * there), least))
        if most is not None and most <= 1.6 * top:
            top = max(top, 1.3 * most)
        top = round(top, 1)
        if self.figure.y_range.end != top:
            self.figure.y_range.end = top
        self._bound(self._least, self.says[0], "min", least, top, shown=least > 0)
        self._bound(self._most, self.says[1], "max", most or 0, top, shown=most is not None)

    @staticmethod
    def _bound(line: Line, says: Label, word: str, value: int, top: float, *, shown: bool) -> None:
        inside = value < 0.95 * top
        at = value if inside else 0.82 * top
        text = f"{word} {value:,}{'' if inside else ' ↑'}" if shown else ""
        for thing, name, new in (
            (line, "location", value),
            (line, "visible", shown and inside),
            (says, "y", at),
            (says, "text", text),
        ):
            if getattr(thing, name) != new:
                setattr(thing, name, new)


def _since(history: Sequence[Sample], last: Sample | None) -> Sequence[Sample]:
    """Return the samples after `last`, and the sample before the first of them."""
    if last is None:
        return history
    return history[max(0, bisect_right(history, last[0], key=lambda s: s[0]) - 1) :]


def _in_runners(sample: Sample, concurrency: int) -> Sample:
    at, demand, *others = sample
    return (at, -(-demand // concurrency), *others)  # type: ignore[return-value]


def _swatch(ground: str, word: str) -> str:
    return (
        f'<span style="white-space:nowrap"><i style="display:inline-block; width:16px; '
        f'{ground}; vertical-align:middle"></i> {word}</span>'
    )


_HEAD = (
    '<div style="display:flex; flex-wrap:wrap; gap:2px 16px; align-items:center; font-size:13px; '
    'color:var(--flame-ink)"><b style="font-size:15px">Demand and plan</b>'
    '<span style="color:var(--flame-quiet)">in runners</span>'
    + "".join(
        _swatch(f"height:12px; background:var(--flame-{kind})", kind)
        for kind in ("busy", "idle", "booting")
    )
    + _swatch("border-top:2px solid var(--flame-ink)", "demand")
    + _swatch("border-top:2px dotted var(--flame-ink)", "plan")
    + '<span style="color:#009E73">&#9650;</span><span style="margin-left:-11px">boot</span>'
    '<span style="color:#8C96A5">&#9660;</span><span style="margin-left:-11px">retire</span>'
    '<b style="color:var(--flame-bad)">&#10005;</b><span style="margin-left:-11px">failed or lost'
    '</span><span style="color:#CC79A7">&#9632;</span><span style="margin-left:-11px">policy, '
    "lease, budget</span></div>"
)
