"""List of decisions and events with their reasons, the newest first (scheduler)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from html import escape
from typing import Any

from bokeh.models import Div, RadioButtonGroup
from bokeh.models.layouts import Column

from dask_flame.dashboard.theme import FULL_WIDTH
from dask_flame.dashboard.time_range import buttons
from dask_flame.history.events import Event

#: Kinds of events by button; kinds that are not named here are only under "all".
GROUPS: dict[str, frozenset[str]] = {
    "all": frozenset(),
    "decisions": frozenset({"boot", "retire", "policy", "lease", "kept", "leaving", "paused"}),
    "runners": frozenset({"ready", "ended", "failed", "lost"}),
    "trouble": frozenset(
        {"failed", "held", "lost", "overran", "packages", "stopped", "waiting", "kept", "paused"}
        | {"budget"}
    ),
}
_BAD = GROUPS["trouble"] - {"kept"}
_SHOWN = 100
#: Maximum length of an event's text, in characters.
_LONGEST = 400


class EventList:
    """List of the last events, with buttons to filter by kind.

    Attributes
    ----------
    root : bokeh.models.layouts.Column
    offset : float
        Minutes by which the browser's clock is ahead of UTC.
    """

    def __init__(self, **sizing: Any) -> None:
        self.offset = _here()
        self._events: Sequence[Event] | None = ()
        self._drawn: Any = None
        self._groups = RadioButtonGroup(
            labels=list(GROUPS), active=0, name="pools-events-group", stylesheets=[buttons()]
        )
        self._groups.on_change("active", lambda attr, old, new: self.draw(self._events))
        self._head = Div(text=_HEAD, margin=(5, 5, 0, 5))
        self._list = Div(
            name="pools-events",
            sizing_mode="stretch_width",
            styles={"overflow-y": "auto", "max-height": "420px"},
            stylesheets=[FULL_WIDTH],
        )
        self.root = Column(children=[self._head, self._groups, self._list], **sizing)

    def draw(self, events: Sequence[Event] | None) -> None:
        """Show these events."""
        self._events = events
        group = list(GROUPS)[self._groups.active or 0]
        ends = (len(events), events[0].at, events[-1].at) if events else events is None
        seen = (group, self.offset, ends)
        if seen != self._drawn:
            self._drawn = seen
            self._groups.visible = events is not None
            self._list.text = _list(events, group, self.offset)


_HEAD = '<b style="font-size:15px; color:var(--flame-ink)">Events</b>'


def _here() -> float:
    offset = datetime.now(UTC).astimezone().utcoffset()
    return offset.total_seconds() / 60 if offset is not None else 0.0


def _list(events: Sequence[Event] | None, group: str, offset: float) -> str:
    if events is None:
        return _quiet("No pool decides over these workers.")
    kinds = GROUPS[group]
    chosen = [event for event in events if not kinds or event.kind in kinds][-_SHOWN:]
    if not chosen:
        return _quiet("Nothing was decided yet." if not events else "None of these lately.")
    several = len({event.pool for event in events} - {None}) > 1
    zone = timezone(timedelta(minutes=offset))
    return "".join(_event(event, zone, several=several) for event in reversed(chosen))


def _quiet(text: str) -> str:
    return f'<div style="color:var(--flame-quiet); font-size:13px">{text}</div>'


def _event(event: Event, zone: timezone, *, several: bool) -> str:
    clock = datetime.fromtimestamp(event.at, zone).strftime("%H:%M:%S")
    text = event.text
    shown = text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
    pool = event.pool
    of = f'<span style="color:var(--flame-quiet)">{escape(str(pool))}</span> ' if pool else ""
    ink = "bad" if event.kind in _BAD else "ink"
    return f"""
<div style="display:flex; gap:8px; padding:3px 0; border-top:1px solid var(--flame-rule);
  font-size:13px; color:var(--flame-ink)">
 <span style="color:var(--flame-quiet); white-space:nowrap">{clock}</span>
 <span style="min-width:0; overflow-wrap:anywhere; white-space:pre-line"><b
  style="color:var(--flame-{ink})">{escape(event.kind)}</b> {of if several else ""}{
        escape(shown)
    }</span>
</div>"""
