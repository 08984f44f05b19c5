"""Page ``/pools``: live runners, demand, boots, machines and events (scheduler)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from bokeh.document import Document
from bokeh.models import Div, Select
from bokeh.models.layouts import Column, LayoutDOM, Row
from distributed.dashboard.components import add_periodic_callback
from distributed.dashboard.components.scheduler import BOKEH_THEME

from dask_flame.dashboard.frame import put_into_frame
from dask_flame.dashboard.mount import Page
from dask_flame.dashboard.pools.boots import BootBars
from dask_flame.dashboard.pools.cards import heads, nothing_yet
from dask_flame.dashboard.pools.demand import Demand
from dask_flame.dashboard.pools.event_list import EventList
from dask_flame.dashboard.pools.machines import Gauges, Machines
from dask_flame.dashboard.pools.rows import WorkersAsPool, state_of
from dask_flame.dashboard.pools.timeline import DARK, Timeline, legend
from dask_flame.dashboard.static import run_when_ready
from dask_flame.dashboard.theme import FULL_WIDTH, sheet
from dask_flame.dashboard.time_range import TimeRange, buttons
from dask_flame.history.state import PoolSummary
from dask_flame.history.timeline import RunnerLife

#: Milliseconds between two updates.
INTERVAL = 1000
_ALL = "all pools"
#: Maximum number of a runner's calls in a tooltip.
_NAMED = 3
#: Minimum width of boots and events; in a narrower window they are stacked.
_HALF = "430px"


def pages(scheduler: Any, workers: WorkersAsPool) -> dict[str, Page]:
    """Return the pages by path; they share the recorded metrics of workers."""
    gauges = Gauges(scheduler)
    parts = {
        "/pools": ("heads", "runners", "demand", "machines", "boots"),
        "/individual-flame-runners": ("runners",),
        "/individual-flame-pools": ("heads", "demand"),
    }
    return {path: partial(_page, path, shown, workers, gauges) for path, shown in parts.items()}


def _page(
    path: str,
    parts: Sequence[str],
    workers: WorkersAsPool,
    gauges: Gauges,
    scheduler: Any,
    extra: dict[str, Any],
    doc: Document,
) -> None:
    board = PoolsBoard(scheduler, workers, gauges, parts)
    name = path.strip("/").removeprefix("individual-").replace("-", " ").title()
    doc.title = f"Dask: {name}"
    if not path.startswith("/individual-"):
        put_into_frame(doc, path.strip("/"), extra)
    board.update()
    add_periodic_callback(doc, board, INTERVAL)
    doc.add_root(board.root)
    doc.theme = BOKEH_THEME
    run_when_ready(doc, "theme", "frame", "pools", **board.for_browser())


class PoolsBoard:
    """One open page of pools, with the choices of its user.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    workers : WorkersAsPool
        Summary of the workers on a cluster without pools.
    gauges : Gauges
        Recorded metrics of workers.
    parts : sequence of str
        Parts to show: ``heads``, ``runners``, ``demand``, ``machines`` and ``boots`` (with the
        events).

    Attributes
    ----------
    root : bokeh.models.layouts.LayoutDOM
    """

    def __init__(
        self, scheduler: Any, workers: WorkersAsPool, gauges: Gauges, parts: Sequence[str]
    ) -> None:
        self._scheduler = scheduler
        self._workers = workers
        self._gauges = gauges
        self._parts = parts
        self._heads = Div(name="pools-heads", sizing_mode="stretch_width", stylesheets=[FULL_WIDTH])
        self._legend = Div(
            name="pools-legend",
            sizing_mode="stretch_width",
            stylesheets=[FULL_WIDTH],
            margin=(8, 5, 0, 5),
        )
        self._pool = Select(
            options=[_ALL], value=_ALL, width=150, name="pools-pool", stylesheets=[buttons()]
        )
        self._pool.on_change("value", lambda attr, old, new: self.update())
        self._span = TimeRange(self.update)
        self._timeline = Timeline(self._span)
        self._demand = Demand(self._span)
        self._machines = Machines(self._span, gauges, self.update)
        self._boots = BootBars(sizing_mode="stretch_width", styles=_half("420px"))
        self._events = EventList(sizing_mode="stretch_width", styles=_half("520px"))
        self.root = self._layout()
        self.root.on_change("tags", self._set_offset)

    def update(self) -> None:
        """Update the page; send only what has changed."""
        state = state_of(self._scheduler, self._workers)
        now = state.now
        every = state.pools
        names = [pool.name for pool in every]
        self._offer(names)
        chosen = self._pool.value
        pools = [p for p in every if chosen in (_ALL, p.name)]
        order = {name: i for i, name in enumerate(names)}
        # Sort by pool, the newest runner at the top.
        known = list(state.lives or ())
        lives = [life for life in known if chosen in (_ALL, life.pool)]
        lives.sort(key=lambda life: (order.get(life.pool, 0), -life.number))
        self._gauges.look(now, [life.name for life in known])
        self._span.move(now, self._first(lives, pools, now))
        if "heads" in self._parts:
            _set(self._heads, heads(state))
        if "runners" in self._parts:
            empty = nothing_yet(every, ever=bool(lives))
            shown = self._timeline.draw(lives, now, self._calls(pools), empty)
            _set(self._legend, legend(shown))
        if "demand" in self._parts:
            events = state.events
            mine = [e for e in events or () if chosen == _ALL or e.pool in (None, chosen)]
            self._demand.draw(pools, mine, now)
        if "machines" in self._parts:
            self._machines.draw(pools, lives, now)
        if "boots" in self._parts:
            boots = state.boots
            if boots is not None:
                boots = [b for b in boots if chosen in (_ALL, b.pool)]
            self._boots.draw(boots, now)
            self._events.draw(None if state.events is None else mine)

    def for_browser(self) -> dict[str, Any]:
        """Return the arguments of the page's script."""
        return {
            "root": self.root,
            "covers": self._span.covers,
            "palettes": [self._timeline.rows.colors, self._machines.rows.colors],
            "dark": [self._timeline.rows.dark, self._machines.rows.dark],
            "inks": self._demand.inks,
            "labels": self._demand.says,
            "grounds": [self._demand.areas[-1]],
            "marks": [self._timeline.marks.glyph],
            "bars": self._boots.for_browser(),
            "colors": DARK,
        }

    def _set_offset(self, attr: str, old: Any, new: Any) -> None:
        """Take the browser's offset from UTC, in minutes."""
        if new and isinstance(new[0], int | float) and abs(new[0]) < 24 * 60:
            self._events.offset = float(new[0])
            self.update()

    def _offer(self, names: Sequence[str]) -> None:
        options = [_ALL, *names]
        if self._pool.options != options:
            self._pool.options = options
            if self._pool.value not in options:
                self._pool.value = _ALL
        self._pool.visible = len(names) > 1

    def _calls(self, pools: Sequence[PoolSummary]) -> dict[str, list[str]]:
        """Return the keys of running calls by busy runner."""
        calls = {}
        for name in (r.name for pool in pools for r in pool.runners if r.busy):
            ws = self._scheduler.workers.get(self._scheduler.aliases.get(name, ""))
            if ws is not None and (running := ws.processing):
                keys = [str(ts.key) for ts, _ in zip(running, range(_NAMED), strict=False)]
                more = len(running) - len(keys)
                calls[name] = [*keys, f"and {more} more"] if more else keys
        return calls

    @staticmethod
    def _first(lives: Sequence[RunnerLife], pools: Sequence[PoolSummary], now: float) -> float:
        times = [life.changes[0].at for life in lives]
        times += [pool.history[0][0] for pool in pools if pool.history]
        return min(times, default=now)

    def _layout(self) -> LayoutDOM:
        wrap = {"flex-wrap": "wrap"}
        controls = Row(children=[self._pool, self._span.root], margin=(4, 0, 0, 0), styles=wrap)
        below = Row(
            children=[self._boots.root, self._events.root],
            sizing_mode="stretch_width",
            styles={"flex-wrap": "wrap", "align-items": "flex-start"},
            spacing=20,
        )
        parts = {
            "heads": [self._heads],
            "runners": [self._legend, self._timeline.root],
            "demand": [self._demand.root],
            "machines": [self._machines.root],
            "boots": [below],
        }
        children: list[Any] = []
        for part in self._parts:
            children += parts[part]
            if part == "heads":
                children.append(controls)
        if "heads" not in self._parts:
            children.insert(0, controls)
        return Column(
            children=children,
            sizing_mode="stretch_width",
            spacing=4,
            stylesheets=[sheet()],
            name="pools-page",
        )


def _half(width: str) -> dict[str, str]:
    return {"flex": f"1 1 {width}", "min-width": f"min(100%, {_HALF})"}


def _set(div: Div, text: str) -> None:
    if div.text != text:
        div.text = text
