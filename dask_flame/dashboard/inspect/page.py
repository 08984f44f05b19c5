"""Page ``/inspect``: stacks, memory and versions of the scheduler and its workers (scheduler)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from functools import partial
from typing import Any

from bokeh.core.properties import Bool, Int, String
from bokeh.document import Document
from bokeh.model import DataModel
from bokeh.models import Div
from bokeh.models.layouts import Column
from distributed.dashboard.components.scheduler import BOKEH_THEME

from dask_flame.attached.looking import looks
from dask_flame.attached.looking.tables import framed, html
from dask_flame.dashboard.frame import put_into_frame
from dask_flame.dashboard.inspect.overview import VIEWS, known_processes, overview
from dask_flame.dashboard.mount import Page
from dask_flame.dashboard.static import run_when_ready
from dask_flame.scheduler.looks import SCHEDULER, look_at

#: Milliseconds between two updates.
INTERVAL = 1000
#: What changes all the time. The rest is looked at once for each visit, as it takes longer.
_LIVE = ("stacks", "processes")
#: Scripts of the page, in order of their dependencies.
_SCRIPTS = ("theme", "frame", "connection", "inspect")

_STYLE = """
.inspect { padding: 4px 8px; max-width: 1200px }
.inspect .flame-look { max-width: none; overflow: visible;
 font-family: Helvetica, Arial, sans-serif }
.inspect a { color: inherit }
.inspect-processes { max-height: 32vh; overflow: auto }
.inspect-processes table { width: 100%; margin: 0 }
.inspect-processes td:nth-child(2) { width: 60% }
.inspect-processes td:first-child { white-space: nowrap }
#inspect-found { overflow-x: auto }
.inspect-processes thead th { position: sticky; top: 0; background: var(--flame-ground) }
.inspect-processes .here td { background: rgb(234 170 109 / 18%) }
.inspect-processes a[aria-current] { font-weight: 600 }
.inspect-views { display: flex; flex-wrap: wrap; gap: 4px; margin: 10px 0 }
.inspect-views a { padding: 3px 12px; text-decoration: none; border-radius: 12px;
 border: 1px solid var(--flame-rule) }
.inspect-views a[aria-current] { border-color: #D55E00; font-weight: 600 }
.inspect-lost { color: var(--flame-bad); margin: 0 } .inspect-lost:empty { display: none }
@media (max-width: 480px) {
 .inspect-processes td:nth-child(2) { width: auto } .inspect { padding: 2px }
 .inspect .flame-look table { font-size: 11px } .inspect :is(td, th) { padding-right: 6px } }
"""

logger = logging.getLogger("dask_flame")


class InspectFeed(DataModel):
    """State that the scheduler shares with the browser, for one open page.

    Attributes
    ----------
    overview, found : str
        HTML of the processes, and of what is shown of the chosen one.
    visible : bool
        Whether somebody can see the page; its tab may be in the background.
    lost : int
        Number of reconnections.
    """

    overview = String(default="")
    found = String(default="")
    visible = Bool(default=True)
    lost = Int(default=0)


def pages() -> dict[str, Page]:
    """Return the page by its path."""
    return {"/inspect": _page}


def _page(scheduler: Any, extra: dict[str, Any], doc: Document) -> None:
    context = doc.session_context
    asked = context.request.arguments if context is not None and context.request else {}
    board = InspectBoard(scheduler, _one(asked, "process"), _one(asked, "show"))
    doc.title = "Dask: Inspect"
    put_into_frame(doc, "inspect", extra, first=board.first(), style=_STYLE)
    doc.add_root(board.root)
    doc.add_periodic_callback(partial(board.update, doc), INTERVAL)
    doc.on_session_destroyed(lambda context: board.close())
    doc.theme = BOKEH_THEME
    run_when_ready(doc, *_SCRIPTS, feed=board.feed, scheduler=scheduler.id)


def _one(asked: dict[str, Any], name: str) -> str:
    return next((value.decode("utf-8", "replace") for value in asked.get(name, ())), "")


class InspectBoard:
    """One open page.

    Only the process that is chosen is asked, and only while the page is seen.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    process : str
        Name of the chosen process; by default the first that runs calls, or the scheduler.
    view : str
        One of :data:`VIEWS`; others show the stacks.

    Attributes
    ----------
    root : bokeh.models.layouts.LayoutDOM
    feed : InspectFeed
    """

    def __init__(self, scheduler: Any, process: str = "", view: str = "") -> None:
        self._scheduler = scheduler
        self._view = view if view in VIEWS else "stacks"
        busy = (known.name for known in known_processes(scheduler) if known.calls)
        self._process = process or next(busy, SCHEDULER)
        self._looking: asyncio.Task[str] | None = None
        self._done = self._broken = False
        self.feed = InspectFeed(name="flame-feed")
        self.feed.overview = self._overview()
        # Makes the feed part of the document. The page itself is plain HTML.
        self.root = Column(children=[Div(visible=False)], visible=False, tags=[self.feed])

    def first(self) -> str:
        """Return the page as HTML, before anything was asked."""
        what = VIEWS[self._view].lower()
        return (
            '<div class="inspect"><p class="inspect-lost" role="status"></p>'
            f'<div id="inspect-overview">{framed(self.feed.overview)}</div>'
            f'<div id="inspect-found" aria-busy="true" tabindex=0 role=region '
            f'aria-label="{what} of {html(self._process)}">'
            f"{framed(f'<p class=quiet>{html(self._process)}: {what} …</p>')}</div></div>"
        )

    def update(self, doc: Document) -> None:
        """Update the processes, and look at the chosen one unless that is under way."""
        if not self.feed.visible:
            return
        self.feed.overview = self._overview()
        if self._looking is not None or self._broken:
            return
        if self._done and self._view not in _LIVE:
            return
        self._looking = asyncio.ensure_future(self._look())
        self._looking.add_done_callback(partial(self._looked, doc))

    def close(self) -> None:
        """Stop looking."""
        if self._looking is not None:
            self._looking.cancel()

    async def _look(self) -> str:
        told = await look_at(self._scheduler, self._process, self._view)
        if "failed" in told:
            return f"<p class=bad>{html(told['failed'])}</p>"
        self._done = True
        found = looks.opened(self._view, told["found"])
        return "".join(found.parts())

    def _looked(self, doc: Document, looking: asyncio.Task[str]) -> None:
        self._looking = None
        if looking.cancelled():
            return
        if (error := looking.exception()) is not None:
            logger.warning("The page /inspect cannot show %s", self._process, exc_info=error)
            self._broken = True
            text = f"<p class=bad>{html(f'{self._process} cannot be shown: {error!r}')}</p>"
        else:
            text = looking.result()

        def show() -> None:
            self.feed.found = text

        with contextlib.suppress(Exception):  # the page was closed meanwhile
            doc.add_next_tick_callback(show)

    def _overview(self) -> str:
        known = known_processes(self._scheduler)
        left_out = len(self._scheduler.workers) + 1 - len(known)
        return overview(known, self._process, self._view, left_out=left_out)
