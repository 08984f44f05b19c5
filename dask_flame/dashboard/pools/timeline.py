"""Timeline of runners: a row for each, with a bar for each of its states (scheduler)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any

from bokeh.models import ColumnDataSource, Div, HoverTool
from bokeh.models.layouts import Column

from dask_flame.charts.colors import BAD, BOOTING, BUSY, IDLE
from dask_flame.charts.ranking import counted
from dask_flame.core.text import label
from dask_flame.dashboard.bar_rows import Bar, BarRows, BarState
from dask_flame.dashboard.time_range import TimeRange
from dask_flame.history.boots import ACCEPTED, REGISTERED, shown
from dask_flame.history.timeline import RunnerLife

#: Colors of boot steps: acceptance of the request, steps of the substrate, start of the runner.
#: The chart of boots uses the same.
STEPS = {ACCEPTED: "#332288", REGISTERED: "#009E73"}
SUBSTRATE = ("#0072B2", "#CC79A7", "#882255", "#D55E00")
DRAINING, ENDING = "#A86E00", "#8C96A5"
#: Colors on a dark background.
DARK = {
    "#332288": "#8F83E8",
    "#882255": "#D0568F",
    "#0072B2": "#3A9BDC",
    BOOTING: "#5A6472",
    ENDING: "#4A5361",
    BAD: "#F97066",
}
_COLORS = {"busy": BUSY, "idle": IDLE, "draining": DRAINING, "ending": ENDING, "booting": BOOTING}
#: Heights, which distinguish the states without colors.
_TALL = {"busy": 0.86, "idle": 0.86, "draining": 0.6, "ending": 0.34, "booting": 0.34}

_LEGEND = (
    ("busy", "var(--flame-busy)", 12),
    ("idle", "var(--flame-idle)", 12),
    ("draining", DRAINING, 8),
    ("booting, by its steps", "linear-gradient(90deg,#0072B2 0 50%,#009E73 50% 100%)", 5),
    ("ending", ENDING, 5),
)


class Timeline:
    """Timeline of all runners.

    Parameters
    ----------
    span : TimeRange
        Range of time that the figure shows.

    Attributes
    ----------
    root : bokeh.models.layouts.Column
    rows : BarRows
    ends : bokeh.models.ColumnDataSource
        Runners that failed or were lost.
    """

    def __init__(self, span: TimeRange) -> None:
        self._span = span
        self._ends: Any = None
        self._rows: dict[int, tuple[Any, BarState]] = {}
        colors = dict.fromkeys((*_COLORS.values(), *STEPS.values(), *SUBSTRATE))
        self.rows = BarRows(span, name="pools-lives", colors={c: DARK.get(c, c) for c in colors})
        self.ends = ColumnDataSource(
            {"x": [], "y": [], "row": [], "how": [], "why": []}, name="pools-ends"
        )
        self.marks = self.rows.figure.scatter(
            "x",
            "y",
            source=self.ends,
            marker="x",
            size=9,
            line_color=BAD,
            line_width=2.4,
            level="overlay",
        )
        tips = [("runner", "@row"), ("", "@how"), ("why", "@why")]
        self.rows.figure.add_tools(HoverTool(renderers=[self.marks], tooltips=tips))
        self._empty = Div(name="pools-empty", sizing_mode="stretch_width", visible=False)
        self.root = Column(
            children=[self._empty, self.rows.figure], sizing_mode="stretch_width", spacing=0
        )

    def draw(
        self,
        lives: Iterable[RunnerLife],
        now: float,
        calls: Mapping[str, Sequence[str]],
        empty: str,
    ) -> int:
        """Show the runners that existed in the range of time, and return their number.

        Parameters
        ----------
        lives : iterable of RunnerLife
            Histories of runners, in order from the top.
        now : float
            Unix time in seconds.
        calls : mapping of str to sequence of str
            Keys of running calls by busy runner.
        empty : str
            HTML to show if there are no runners.

        Returns
        -------
        int
        """
        start, end = self._span.window
        there = [
            life
            for life in lives
            if life.changes[0].at <= end and (life.over is None or life.over >= start)
        ]
        words = kind_words(there)
        self._rows = {
            life.number: self._row(
                life, calls.get(life.name), words.get((life.pool, life.kind), "")
            )
            for life in there
        }
        rows = [row for _, row in self._rows.values()]
        self.rows.draw(rows, now)
        ends = [(y, life) for y, life in enumerate(there) if life.how in ("failed", "lost")]
        seen = [(y, life.number) for y, life in ends]
        if seen != self._ends:
            self._ends = seen
            self.ends.data = {
                "x": [(life.over or 0.0) * 1e3 for _, life in ends],
                "y": [y for y, _ in ends],
                "row": [life.name for _, life in ends],
                "how": [life.how for _, life in ends],
                "why": [life.why for _, life in ends],
            }
        self.rows.figure.visible = bool(rows)
        self._empty.visible = not rows
        if self._empty.text != empty:
            self._empty.text = empty
        return len(rows)

    def _row(
        self, life: RunnerLife, calls: Sequence[str] | None, kind: str
    ) -> tuple[Any, BarState]:
        """Return the row of a runner, cached with the values that it was made from."""
        made_of = (len(life.changes), life.rewritten, life.steps, life.over, calls, kind)
        known = self._rows.get(life.number)
        if known is not None and known[0] == made_of:
            return known
        return made_of, row_of(life, calls, kind=kind)


def kind_words(lives: Iterable[RunnerLife]) -> dict[tuple[str, str], str]:
    """Return short names of kinds by pool and kind, for pools with runners of several kinds.

    The words with which all kinds of a pool begin are left out.
    """
    kinds: dict[str, dict[str, None]] = {}  # the kinds of each pool, in order
    for life in lives:
        kinds.setdefault(life.pool, {})[life.kind] = None
    words = {}
    for pool, there in kinds.items():
        # The first and the last one in order have the least in common.
        pairs = zip(min(there), max(there), strict=False)
        common = "".join(a for a, b in takewhile(lambda pair: pair[0] == pair[1], pairs))
        begin = max((common.rfind(sign) + 1 for sign in "- _/."), default=0)
        if len(there) > 1:
            words.update({(pool, kind): kind[begin:] for kind in there})
    return words


def row_of(life: RunnerLife, calls: Sequence[str] | None = None, *, kind: str = "") -> BarState:
    """Return the history of a runner as a row of bars.

    Parameters
    ----------
    life : RunnerLife
    calls : sequence of str, optional
        Keys of the calls that it runs now.
    kind : str, default ""
        The name of its kind, to be shown beside its own.

    Returns
    -------
    BarState
    """
    bars = [*_boot(life)]
    bars += [_bar(change.at, change.state, change.note) for change in life.changes[1:]]
    if calls and life.over is None and life.state == "busy":
        now = bars[-1]
        bars[-1] = now._replace(note=_calls(calls))
    return BarState(life.number, life.name, bars, life.over, life.rewritten, kind)


def _boot(life: RunnerLife) -> Iterable[Bar]:
    """Yield a bar for each phase of a boot, in the color of the step that ends the phase."""
    begun = life.changes[0]
    last, story = begun.at, []
    own = 0
    until = life.changes[1].at if len(life.changes) > 1 else life.over
    for step, after in life.steps:
        color = STEPS.get(step)
        if color is None:
            color, own = SUBSTRATE[own % len(SUBSTRATE)], own + 1
        at = begun.at + after
        story.append(f"{step} {shown(after)}")
        what = f"booting, until {step}"
        yield Bar(last, color, _TALL["booting"], what, begun.note)
        last = at if until is None else min(at, until)
    if not life.steps or life.steps[-1][0] != REGISTERED:
        what = f"booting{f' ({chr(44).join(story)} s)' if story else ', asked for'}"
        yield _bar(last, "booting", begun.note)._replace(what=what)


def _bar(at: float, state: str, note: str) -> Bar:
    if state == "busy" and note:
        note = _calls([note])
    return Bar(at, _COLORS[state], _TALL[state], state, note)


def _calls(keys: Sequence[str]) -> str:
    return ", ".join(label(key)[:60] for key in keys)


def legend(runners: int) -> str:
    """Return the legend of the bars with the number of runners, as HTML."""
    marks = "".join(
        f'<span style="white-space:nowrap"><i style="display:inline-block; width:16px; '
        f"height:{height}px; background:{ground}; vertical-align:middle; "
        f'border-radius:1px"></i> {word}</span>'
        for word, ground, height in _LEGEND
    )
    bad = '<b style="color:var(--flame-bad)">&#10005;</b>'
    return (
        f'<div style="display:flex; flex-wrap:wrap; gap:2px 16px; align-items:center; '
        f'font-size:13px; color:var(--flame-ink)">'
        f'<b style="font-size:15px">Runners</b>'
        f'<span style="color:var(--flame-quiet)">{counted(runners, "runner")} in view</span>'
        f'{marks}<span style="white-space:nowrap">{bad} failed or lost</span></div>'
    )
