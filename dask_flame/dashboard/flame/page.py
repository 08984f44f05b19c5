"""Page ``/flame``: live curves of calls and their ranking (scheduler)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from time import monotonic
from typing import Any

from bokeh.core.properties import Any as AnyValue
from bokeh.core.properties import Int, Nullable, String
from bokeh.document import Document
from bokeh.model import DataModel
from bokeh.models import Div, InlineStyleSheet
from bokeh.models.layouts import Column, LayoutDOM, Row
from distributed.dashboard.components import add_periodic_callback
from distributed.dashboard.components.scheduler import BOKEH_THEME, env

from dask_flame.charts.colors import COLORS, DASHES, LIGHTER, Palette
from dask_flame.dashboard import theme
from dask_flame.dashboard.flame.feed import Feed
from dask_flame.dashboard.flame.figures import curves, grid
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
    "calls",
    "columns",
    "filter",
    "groups",
    "curves",
    "grid",
    "panel",
    "table",
    "flame",
)

_EMPTY = """
<div style="color:var(--flame-quiet); font-size:16px; padding:48px 24px">
 No reports yet: call <code>dask_flame.report(step=..., loss=...)</code> inside a task.
</div>"""
#: In a narrow window the ranking is below the curves.
_SIDE_BY_SIDE = """
@media (max-width: 900px) { :host { flex-direction: column !important } }
"""
_SIDE = """
:host { width: clamp(480px, 39vw, 720px) }
@media (max-width: 900px) { :host { width: calc(100% - 10px); height: 45% } }
"""


class FlameFeed(DataModel):
    """State that the scheduler shares with the browser, for one open page.

    Attributes
    ----------
    payload : dict
        The latest update: ``number``, ``calls`` (see :meth:`Feed.next`) and ``pools``.
    seen : int
        Number of the last update that the browser has processed. The next update is computed
        after it has processed the latest one.
    wanted : str or None
        Metric that the user has chosen.
    lost : int
        Number of reconnections; updates may have been lost at each.
    """

    payload = AnyValue(default={"number": 0})
    seen = Int(default=0)
    wanted = Nullable(String, default=None)
    lost = Int(default=0)


def pages(scheduler: Any, workers: WorkersAsPool) -> dict[str, Page]:
    """Return the pages by path; they share the runners' colors and the workers' history."""
    palette = Palette()
    return {
        "/flame": partial(_flame, palette, workers),
        "/individual-flame-curves": partial(_alone, palette, "Curves", {}),
        "/individual-flame-multiples": partial(_alone, palette, "Multiples", {"view": "grid"}),
    }


def _flame(
    palette: Palette, workers: WorkersAsPool, scheduler: Any, extra: dict[str, Any], doc: Document
) -> None:
    doc.title = "Dask: Flame"
    doc.template = env.get_template("simple.html")
    doc.template_variables.update(extra)
    _show(Board(scheduler, palette, workers), doc)


def _alone(
    palette: Palette,
    title: str,
    options: Mapping[str, str],
    scheduler: Any,
    extra: dict[str, Any],
    doc: Document,
) -> None:
    doc.title = f"Dask: Flame {title}"
    _show(Board(scheduler, palette, options=options), doc)


def _show(board: Board, doc: Document) -> None:
    board.update()
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
    ) -> None:
        self._scheduler = scheduler
        self._workers = workers
        self._feed = Feed(palette)
        self._shared = FlameFeed(name="flame-feed")
        # Update at once when the user chooses a metric.
        self._shared.on_change("wanted", lambda attr, old, new: self.update())
        self._version: tuple[Gatherer | None, int, str | None] | None = None
        self._lost = 0
        self._pools: list[dict[str, Any]] | None = None
        self._pools_at = float("-inf")
        fill = {"sizing_mode": "stretch_both", "min_height": 160}
        self._figures = {
            "linear": curves("flame", "linear", visible=False, **fill),
            "log": curves("flame", "log", visible=False, **fill),
            "grid": grid("flame", visible=False, **fill),
        }
        self._bar = Div(name="flame-bar", sizing_mode="stretch_width", stylesheets=[theme.EMPTY])
        self._empty = Div(text=_EMPTY, name="flame-empty", sizing_mode="stretch_both")
        self._side = Div(
            name="flame-ranking",
            sizing_mode="stretch_height",
            stylesheets=[theme.EMPTY, InlineStyleSheet(css=_SIDE)],
            visible=False,
        )
        self.root = self._layout()
        self.args: dict[str, Any] = {
            "feed": self._shared,
            "bar": self._bar,
            "side": self._side if workers is not None else None,
            "empty": self._empty,
            **self._figures,
            "pools": "pools",
            "look": {
                "colors": COLORS,
                "lighter": LIGHTER,
                # Dotted lines are reserved for earlier attempts.
                "dashes": [dash for dash in (*DASHES, "dashdot") if dash != "dotted"],
                "options": dict(options or {}),
            },
        }

    def update(self) -> None:
        """Send an update if the browser has processed the previous one."""
        shared = self._shared
        if shared.lost != self._lost:
            self._lost = shared.lost
            self._feed.forget()
            self._version = self._pools = None
        elif shared.seen < shared.payload["number"]:
            return
        reports = plugin_of(self._scheduler)
        news = {"calls": self._calls(reports), "pools": self._counts(reports)}
        news = {name: what for name, what in news.items() if what is not None}
        if news:
            # The number comes first, so that Bokeh's comparison with the previous value in the
            # browser finds a difference immediately.
            shared.payload = {"number": shared.payload["number"] + 1, **news}

    def _calls(self, reports: Gatherer | None) -> dict[str, Any] | None:
        version = reports, reports.store.version if reports else 0, self._shared.wanted
        if version == self._version:
            return None
        self._version = version
        return self._feed.next(reports.store.calls if reports else {}, self._shared.wanted)

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
        drawn = [part["figure"] for part in self._figures.values()]
        left = Column(children=[self._empty, *drawn], sizing_mode="stretch_both")
        below: LayoutDOM = left
        if self._workers is not None:
            below = Row(
                children=[left, self._side],
                sizing_mode="stretch_both",
                spacing=8,
                stylesheets=[InlineStyleSheet(css=_SIDE_BY_SIDE)],
            )
        return Column(
            children=[self._bar, below],
            sizing_mode="stretch_both",
            name="flame-page",
            stylesheets=[theme.sheet()],
            # Makes the feed part of the document; Bokeh synchronizes only models of the document.
            tags=[self._shared],
        )
