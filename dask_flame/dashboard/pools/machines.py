"""Charts of the runners' load, from the metrics in the workers' heartbeats (scheduler)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil
from bokeh.models import Div, RadioButtonGroup
from bokeh.models.layouts import Column, Row
from dask.utils import format_bytes

from dask_flame.dashboard.bar_rows import Bar, BarRows, BarState
from dask_flame.dashboard.pools.timeline import kind_words
from dask_flame.dashboard.theme import FULL_WIDTH
from dask_flame.dashboard.time_range import TimeRange, buttons
from dask_flame.history.state import PoolSummary
from dask_flame.history.timeline import RunnerLife

#: Colors from no load to full load, on a light and on a dark background. One hue: more load is
#: darker on light, and lighter on dark.
LEVELS = {
    "#EBEFF4": "#262E39",
    "#D3E2EE": "#27435E",
    "#AECDE2": "#285B83",
    "#7FB4D4": "#2D76A8",
    "#5098C5": "#4393C7",
    "#2D78B0": "#67B1DE",
    "#175795": "#9BD1F0",
    "#0B3768": "#DDF1FC",
}
_COLORS = list(LEVELS)
#: No data, because no page was open.
_UNKNOWN = "#00000000"
LEVELS[_UNKNOWN] = _UNKNOWN
#: Seconds between two samples with few workers and with many, whose heartbeats are less frequent.
_OFTEN, _RARELY, _MANY = 1.0, 3.0, 64
#: Number of bars to keep for each metric of a runner; the list is cut at twice this number.
_KEPT = 240

INSTALL = "pip install nvidia-ml-py"


@dataclass(frozen=True, slots=True)
class Metric:
    """A quantity that workers measure.

    Attributes
    ----------
    words : str
        Label of its button.
    part : callable
        Takes a worker and the largest memory use of any worker. Returns the used share and a text,
        or None.
    """

    words: str
    part: Callable[[Any, float], tuple[float, str] | None]


def _cpu(ws: Any, most: float) -> tuple[float, str] | None:
    percent = ws.metrics.get("cpu")
    if percent is None:
        return None
    return percent / (100 * max(ws.nthreads, 1)), f"CPU {percent:.0f} %"


def _memory(ws: Any, most: float) -> tuple[float, str] | None:
    used = ws.metrics.get("memory")
    if used is None:
        return None
    if ws.memory_limit:
        return used / ws.memory_limit, f"{format_bytes(used)} of {format_bytes(ws.memory_limit)}"
    # Workers without a limit usually share a machine of this size.
    there = max(most, psutil.virtual_memory().total)
    return used / there, f"{format_bytes(used)}, no limit"


def _gpu(ws: Any, most: float) -> tuple[float, str] | None:
    percent = ws.metrics.get("gpu_utilization")
    return None if percent is None else (percent / 100, f"GPU {percent:.0f} %")


def _gpu_memory(ws: Any, most: float) -> tuple[float, str] | None:
    used, there = ws.metrics.get("gpu_memory_used"), ws.metrics.get("gpu-memory-total")
    if used is None or not there:
        return None
    return used / there, f"GPU memory: {format_bytes(used)} of {format_bytes(there)}"


METRICS = {
    "cpu": Metric("CPU", _cpu),
    "memory": Metric("memory", _memory),
    "gpu": Metric("GPU", _gpu),
    "gpu-memory": Metric("GPU memory", _gpu_memory),
}


@dataclass(slots=True)
class _Track:
    """Bars of one runner's metric, one for each change of its level."""

    bars: list[Bar] = field(default_factory=list)
    end: float | None = None
    dropped: int = 0

    def add(self, at: float, part: float | None, words: str) -> None:
        color = _UNKNOWN
        if part is not None:
            color = _COLORS[min(max(int(part * len(_COLORS)), 0), len(_COLORS) - 1)]
        if self.bars and self.bars[-1].color == color:
            return
        self.bars.append(Bar(at, color, 0.9, words, ""))
        if len(self.bars) >= 2 * _KEPT:
            del self.bars[:_KEPT]
            self.dropped += 1


class Gauges:
    """Metrics of workers, recorded while a page is open; bounded.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    """

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self._looked = 0.0
        self._tracks: dict[str, dict[str, _Track]] = {}

    def look(self, now: float, names: Iterable[str]) -> None:
        """Record changes of the metrics of these runners; drop the data of all others."""
        scheduler = self._scheduler
        often = _OFTEN if len(scheduler.workers) <= _MANY else _RARELY
        if 0 <= now - self._looked < often:
            return
        before, self._looked = self._looked, now
        # No page was open for a while.
        missed = 0 < before < now - 5 * often
        known = set(names)
        self._tracks = {name: tracks for name, tracks in self._tracks.items() if name in known}
        workers = {str(ws.name): ws for ws in scheduler.workers.values()}
        most = max((ws.metrics.get("memory", 0) for ws in workers.values()), default=0)
        for name in self._tracks.keys() - workers.keys():
            for track in self._tracks[name].values():
                track.end = track.end or (before if missed else now)
        for name in known & workers.keys():
            ws = workers[name]
            if missed:
                for track in self._tracks.get(name, {}).values():
                    track.add(before, None, "nobody has looked")
            for metric, how in METRICS.items():
                found = how.part(ws, most)
                if found is not None:
                    self._tracks.setdefault(name, {}).setdefault(metric, _Track()).add(now, *found)

    def metrics(self) -> list[str]:
        """Return the metrics that any worker has measured."""
        there = {metric for tracks in self._tracks.values() for metric in tracks}
        return [metric for metric in METRICS if metric in there]

    def rows(
        self, metric: str, lives: Iterable[RunnerLife], start: float, end: float
    ) -> list[BarState]:
        """Return a row for each of these runners with a metric in a range of time, in order.

        Parameters
        ----------
        metric : str
            One of `METRICS`.
        lives : iterable of RunnerLife
            Histories of the runners.
        start, end : float
            Range of time, in Unix seconds.

        Returns
        -------
        list of BarState
        """
        rows = []
        lives = list(lives)
        words = kind_words(lives)
        for life in lives:
            track = self._tracks.get(life.name, {}).get(metric)
            if track is None or track.bars[0].left > end or (track.end or end) < start:
                continue
            key = (metric, life.number)
            kind = words.get((life.pool, life.kind), "")
            rows.append(BarState(key, life.name, list(track.bars), track.end, track.dropped, kind))
        return rows

    def measures(self, metric: str, names: Iterable[str]) -> bool:
        """Return whether one of these runners has measured a metric."""
        return any(metric in self._tracks.get(name, {}) for name in names)


class Machines:
    """Row for each runner, colored by its load.

    Parameters
    ----------
    span : TimeRange
        Range of time that the figure shows.
    gauges : Gauges
        Recorded metrics.
    changed : callable
        Called when the user chooses another metric.

    Attributes
    ----------
    root : bokeh.models.layouts.Column
    rows : BarRows
    """

    def __init__(self, span: TimeRange, gauges: Gauges, changed: Callable[[], None]) -> None:
        self._span = span
        self._gauges = gauges
        self._metrics: list[str] = []
        self.rows = BarRows(span, name="pools-machines", colors=LEVELS, row=9, most=220)
        self._choice = RadioButtonGroup(
            labels=[], active=0, name="pools-metric", stylesheets=[buttons()]
        )
        self._choice.on_change("active", lambda attr, old, new: changed())
        self._head = Div(
            name="pools-machines-head",
            sizing_mode="stretch_width",
            margin=(8, 5, 5, 10),
            stylesheets=[FULL_WIDTH],
        )
        self.root = Column(
            children=[
                Row(
                    children=[self._choice, self._head],
                    sizing_mode="stretch_width",
                    styles={"flex-wrap": "wrap"},
                ),
                self.rows.figure,
            ],
            sizing_mode="stretch_width",
            spacing=0,
        )

    def draw(self, pools: Sequence[PoolSummary], lives: Sequence[RunnerLife], now: float) -> None:
        """Show the chosen metric of these runners.

        Parameters
        ----------
        pools : sequence of PoolSummary
            Pools of the runners.
        lives : sequence of RunnerLife
            Histories of the runners.
        now : float
            Unix time in seconds.
        """
        metrics = self._gauges.metrics()
        self.root.visible = bool(metrics)
        if not metrics:
            return
        if metrics != self._metrics:
            self._metrics = metrics
            self._choice.labels = [METRICS[metric].words for metric in metrics]
            # Select the GPU first, because it costs most.
            self._choice.active = metrics.index("gpu") if "gpu" in metrics else 0
        metric = metrics[min(self._choice.active or 0, len(metrics) - 1)]
        self.rows.draw(self._gauges.rows(metric, lives, *self._span.window), now)
        text = _head(METRICS[metric].words, self._missing(pools))
        if self._head.text != text:
            self._head.text = text

    def _missing(self, pools: Sequence[PoolSummary]) -> bool:
        """Return whether a pool has GPUs, but none of its runners measures them."""
        for pool in pools:
            ready = [r.name for r in pool.runners if r.state == "ready"]
            measured = [name for name in ready if self._gauges.measures("cpu", [name])]
            if pool.gpus and measured and not self._gauges.measures("gpu", measured):
                return True
        return False


def _head(words: str, missing: bool) -> str:
    steps = "".join(
        f'<i style="display:inline-block; width:14px; height:12px; '
        f'background:var(--flame-level-{i}, {color})"></i>'
        for i, color in enumerate(_COLORS)
    )
    hint = (
        f"<span>Of GPUs nothing is known: <code>{INSTALL}</code> where the runners are.</span>"
        if missing
        else ""
    )
    return (
        '<div style="display:flex; flex-wrap:wrap; gap:2px 16px; align-items:center; '
        'font-size:13px; color:var(--flame-ink)">'
        f'<span style="color:var(--flame-quiet)">{words}: nothing '
        f'<span style="display:inline-flex; vertical-align:middle">{steps}</span> all</span>'
        f"{hint}</div>"
    )
