"""First state of the page ``/flame`` as HTML, shown until its scripts have started (scheduler)."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from dask_flame.charts.colors import CALL_LINES
from dask_flame.charts.ranking import UNRANKED, shown
from dask_flame.core.terminal_text import plain
from dask_flame.reports.downsample import LEAST, thin
from dask_flame.reports.series import was_stopped

#: Choices in the address of a page with which its curves and its table look otherwise.
_OTHERWISE = frozenset(
    ("view", "x", "log", "smooth", "color", "filter", "sort", "group", "pin", "hide", "zoom")
)
#: Approximate maximum number of points of all curves: more make the page longer to load.
_POINTS = 8_000
#: Maximum number of rows of the table.
_ROWS = 40
#: Size of a chart, in units of its own that the browser stretches.
_WIDTH, _HEIGHT = 1000, 600
_STATES = ("failed", "stopped", "cancelled", "lost", "running", "waiting")
_DASHES = {"dashed": "6 4", "dashdot": "6 3 1.5 3", "16 5": "16 5"}

STYLE = """
.content main { position: relative }
.flame-first { position: absolute; inset: 0; z-index: 5; overflow: hidden; display: flex;
 flex-direction: column; gap: 6px; background: var(--flame-ground); color: var(--flame-ink);
 font: 14px Helvetica, Arial, sans-serif }
.flame-first p { margin: 0; padding: 6px 2px; color: var(--flame-quiet) }
.flame-first p b { color: var(--flame-ink) } .flame-first .bad { color: var(--flame-bad) }
.flame-first > div { flex: 1; min-height: 0; display: flex; gap: 12px }
.flame-first figure { margin: 0; display: flex; flex-direction: column; min-width: 0; flex: 1 }
.flame-first figcaption { color: var(--flame-quiet); font-size: 13px }
.flame-first svg { flex: 1; min-height: 0; width: 100%; fill: none;
 border: 1px solid var(--flame-rule); border-width: 0 0 1px 1px }
.flame-first section { flex: 1; min-width: 0; display: grid; gap: 8px;
 grid-template-columns: repeat(auto-fit, minmax(min(100%, 340px), 1fr)) }
.flame-first path { stroke: var(--light); vector-effect: non-scaling-stroke }
:root[data-flame-theme="dark"] .flame-first path { stroke: var(--dark) }
.flame-first table { width: clamp(420px, 42vw, 900px); border-spacing: 0; font-size: 13px;
 align-self: start; table-layout: fixed }
.flame-first :is(td, th) { height: 27px; padding: 0 7px; text-align: right; font-weight: normal;
 overflow: hidden; text-overflow: ellipsis; white-space: nowrap;
 border-bottom: 1px solid color-mix(in srgb, var(--flame-rule) 55%, transparent) }
.flame-first thead { color: var(--flame-quiet) } .flame-first .text { text-align: left }
.flame-first col:first-child { width: 44px } .flame-first col.wide { width: 34% }
@media (max-width: 900px) {
 .flame-first { position: fixed; inset: auto; top: calc(var(--flame-top, 41px) + 40px); left: 10px;
  right: 10px; bottom: 0 }
 .flame-first > div { flex-direction: column } .flame-first table { width: 100% }
 .flame-first section { flex: none } .flame-first figure { height: 220px }
 .flame-first tr > :nth-child(n + 6) { display: none } }
"""


def first_state(told: Mapping[str, Any] | None, asked: Collection[str] = ()) -> str:
    """Return the state of all calls as HTML: a line of words, a table, and curves as SVG.

    Parameters
    ----------
    told : mapping or None
        The first update of the page; see :meth:`Feed.next`.
    asked : collection of str
        Names of the parameters in the page's address. With some of them, only the line is shown.

    Returns
    -------
    str
        Empty if there are no calls. Its scripts remove the element with the class
        ``flame-first`` when they have drawn the same.
    """
    rows = [row for row in told["rows"] if row["latest"]] if told else []
    if told is None or not rows:
        return ""
    drawn = told["drawn"]
    metric = drawn[0] if drawn else ""
    higher = dict(told["better"]).get(metric) == "max"
    ranked = sorted(rows, key=lambda row: _worth(row, metric, higher=higher))
    parts = [f"<p>{_words(told, ranked, metric)} · loading …</p>"]
    if _OTHERWISE.isdisjoint(asked):
        charts = "".join(_chart(told, name) for name in drawn)
        parts.append(f"<div><section>{charts}</section>{_table(ranked, drawn)}</div>")
    return f'<div class="flame-first" aria-busy="true">{"".join(parts)}</div>'


def unfinished(told: Mapping[str, Any]) -> bool:
    """Return whether calls that are shown wait or run, so that ranks may change."""
    return any(
        row["latest"] and row["state"] in ("waiting", "running", "lost") for row in told["rows"]
    )


def _text(words: Any) -> str:
    # A lone surrogate cannot be sent.
    return escape(plain(str(words)).encode("utf-8", "replace").decode())


def _result(row: Mapping[str, Any], metric: str) -> Sequence[Any]:
    """Return best value, its step and the last value."""
    found = next((values for values in row["metrics"] if values[0] == metric), None)
    return (None, None, None) if found is None else found[1:4]


def _worth(row: Mapping[str, Any], metric: str, *, higher: bool) -> tuple[Any, ...]:
    best = _result(row, metric)[0]
    worth = 0.0 if best is None else -best if higher else best
    return best is None, row["state"] in UNRANKED, worth, row["place"]


def _words(told: Mapping[str, Any], ranked: Sequence[Mapping[str, Any]], metric: str) -> str:
    runs = [run for run in told["runs"] if run["shown"]]
    inside = {run["id"] for run in runs}
    states = {state: sum(run.get(state, 0) for run in runs) for state in ("done", *_STATES)}
    for row in ranked:
        if row["run"] not in inside:
            states[_outcome(row)] = states.get(_outcome(row), 0) + 1
    parts = [f"<b>{states['done']:,} of {sum(states.values()):,} done</b>"]
    parts += [
        f'<span class="{"bad" if state == "failed" else ""}">{states[state]:,} {state}</span>'
        for state in _STATES
        if states[state]
    ]
    words = ", ".join(parts)
    best, at, _ = _result(ranked[0], metric)
    if best is None or ranked[0]["state"] in UNRANKED:
        return words
    so_far = "best so far" if unfinished(told) else "best"
    name = _text(ranked[0]["name"])
    return f"{words} · {so_far} <b>{shown(best)}</b> at step {at:,} by <b>{name}</b>"


def _outcome(row: Mapping[str, Any]) -> str:
    stopped = row["state"] == "cancelled" and was_stopped(row["why"])
    return "stopped" if stopped else str(row["state"])


def _table(ranked: Sequence[Mapping[str, Any]], drawn: Sequence[str]) -> str:
    results = [(name, which) for name in drawn for which in ("best", "last")][:4]
    heads = "".join(f"<th>{which}<br>{_text(name)}</th>" for name, which in results)
    lines = []
    for place, row in enumerate(ranked[:_ROWS], 1):
        ranks = row["state"] not in UNRANKED and drawn and _result(row, drawn[0])[0] is not None
        state = f"{_outcome(row)}: {row['why']}" if row["why"] else row["state"]
        values = [(_result(row, name), which) for name, which in results]
        cells = [shown(found[0] if which == "best" else found[2]) for found, which in values]
        lines.append(
            f'<tr><td>{place if ranks else ""}</td><td class="text">{_text(row["name"])}</td>'
            f'<td class="text{" bad" if row["why"] else ""}">{_text(state)}</td>'
            f"{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
        )
    return (
        '<table><colgroup><col><col class="wide"><col></colgroup><thead><tr><th>#</th>'
        f'<th class="text">call</th><th class="text">state</th>{heads}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table>"
    )


def _chart(told: Mapping[str, Any], metric: str) -> str:
    places = {row["id"]: row["place"] for row in told["rows"]}
    curves, at = [], 0
    for number, name, n, _ in told["points"]:
        part = slice(at, at + n)
        at += n
        if name == metric and n:
            curves.append((places[number], told["x"][part], told["y"][part]))
    limit = max(LEAST, _POINTS // max(1, len(told["points"])))
    lines = []
    for place, x, y in curves:
        kept = thin(y, limit) if len(y) > limit else range(len(y))
        lines.append((place, x[list(kept)], y[list(kept)]))
    all_x = np.concatenate([x for _, x, _ in lines] or [np.zeros(0)])
    all_y = np.concatenate([y for _, _, y in lines] or [np.zeros(0)])
    there = np.isfinite(all_x) & np.isfinite(all_y) & (np.abs(all_y) < 1e290)
    if not there.any():
        return ""
    low, high = np.quantile(all_y[there], [0.005, 0.995])
    ends = all_x[there].min(), all_x[there].max(), low, high
    paths = "".join(_path(place, x, y, ends) for place, x, y in lines)
    caption = f"{_text(metric)}: {shown(float(low))} to {shown(float(high))}"
    return (
        f"<figure><figcaption>{caption}</figcaption>"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="curves of {_text(metric)}">{paths}</svg></figure>'
    )


def _path(place: int, x: Any, y: Any, ends: tuple[float, float, float, float]) -> str:
    x0, x1, low, high = ends
    xs = (x - x0) / ((x1 - x0) or 1) * _WIDTH
    ys = _HEIGHT - np.clip((y - low) / ((high - low) or 1), -0.02, 1.02) * 0.96 * _HEIGHT
    pen, parts = "M", []
    for across, up in zip(xs, ys, strict=True):
        if math.isfinite(across) and math.isfinite(up):
            parts.append(f"{pen}{across:.0f} {up:.0f}")
            pen = "L"
        else:
            pen = "M"
    look = CALL_LINES[place % len(CALL_LINES)]
    dash = _DASHES.get(look["dash"])
    dashes = f' stroke-dasharray="{dash}"' if dash and len(x) < 40 else ""
    color = f'style="--light:{look["light"]};--dark:{look["dark"]}"'
    return f'<path {color}{dashes} d="{"".join(parts)}"/>'
