"""The stretch of time that the plots of a page show together (scheduler)."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Any

from bokeh.models import (
    BoxAnnotation,
    BoxZoomTool,
    CustomJSTickFormatter,
    DatetimeTicker,
    InlineStyleSheet,
    RadioButtonGroup,
    Range1d,
    Toggle,
    WheelZoomTool,
)
from bokeh.models.layouts import Row
from bokeh.plotting import figure

from dask_flame.dashboard.static import function_call
from dask_flame.dashboard.theme import plain

#: Seconds by what the buttons say; 0: all there is.
WINDOWS = {"1 min": 60.0, "10 min": 600.0, "1 h": 3600.0, "all": 0.0}
#: Milliseconds: what has no end yet is drawn up to here beyond now, and covered.
FAR = 86_400_000.0

#: Buttons in the colours of the theme.
BUTTONS = """
.bk-btn { background: var(--flame-card); color: var(--flame-ink); border-color: var(--flame-rule);
 padding: 2px 9px; font-size: 12px; line-height: 18px; box-shadow: none }
.bk-btn.bk-active { background: var(--flame-rule); border-color: var(--flame-quiet);
 font-weight: 600; color: var(--flame-ink) }
.bk-input { background-color: var(--flame-card); color: var(--flame-ink);
 border-color: var(--flame-rule) }
.bk-btn:hover { border-color: var(--flame-quiet); background: var(--flame-bar) }
"""


def buttons() -> InlineStyleSheet:
    """Makes Bokeh's buttons and menus follow the theme."""
    return InlineStyleSheet(css=BUTTONS)


class TimeRange:
    """A range of time that follows now until somebody zooms in, and the buttons for it.

    Parameters
    ----------
    changed : callable
        Called when another stretch of time was chosen.

    Attributes
    ----------
    range : bokeh.models.Range1d
        In milliseconds.
    root : bokeh.models.layouts.Row
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._moving = False
        self._now = 0.0
        self._first = 0.0
        self._covers: list[BoxAnnotation] = []
        self.range = Range1d(0, 1)
        self._windows = RadioButtonGroup(
            labels=list(WINDOWS), active=1, name="pools-window", stylesheets=[buttons()]
        )
        self._follow = Toggle(
            label="following now",
            active=True,
            name="pools-follow",
            margin=(5, 5, 5, 8),
            stylesheets=[buttons()],
        )
        self._windows.on_change("active", self._choose)
        self._follow.on_change("active", self._pause)
        for end in ("start", "end"):
            self.range.on_change(end, self._zoomed)
        self.root = Row(children=[self._windows, self._follow])

    @property
    def window(self) -> tuple[float, float]:
        """From when to when, in Unix seconds; as wide as what the buttons say, if it follows."""
        return self.range.start / 1e3, self.range.end / 1e3

    def move(self, now: float, first: float) -> None:
        """It is now, and this is when the first thing happened that can be shown."""
        self._now, self._first = now, first
        for cover in self._covers:
            cover.left = now * 1e3
        if self._follow.active:
            # No more than there is to show.
            most = list(WINDOWS.values())[self._windows.active or 0]
            seconds = min(most or math.inf, max(60.0, (now - first) * 1.02))
            self._moving = True
            self.range.update(start=(now - seconds) * 1e3, end=now * 1e3)
            self._moving = False

    def figure(self, *, tools: Collection[Any] = (), **options: Any) -> figure:
        """A figure that shows this stretch of time."""
        fig = figure(
            sizing_mode="stretch_width",
            toolbar_location=None,
            tools="",
            x_range=self.range,
            min_border_left=118,
            min_border_right=24,
            min_border_top=4,
            **options,
        )
        plain(fig)
        fig.xaxis.ticker = DatetimeTicker(desired_num_ticks=8, num_minor_ticks=0)
        fig.xaxis.formatter = CustomJSTickFormatter(
            code=function_call("times", "clockTick(tick, ticks)")
        )
        zoom = BoxZoomTool(dimensions="width")
        wheel = WheelZoomTool(dimensions="width", modifiers={"ctrl": True})
        fig.add_tools(zoom, wheel, *tools)
        fig.toolbar.active_drag = zoom
        fig.toolbar.active_scroll = wheel
        # Bars without an end are long ones, so that nothing need be sent while nothing happens.
        cover = BoxAnnotation(
            left=0, fill_color="#FAFAFA", fill_alpha=1, line_color=None, level="annotation"
        )
        fig.add_layout(cover)
        self._covers.append(cover)
        return fig

    @property
    def covers(self) -> list[BoxAnnotation]:
        """What hides the time to come: of the colour of the ground."""
        return self._covers

    def _choose(self, attr: str, old: int, new: int) -> None:
        if self._follow.active:
            self.move(self._now, self._first)
            self._changed()
        else:
            self._follow.active = True

    def _pause(self, attr: str, old: bool, new: bool) -> None:
        self._follow.label = "following now" if new else "follow now"
        if new:
            self.move(self._now, self._first)
        self._changed()

    def _zoomed(self, attr: str, old: float, new: float) -> None:
        if not self._moving:
            if self._follow.active:
                self._follow.active = False
            else:
                self._changed()
