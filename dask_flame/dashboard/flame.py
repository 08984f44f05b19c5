"""The page ``/flame``: curves, ranking and pools, live (scheduler)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from html import escape
from time import monotonic
from typing import Any

from bokeh.document import Document
from bokeh.models import Div, Select, Switch
from bokeh.models.layouts import Column, LayoutDOM, Row
from distributed.dashboard.components import add_periodic_callback
from distributed.dashboard.components.scheduler import BOKEH_THEME, env

from dask_flame.dashboard.curves import Curves
from dask_flame.dashboard.look import INK, QUIET, Palette
from dask_flame.dashboard.mount import Page
from dask_flame.dashboard.pools import WorkersAsPool
from dask_flame.dashboard.ranking import counted, labels, metrics, ranked, shown
from dask_flame.dashboard.runners import Runners
from dask_flame.dashboard.table import Table
from dask_flame.reports import Reports

#: Milliseconds between two looks at the store.
INTERVAL = 400
#: Seconds between two looks at the pools.
POOLS_INTERVAL = 1.0

_EMPTY = f"""
<div style="color:{QUIET}; font-size:16px; padding:48px 24px">
 No reports yet: call <code>dask_flame.report(step=..., loss=...)</code> inside a task.
</div>"""


def pages(scheduler: Any) -> dict[str, Page]:
    """The pages by their paths; they share the runners' colours and the workers' history."""
    palette, workers = Palette(), WorkersAsPool(scheduler)
    return {
        "/flame": partial(_flame, palette, workers),
        "/individual-flame-curves": partial(_curves, palette),
    }


def _flame(
    palette: Palette, workers: WorkersAsPool, scheduler: Any, extra: dict[str, Any], doc: Document
) -> None:
    board = Board(scheduler, palette, workers)
    doc.title = "Dask: Flame"
    doc.template = env.get_template("simple.html")
    doc.template_variables.update(extra)
    _show(board, doc)


def _curves(palette: Palette, scheduler: Any, extra: dict[str, Any], doc: Document) -> None:
    doc.title = "Dask: Flame Curves"
    _show(Board(scheduler, palette), doc)


def _show(board: Board, doc: Document) -> None:
    board.update()
    add_periodic_callback(doc, board, INTERVAL)
    doc.add_root(board.root)
    doc.theme = BOKEH_THEME


class Board:
    """What one open page shows, and what its user has chosen there.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    palette : Palette
        Colours of runners.
    workers : WorkersAsPool, optional
        What to show of the runners where no pool is known. Without it the page has curves only.

    Attributes
    ----------
    root : bokeh.models.layouts.LayoutDOM
    """

    def __init__(
        self, scheduler: Any, palette: Palette, workers: WorkersAsPool | None = None
    ) -> None:
        self._scheduler = scheduler
        self._palette = palette
        self._workers = workers
        self._seen: tuple[Reports | None, int] | None = None
        self._chosen: str | None = None
        self._drawn: str | None = None
        self._pools_at = float("-inf")

        self._metric = Select(options=[], width=190, name="flame-metric")
        self._metric.on_change("value", self._choose)
        self._log = Switch(active=False, name="flame-log-scale", margin=(11, 4, 5, 16))
        self._log.on_change("active", self._use_log)
        word = Div(text="log scale", margin=(9, 16, 5, 4), styles={"font-size": "13px"})
        self._summary = Div(
            name="flame-summary",
            sizing_mode="stretch_width",
            margin=(8, 5, 5, 5),
            styles={
                "font-size": "14px",
                "color": INK,
                "overflow": "hidden",
                "white-space": "nowrap",
            },
        )
        self._bar = Row(
            children=[self._metric, self._log, word, self._summary], sizing_mode="stretch_width"
        )
        self._empty = Div(text=_EMPTY, name="flame-empty", sizing_mode="stretch_both")
        self._curves = Curves(palette, sizing_mode="stretch_both", min_height=160)
        self._table = Table(palette, sizing_mode="stretch_width", height=232)
        self._runners = Runners(width=360, sizing_mode="stretch_height")
        self.root = self._layout()
        self._blank(True)

    def update(self) -> None:
        """Bring the page up to date; cheap when nothing has changed."""
        reports = self._reports()
        seen = reports, reports.store.version if reports is not None else 0
        if seen != self._seen:
            self._seen = seen
            self._draw(reports)
        now = monotonic()
        if self._workers is not None and now - self._pools_at >= POOLS_INTERVAL:
            self._pools_at = now
            self._runners.draw(self._pools(reports))

    def _reports(self) -> Reports | None:
        plugins = self._scheduler.plugins.values()
        return next((p for p in plugins if isinstance(p, Reports)), None)

    def _pools(self, reports: Reports | None) -> Mapping[str, Any]:
        assert self._workers is not None
        pools = reports.pools if reports is not None else None
        return pools() if pools is not None else self._workers()

    def _choose(self, attr: str, old: str, new: str) -> None:
        # Called too when this object itself sets the value.
        if new != self._drawn:
            self._chosen = new
            self._draw(self._reports())

    def _use_log(self, attr: str, old: bool, new: bool) -> None:
        self._curves.use_log(new)

    def _draw(self, reports: Reports | None) -> None:
        calls = reports.store.calls if reports is not None else {}
        known = metrics(calls.values())
        self._blank(not known)
        if not known:
            return
        metric = self._chosen if self._chosen in known else known[0]
        self._drawn = metric
        if self._metric.options != known:
            self._metric.options = known
        if self._metric.value != metric:
            self._metric.value = metric
        self._palette.assign(list(dict.fromkeys(call.runner for call in calls.values())))
        names = dict(labels(list(calls)))
        rows = ranked(calls.values(), metric)
        self._curves.draw(rows, metric, names)
        self._table.draw(rows, metric, known, names)
        running = sum(call.state == "running" for call in calls.values())
        text = f"{counted(len(calls), 'call')}, {running} running"
        if rows[0].best is not None:
            text = (
                f"best <b>{shown(rows[0].best)}</b> at step {rows[0].at:,} by "
                f"<b>{escape(names[rows[0].call.key])}</b> "
                f'<span style="color:{QUIET}">· {text}</span>'
            )
        if self._summary.text != text:
            self._summary.text = text

    def _blank(self, blank: bool) -> None:
        if self._empty.visible != blank or self._bar.visible == blank:
            self._empty.visible = blank
            for part in (self._bar, self._table.root):
                part.visible = not blank
            log = bool(self._log.active)
            self._curves.linear.visible = not blank and not log
            self._curves.log.visible = not blank and log

    def _layout(self) -> LayoutDOM:
        curves = [self._bar, self._empty, self._curves.linear, self._curves.log]
        if self._workers is None:
            return Column(children=curves, sizing_mode="stretch_both")
        left = Column(children=[*curves, self._table.root], sizing_mode="stretch_both")
        return Row(
            children=[left, self._runners.root],
            sizing_mode="stretch_both",
            spacing=6,
            name="flame-page",
        )
