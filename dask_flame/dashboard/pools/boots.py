"""Chart of boots: a bar for each, divided into its phases (scheduler)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from html import escape
from typing import Any

from bokeh.models import (
    BasicTicker,
    CategoricalColorMapper,
    ColumnDataSource,
    CustomJSTickFormatter,
    Div,
    FixedTicker,
    HoverTool,
    Range1d,
)
from bokeh.models.layouts import Column
from bokeh.plotting import figure

from dask_flame.charts.colors import BAD, BOOTING, IDLE, QUIET
from dask_flame.dashboard.static import function_call
from dask_flame.dashboard.theme import FULL_WIDTH, plain
from dask_flame.history.boots import (
    ACCEPTED,
    FIRST_CALL,
    REGISTERED,
    Boot,
    in_order,
    medians,
    shown,
    summary,
)

#: Colors of the phases: until the request is accepted, the phases of the substrate, the start of
#: the runner, and the time until its first call, in which it is idle.
_COLORS = {ACCEPTED: "#332288", REGISTERED: "#009E73", FIRST_CALL: IDLE}
_SUBSTRATE = ("#0072B2", "#CC79A7", "#882255", "#D55E00")
#: Maximum number of bars with labels.
_NAMED = 8
#: Length of the axis as a multiple of the longest successful boot; longer bars are cut off.
_TIMES = 4
_AXIS, _LEAST, _MOST = 26, 20, 168
_BAR = 14
_COLUMNS = ("y", "left", "right", "color", "runner", "phase", "story")


class BootBars:
    """Bars of the last boots, aligned at their requests; the newest is at the top.

    Attributes
    ----------
    root : bokeh.models.layouts.Column
    """

    def __init__(self, **sizing: Any) -> None:
        self._drawn: Any = None
        self._source = ColumnDataSource({name: [] for name in _COLUMNS}, name="flame-boots")
        self._ends = ColumnDataSource({"x": [], "y": [], "color": []}, name="flame-boot-ends")
        used = list(dict.fromkeys((*_COLORS.values(), *_SUBSTRATE, BOOTING, BAD, QUIET)))
        self._colors = CategoricalColorMapper(factors=used, palette=used)
        self._head = Div(
            name="flame-boot-phases", sizing_mode="stretch_width", stylesheets=[FULL_WIDTH]
        )
        self._bars = self._figure()
        self.root = Column(children=[self._head, self._bars], spacing=0, **sizing)

    def draw(self, boots: Sequence[Boot] | None, now: float) -> None:
        """Show these boots; None hides the chart."""
        self.root.visible = boots is not None
        under_way = any(_is_under_way(boot) for boot in boots or ())
        # The bar of a boot in progress grows.
        seen = (boots, now if under_way else None)
        if boots is None or seen == self._drawn:
            return
        self._drawn = seen
        values = list(reversed(boots))
        text = _head(values)
        if self._head.text != text:
            self._head.text = text
        self._bars.visible = bool(values)
        if values:
            self._draw(values, now)

    def for_browser(self) -> list[CategoricalColorMapper]:
        """Return the color mappers that the browser changes with the theme."""
        return [self._colors]

    def _draw(self, boots: Sequence[Boot], now: float) -> None:
        colors = colors_of(boots)
        took = [_seconds(boot, now) for boot in boots]
        # Cut off long bars that say nothing about successful boots: the wait for a first call, and
        # boots that do not finish.
        good = max((boot.seconds or 0.0 for boot in boots), default=0.0)
        longest = 1.06 * max(min(max(took), _TIMES * good if good else max(took)), 0.01)
        rows = [row for y, b in enumerate(boots) for row in _rows(b, y, took[y], colors)]
        self._source.data = {name: [row[i] for row in rows] for i, name in enumerate(_COLUMNS)}
        ends = [(took[y], y, b) for y, b in enumerate(boots) if b.ended]
        self._ends.data = {
            "x": [min(x, 0.98 * longest) for x, _, _ in ends],
            "y": [y for _, y, _ in ends],
            "color": [BAD if b.failed else QUIET for _, _, b in ends],
        }
        n = len(boots)
        fig = self._bars
        fig.height = _AXIS + min(max(n * _BAR, _LEAST), _MOST)
        fig.x_range.end = longest
        fig.y_range.start, fig.y_range.end = n - 0.5, -0.5
        named = n <= _NAMED
        fig.yaxis.ticker = FixedTicker(ticks=list(range(n)) if named else [])
        fig.yaxis.major_label_overrides = (
            {y: _short(boot.name) for y, boot in enumerate(boots)} if named else {}
        )

    def _figure(self) -> figure:
        fig = figure(
            height=_AXIS + _LEAST,
            sizing_mode="stretch_width",
            toolbar_location=None,
            tools="",
            x_range=Range1d(0, 1),
            y_range=Range1d(0.5, -0.5),
            min_border_right=22,
            min_border_top=2,
            min_border_bottom=_AXIS - 4,
            name="flame-boot-bars",
            visible=False,
        )
        plain(fig)
        fig.xgrid.grid_line_color = fig.ygrid.grid_line_color
        fig.ygrid.grid_line_color = None
        fig.xaxis.ticker = BasicTicker(desired_num_ticks=4, num_minor_ticks=0)
        fig.xaxis.formatter = CustomJSTickFormatter(
            code=function_call("times", "secondsTick(tick)")
        )
        fig.yaxis.major_tick_line_color = None
        bars = fig.hbar(
            "y",
            left="left",
            right="right",
            height=0.84,
            source=self._source,
            fill_color={"field": "color", "transform": self._colors},
            fill_alpha=0.9,
            line_color=None,
        )
        fig.scatter(
            "x",
            "y",
            source=self._ends,
            marker="x",
            size=8,
            line_color={"field": "color", "transform": self._colors},
            line_width=2,
        )
        tips = [("runner", "@runner"), ("phase", "@phase"), ("boot", "@story")]
        fig.add_tools(HoverTool(renderers=[bars], tooltips=tips, point_policy="follow_mouse"))
        return fig


def colors_of(boots: Collection[Boot]) -> dict[str, str]:
    """Return the colors of the steps of these boots, in order."""
    steps = in_order(boots)
    own = [step for step in steps if step not in _COLORS]
    said = {step: _SUBSTRATE[i % len(_SUBSTRATE)] for i, step in enumerate(own)}
    return {step: _COLORS.get(step) or said[step] for step in steps}


def _is_under_way(boot: Boot) -> bool:
    return not boot.ended and not boot.seconds is not None


def _seconds(boot: Boot, now: float) -> float:
    """Return the duration of a boot, so far if it has not finished."""
    if boot.seconds is not None:
        return boot.seconds
    return boot.lasted if boot.ended else max(0.0, now - boot.at)


def _rows(boot: Boot, y: int, took: float, colors: Mapping[str, str]) -> list[tuple[Any, ...]]:
    story, rows, last = repr(boot).partition(": ")[2].partition("\n")[0], [], 0.0
    for step, at in boot.steps:
        phase = f"until {step}: {shown(at - last)} s"
        rows.append((y, last, at, colors[step], boot.name, phase, story))
        last = at
    if boot.seconds is None and took > last:
        phase = f"then, {'until its end' if boot.ended else 'so far'}: {shown(took - last)} s"
        rows.append((y, last, took, BOOTING, boot.name, phase, story))
    return rows


def _head(boots: Sequence[Boot]) -> str:
    failed = sum(boot.failed for boot in boots)
    words = [summary(boots).partition(",")[0], f"{failed} failed" if failed else ""]
    said = " · ".join(word for word in words if word) or ("" if boots else "none yet")
    typical = medians(boots)
    phases = "".join(
        f'<div style="white-space:nowrap"><span style="display:inline-block; width:10px; '
        f'height:10px; background:{color}; vertical-align:middle"></span> {escape(step)} '
        f'<span style="color:var(--flame-quiet)">'
        f"{shown(typical[step]) if step in typical else ''}</span></div>"
        for step, color in colors_of(boots).items()
    )
    return f"""
<div style="font-size:13px; color:var(--flame-ink)">
 <div style="display:flex; justify-content:space-between; gap:8px">
  <b style="font-size:15px">Boots</b>
  <span style="color:var(--flame-quiet)"
   title="the phases' medians, in seconds, are below">{said}</span>
 </div>
 <div style="display:flex; flex-wrap:wrap; gap:2px 12px; margin-top:2px">{phases}</div>
</div>"""


def _short(name: str) -> str:
    return name if len(name) <= 14 else f"…{name[-13:]}"
