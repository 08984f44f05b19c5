"""Page ``/flame``: live curves of calls and their ranking (scheduler)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from time import monotonic, time
from typing import Any

from bokeh.core.properties import Any as AnyValue
from bokeh.core.properties import Bool, Int, String
from bokeh.document import Document
from bokeh.model import DataModel
from bokeh.models import Div, InlineStyleSheet, Range1d
from bokeh.models.layouts import Column, LayoutDOM, Row
from distributed.dashboard.components import add_periodic_callback
from distributed.dashboard.components.scheduler import BOKEH_THEME

from dask_flame.charts.colors import CALL_LINES, RUNNER_LINES, Palette
from dask_flame.dashboard import theme
from dask_flame.dashboard.flame.actions import details, find, may_stop
from dask_flame.dashboard.flame.feed import Feed, Wanted
from dask_flame.dashboard.flame.figures import curves, grid
from dask_flame.dashboard.flame.first import STYLE as FIRST_STYLE
from dask_flame.dashboard.flame.first import first_state
from dask_flame.dashboard.frame import put_into_frame
from dask_flame.dashboard.mount import Page
from dask_flame.dashboard.pools.rows import WorkersAsPool, count
from dask_flame.dashboard.static import run_when_ready
from dask_flame.reports.scheduler.lookup import Gatherer, plugin_of

#: Milliseconds between two checks of the store.
INTERVAL = 250
#: Seconds between two checks of the pools.
POOLS_INTERVAL = 1.0
#: Scripts of the page, in order of their dependencies.
_SCRIPTS = (
    "theme",
    "frame",
    "address",
    "connection",
    "calls",
    "columns",
    "filter",
    "groups",
    "scales",
    "colors",
    "curves",
    "charts",
    "grid",
    "panel",
    "cells",
    "tools",
    "widths",
    "table",
    "parallel",
    "scatter",
    "tip",
    "drawer",
    "flame",
)

_EMPTY = """
<div style="color:var(--flame-quiet); font-size:16px; padding:48px 24px">
 {}: call <code>dask_flame.report(step=..., loss=...)</code> inside a task.
</div>"""
#: Width of a window below which the table is below the charts, and the page scrolls.
_NARROW = "@media (max-width: 900px)"
#: Undoes Bokeh's fitting of a part into its parent.
_FREE = "height: auto !important; max-height: none !important; flex: none !important"
_PAGE = f"{_NARROW} {{ :host {{ {_FREE} }} }}"
_SIDE_BY_SIDE = f"{_NARROW} {{ :host {{ {_FREE}; flex-direction: column !important }} }}"
_LEFT = f"{_NARROW} {{ :host {{ {_FREE}; width: 100% !important }} }}"
#: A view that static/flame.js hides keeps its size, so that Bokeh has nothing to arrange when it is
#: shown again, but takes no room.
_VIEWS = f"""
:host {{ position: relative; overflow: clip }}
.flame-behind {{ visibility: hidden !important; position: absolute !important; inset: 0 0 auto 0;
 width: 100%; height: 100% }}
{_NARROW} {{ .flame-behind {{ height: auto }} }}
"""
#: Charts of several metrics side by side, or one below the other in a narrow window.
_CHARTS = f"""
:host {{ display: grid !important; gap: 8px; grid-auto-rows: minmax(200px, 1fr);
 grid-template-columns: repeat(auto-fit, minmax(min(100%, 340px), 1fr)) }}
{_NARROW} {{ :host {{ {_FREE}; grid-auto-rows: 320px }} }}
"""
_TALL = f"{_NARROW} {{ :host {{ {_FREE}; height: 75vh !important }} }}"
_SIDE = f"""
:host {{ width: clamp(420px, 42vw, 900px) }}
{_NARROW} {{ :host {{ {_FREE}; width: calc(100% - 10px); height: 75vh !important }} }}
"""
#: Sizes of figures, which the browser shows when they have something to show.
_FILL: dict[str, Any] = {"sizing_mode": "stretch_both", "min_height": 160, "visible": False}


class FlameFeed(DataModel):
    """State that the scheduler shares with the browser, for one open page.

    Attributes
    ----------
    payload : dict
        The latest update: ``number``, ``calls`` (see :meth:`Feed.next`) and ``pools``.
    seen : int
        Number of the last update that the browser has processed. The next update is computed
        after it has processed the latest one.
    wanted : dict
        Choices of the user that decide which data are sent; see :meth:`Wanted.read`.
    opened : str
        Key of the call that the user has opened; empty if none is. ``payload`` then has its
        details as ``opened``; see :func:`dask_flame.dashboard.flame.actions.details`.
    grid : bool
        Whether the user has asked for small charts.
    stop : str
        Key of the call that the user has asked to stop.
    lost : int
        Number of reconnections; updates may have been lost at each.
    """

    payload = AnyValue(default={"number": 0})
    seen = Int(default=0)
    wanted = AnyValue(default={})
    opened = String(default="")
    grid = Bool(default=False)
    stop = String(default="")
    lost = Int(default=0)


def pages(scheduler: Any, workers: WorkersAsPool) -> dict[str, Page]:
    """Return the pages by path; they share the runners' colors and the workers' history."""
    palette = Palette()
    return {
        "/flame": partial(_flame, palette, workers),
        "/individual-flame-curves": partial(_alone, palette, "Curves", {}),
        "/individual-flame-multiples": partial(
            _alone, palette, "Multiples", {"view": "grid", "colors": "runner"}
        ),
    }


def _flame(
    palette: Palette, workers: WorkersAsPool, scheduler: Any, extra: dict[str, Any], doc: Document
) -> None:
    doc.title = "Dask: Flame"
    context = doc.session_context
    can_stop = context is not None and may_stop(scheduler, context.request)
    wanted, view = _asked(doc)
    board = Board(scheduler, palette, workers, wanted=wanted, view=view, can_stop=can_stop)
    board.update()
    asked = context.request.arguments if context is not None and context.request else {}
    put_into_frame(doc, "flame", extra, first=board.first(asked), style=FIRST_STYLE)
    _show(board, doc)


def _alone(
    palette: Palette,
    title: str,
    options: Mapping[str, str],
    scheduler: Any,
    extra: dict[str, Any],
    doc: Document,
) -> None:
    doc.title = f"Dask: Flame {title}"
    wanted, view = _asked(doc)
    view = view or options.get("view", "")
    _show(Board(scheduler, palette, options=options, wanted=wanted, view=view), doc)


def _asked(doc: Document) -> tuple[Wanted, str]:
    """Return choices in the address of a page, as static/address.js writes them: data and view."""
    context = doc.session_context
    asked = context.request.arguments if context is not None and context.request else {}

    def texts(name: str) -> list[str]:
        return [value.decode("utf-8", "replace") for value in asked.get(name, ())]

    wanted = Wanted.read({"metrics": texts("metric"), "runs": texts("run")})
    return wanted, next(iter(texts("view")), "")


def _show(board: Board, doc: Document) -> None:
    board.update()  # does nothing if an update waits for the browser
    board.arrange()
    add_periodic_callback(doc, board, INTERVAL)
    doc.add_root(board.root)
    doc.theme = BOKEH_THEME
    run_when_ready(doc, *_SCRIPTS, **board.args)


class Board:
    """One open page of curves.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    palette : Palette
        Colors of runners.
    workers : WorkersAsPool, optional
        Summary of the workers on a cluster without pools. If not given, the page shows only
        curves.
    options : mapping, optional
        Initial choices of the controls; see static/flame.js.
    wanted : Wanted, optional
        Choices that decide which data are sent first.
    view : str, optional
        The view that is shown first; by default the curves.
    can_stop : bool, default False
        Whether calls can be stopped from this page.

    Attributes
    ----------
    root : bokeh.models.layouts.LayoutDOM
    args : dict
        Arguments of the page's scripts.
    """

    def __init__(
        self,
        scheduler: Any,
        palette: Palette,
        workers: WorkersAsPool | None = None,
        *,
        options: Mapping[str, str] | None = None,
        wanted: Wanted | None = None,
        view: str = "",
        can_stop: bool = False,
    ) -> None:
        self._scheduler = scheduler
        self._workers = workers
        self._feed = Feed(palette)
        self._shared = FlameFeed(name="flame-feed", wanted=(wanted or Wanted()).sent())
        # Update at once when the user chooses metrics or runs.
        self._shared.on_change("wanted", lambda attr, old, new: self._choose())
        self._shared.on_change("grid", lambda attr, old, new: self._add_grid())
        self._shared.on_change("opened", lambda attr, old, new: self.update())
        if can_stop:
            self._shared.on_change("stop", lambda attr, old, new: self._stop(new))
        self._view = view
        self._version: tuple[Gatherer | None, int, Wanted] | None = None
        self._lost = 0
        self._pools: list[dict[str, Any]] | None = None
        self._pools_at = float("-inf")
        self._opened: dict[str, Any] | None = None
        self._across = Range1d(0, 1)
        self._charts = Row(sizing_mode="stretch_both", stylesheets=[InlineStyleSheet(css=_CHARTS)])
        self._grow(len(wanted.metrics) if wanted else 1)
        self._bar = Div(name="flame-bar", sizing_mode="stretch_width", stylesheets=[theme.EMPTY])
        self._empty = Div(
            text=_EMPTY.format("No reports yet"), name="flame-empty", sizing_mode="stretch_both"
        )
        self._bare = Div(
            text=_EMPTY.format("No call has reported a number"),
            name="flame-bare",
            sizing_mode="stretch_both",
            visible=False,
        )
        self._side = Div(
            name="flame-ranking",
            sizing_mode="stretch_height",
            stylesheets=[theme.EMPTY, InlineStyleSheet(css=_SIDE)],
            visible=False,
        )
        self._more = Div(
            name="flame-parameters",
            sizing_mode="stretch_both",
            stylesheets=[theme.EMPTY, InlineStyleSheet(css=_TALL)],
            visible=False,
        )
        self._curves: LayoutDOM
        self._left: Column
        self.root = self._layout()
        self._shared.grid = view == "grid"
        self.args: dict[str, Any] = {
            "feed": self._shared,
            "bar": self._bar,
            "side": self._side if workers is not None else None,
            "empty": self._empty,
            "bare": self._bare,
            "side_by_side": self._curves,
            "charts": self._left,
            "more": self._more if workers is not None else None,
            "pools": "pools",
            "look": {
                "lines": CALL_LINES,
                "runners": RUNNER_LINES,
                "options": dict(options or {}),
                "scheduler": scheduler.id,
                "can_stop": can_stop,
            },
        }

    def _grow(self, n: int) -> None:
        """Have figures for n metrics, but at least one; each takes time to make and to load."""
        for i in range(len(self._charts.children), max(1, n)):
            name = f"flame{i + 1}" if i else "flame"
            self._charts.children = [
                *self._charts.children,
                curves(name, self._across, **_FILL),
            ]

    def _add_grid(self) -> None:
        """Have the figure with small charts, which takes time to make and to load, too."""
        small = grid("flame-grid", **_FILL)
        small.stylesheets = [*small.stylesheets, InlineStyleSheet(css=_TALL)]
        self._left.children = [*self._left.children, small]

    def _choose(self) -> None:
        self._grow(len(Wanted.read(self._shared.wanted).metrics))
        self.update()

    def update(self) -> None:
        """Send an update if the browser has processed the previous one."""
        shared = self._shared
        if shared.lost != self._lost:
            self._lost = shared.lost
            self._feed.forget()
            self._version = self._pools = self._opened = None
        elif shared.seen < shared.payload["number"]:
            return
        reports = plugin_of(self._scheduler)
        news = {
            "calls": self._calls(reports),
            "pools": self._counts(reports),
            "opened": self._details(reports),
        }
        news = {name: what for name, what in news.items() if what is not None}
        if news:
            # The number comes first, so that Bokeh's comparison with the previous value in the
            # browser finds a difference immediately.
            shared.payload = {"number": shared.payload["number"] + 1, **news}

    def arrange(self) -> None:
        """Show what the browser is going to show, since it takes long to arrange it anew."""
        told = self._shared.payload.get("calls")
        if not told or not told["drawn"] or self._view not in ("", "curves"):
            return
        self._empty.visible = False
        self._side.visible = True
        for chart, metric in zip(self._charts.children, told["drawn"], strict=False):
            chart.visible = True
            chart.yaxis.axis_label = metric

    def first(self, asked: Collection[str]) -> str:
        """Return what the browser shows until its scripts have started; see first_state()."""
        return first_state(self._shared.payload.get("calls"), asked)

    def _calls(self, reports: Gatherer | None) -> dict[str, Any] | None:
        wanted = Wanted.read(self._shared.wanted)
        version = reports, reports.version if reports else 0, wanted
        if version == self._version:
            return None
        self._version = version
        calls = reports.calls() if reports else {}
        runs = reports.runs() if reports else []
        return self._feed.next(calls, runs, now=time(), wanted=wanted)

    def _details(self, reports: Gatherer | None) -> dict[str, Any] | None:
        """Return the details of the call that is open, if they have changed."""
        key = self._shared.opened
        found = details(reports, key) if reports is not None and key else None
        if found == self._opened:
            return None
        self._opened = found
        return found

    def _stop(self, key: str) -> None:
        reports = plugin_of(self._scheduler)
        found = find(reports, key) if reports is not None else None
        if reports is not None and found is not None:
            reports.stop(found)

    def _counts(self, reports: Gatherer | None) -> list[dict[str, Any]] | None:
        """Return the counts of each pool, if they have changed."""
        now = monotonic()
        if self._workers is None or now - self._pools_at < POOLS_INTERVAL:
            return None
        self._pools_at = now
        known = reports.pools if reports is not None else None
        state = known() if known is not None else self._workers()
        pools = []
        for pool in state.pools:
            n = count(pool.runners)
            there = {"busy": n.busy, "idle": n.idle, "booting": n.booting}
            pools.append({"name": pool.name, "waiting": pool.waiting, **there})
        if pools == self._pools:
            return None
        self._pools = pools
        return pools

    def _layout(self) -> LayoutDOM:
        # The charts are in a column, because their style would show them when they are not visible.
        self._curves = Column(
            children=[self._charts],
            sizing_mode="stretch_both",
            name="flame-charts",
            stylesheets=[InlineStyleSheet(css=_LEFT)],
        )
        self._left = Column(
            children=[self._empty, self._bare, self._curves, self._more],
            sizing_mode="stretch_both",
            stylesheets=[InlineStyleSheet(css=_LEFT), InlineStyleSheet(css=_VIEWS)],
        )
        below: LayoutDOM = self._left
        if self._workers is not None:
            below = Row(
                children=[self._left, self._side],
                sizing_mode="stretch_both",
                spacing=8,
                stylesheets=[InlineStyleSheet(css=_SIDE_BY_SIDE)],
            )
        return Column(
            children=[self._bar, below],
            sizing_mode="stretch_both",
            name="flame-page",
            stylesheets=[theme.sheet(), InlineStyleSheet(css=_PAGE)],
            # Makes the feed part of the document; Bokeh synchronizes only models of the document.
            tags=[self._shared],
        )
