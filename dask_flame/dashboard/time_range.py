"""Range of time that all plots of a page share (scheduler)."""

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

#: Length in seconds by button; 0 shows everything.
WINDOWS = {"1 min": 60.0, "10 min": 600.0, "1 h": 3600.0, "all": 0.0}
#: Bars without an end are drawn this many milliseconds into the future, and covered there.
FAR = 86_400_000.0

#: Style of buttons in the theme's colors.
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
    """Return a style sheet with which Bokeh's buttons and menus follow the theme."""
    return InlineStyleSheet(css=BUTTONS)


class TimeRange:
    """A range of time that follows the current time until the user zooms, and its buttons.

    Parameters
    ----------
    changed : callable
        Called when the user chooses another range.

    Attributes
    ----------
    range : bokeh.models.Range1d
        The range in milliseconds.
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
        self.root = Row(children=[self._windows, self._follow], styles={"flex-wrap": "wrap"})

    @property
    def window(self) -> tuple[float, float]:
        """Start and end in Unix seconds; as long as the chosen button, if it follows."""
        return self.range.start / 1e3, self.range.end / 1e3

    def move(self, now: float, first: float) -> None:
        """Set the current time, and the time of the first data."""
        self._now, self._first = now, first
        for cover in self._covers:
            cover.left = now * 1e3
        if self._follow.active:
            # No longer than there is data.
            most = list(WINDOWS.values())[self._windows.active or 0]
            seconds = min(most or math.inf, max(60.0, (now - first) * 1.02))
            self._moving = True
            self.range.update(start=(now - seconds) * 1e3, end=now * 1e3)
            self._moving = False

    def figure(self, *, tools: Collection[Any] = (), **options: Any) -> figure:
        """Return a figure that shows this range of time."""
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
        # Bars without an end extend into the future, so that nothing is sent while nothing changes.
        cover = BoxAnnotation(
            left=0, fill_color="#FAFAFA", fill_alpha=1, line_color=None, level="annotation"
        )
        fig.add_layout(cover)
        self._covers.append(cover)
        return fig

    @property
    def covers(self) -> list[BoxAnnotation]:
        """Boxes in the color of the background that cover the future."""
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
