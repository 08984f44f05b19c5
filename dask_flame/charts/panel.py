"""HTML panel of a cluster's pools, light or dark like the page around it; pure (driver)."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from html import escape

from dask_flame.core.text import duration
from dask_flame.history.boots import FIRST_CALL, REGISTERED, Boot, in_order, summary
from dask_flame.history.costs import costs, money
from dask_flame.history.events import Event
from dask_flame.history.state import PoolSummary, RunnerSummary, Snapshot
from dask_flame.scaling.budget import Spending

#: Maximum number of tiles for single runners; beyond it, a bar shows the numbers by state.
_TILES = 128
#: Number of events to show.
_EVENTS = 3
#: The time in a panel.
_TIME = re.compile(r"<time .*?</time>")
#: States of runners in drawing order, and their labels.
_KINDS = {
    "busy": "busy",
    "ready": "ready",
    "paused": "paused",
    "draining": "finishing",
    "booting": "booting",
    "asked": "asked for",
    "ending": "ending",
}

# Colors of Okabe and Ito, distinct for all common forms of color blindness; the shapes differ, too.
# Text and lines use the theme of JupyterLab, of VS Code, or of the page.
_STYLE = """<style>
.flame-panel { border: 1px solid rgba(128,128,128,.4); border-radius: 6px; padding: 10px 14px;
  max-width: 760px; line-height: 1.45; font-size: 13px; box-sizing: border-box;
  font-family: var(--jp-ui-font-family, system-ui, -apple-system, "Segoe UI", sans-serif);
  color: var(--jp-ui-font-color1, var(--vscode-foreground, inherit)) }
.flame-panel a { color: var(--jp-content-link-color, var(--vscode-textLink-foreground, #2878b5));
  text-decoration: none; margin-left: 14px; white-space: nowrap }
.flame-panel .head, .flame-panel .row { display: flex; flex-wrap: wrap; align-items: baseline;
  gap: 2px 10px; overflow-wrap: anywhere }
.flame-panel .push { margin-left: auto }
.flame-panel .quiet { opacity: .68 }
.flame-panel .pool { border-top: 1px solid rgba(128,128,128,.25); margin-top: 8px;
  padding-top: 8px }
.flame-panel .tiles { display: flex; flex-wrap: wrap; gap: 3px; margin: 5px 0 }
.flame-panel .bar { display: flex; height: 12px; gap: 2px; margin: 5px 0 }
.flame-panel i { display: inline-block; box-sizing: border-box; width: 12px; height: 12px;
  border-radius: 2px; border: 1px solid transparent; flex: none }
.flame-panel .bar i { flex-basis: 0; width: auto; min-width: 3px }
.flame-panel .key { margin-right: 12px; white-space: nowrap }
.flame-panel .key i { width: 10px; height: 10px; margin-right: 5px; vertical-align: -1px }
.flame-panel i.busy { background: #E69F00; border-color: #B87F00 }
.flame-panel i.ready { background: #56B4E9; border-color: #2F8EC4 }
.flame-panel i.paused, .flame-panel i.draining { border-color: #B87F00;
  background: repeating-linear-gradient(45deg, #E69F00 0 2px, transparent 2px 5px) }
.flame-panel i.booting { background: rgba(128,128,128,.45); border: 1px solid #808080;
  animation: flame-pulse 1.2s ease-in-out infinite alternate }
.flame-panel i.asked { border: 1px dashed #808080 }
.flame-panel i.ending { background: rgba(128,128,128,.25) }
.flame-panel i.free { background: rgba(128,128,128,.12) }
.flame-panel .step { display: inline-block; padding: 0 7px; margin-top: 3px;
  border-radius: 9px; background: rgba(128,128,128,.16) }
.flame-panel .step.here { background: rgba(86,180,233,.3); font-weight: 600 }
.flame-panel .trouble { color: #D55E00; font-weight: 600; overflow-wrap: anywhere }
.flame-panel .events { font: 11.5px/1.5 var(--jp-code-font-family, monospace);
  overflow: hidden; overflow-wrap: anywhere; display: -webkit-box; -webkit-box-orient: vertical;
  -webkit-line-clamp: 3 }
.flame-live { width: 0; min-width: 100% }
.flame-panel .live { display: none }
.flame-live .flame-panel .live { display: inline } .flame-live .flame-panel .saved { display: none }
.flame-live .flame-panel .since { animation: flame-appear 1ms linear 15s both }
.flame-live .flame-panel .now { animation: flame-fade 1ms linear 15s both }
@keyframes flame-pulse { from { opacity: .35 } to { opacity: 1 } }
@keyframes flame-appear { from { opacity: 0; font-size: 0 } to { opacity: 1 } }
@keyframes flame-fade { to { opacity: .45; filter: grayscale(1) } }
@media (prefers-reduced-motion: reduce) { .flame-panel i.booting { animation: none } }
</style>"""

# Style of a panel that is an output of its own beside a live one. It is hidden while the live one
# is there. Without a kernel JupyterLab shows an error in its place: that is hidden then.
_BESIDE = """<style>
:root:has(.flame-live-ID) .jp-OutputArea-child:has(.flame-saved-ID):not(:has(.flame-live-ID)),
:root:has(.flame-live-ID) .flame-saved-ID:not(.flame-live-ID *),
.jp-OutputArea-child:has(+ .jp-OutputArea-child .flame-saved-ID):not(:has(.flame-live-ID))
{ display: none }
</style>"""


@dataclass(frozen=True)
class Head:
    """Heading of a panel.

    Attributes
    ----------
    name : str
        Name of the cluster.
    backend : str
        Name of its backend.
    over : str
        Why the cluster has ended; empty while it is running.
    links : mapping of str to str
        Addresses by label.
    """

    name: str
    backend: str
    over: str = ""
    links: Mapping[str, str] | None = None


def panel(head: Head, state: Snapshot, boots: Sequence[Boot]) -> str:
    """Return the panel of a cluster as HTML.

    Parameters
    ----------
    head : Head
        Heading of the panel.
    state : Snapshot
        State of the cluster.
    boots : sequence of Boot
        Its last boots.

    Returns
    -------
    str
    """
    several = len(state.pools) > 1
    parts = [_head(head, state)]
    if not head.over:
        parts += [
            _pool(pool, [b for b in boots if b.pool == pool.name], state.now, several)
            for pool in state.pools
        ]
    parts.append(_events(state.events or ()))
    ident = _ident(head.name)
    return (
        f'<div class="flame-saved-{ident}">{_BESIDE.replace("ID", ident)}{_STYLE}'
        f'<div class="flame-panel">{"".join(parts)}</div></div>'
    )


def live(name: str, page: str) -> str:
    """Return a panel as the content of a widget, which is updated at least every few seconds.

    It fades, and says so, once it is no longer updated: its kernel has ended. This needs no script.
    """
    return f'<div class="flame-live flame-live-{_ident(name)}">{page}</div>'


def same(page: str, other: str) -> bool:
    """Return whether two panels differ in their time only."""
    return _TIME.sub("", page) == _TIME.sub("", other)


def _ident(name: str) -> str:
    """Return a name for CSS that is specific to a cluster."""
    return sha256(name.encode()).hexdigest()[:10]


def _head(head: Head, state: Snapshot) -> str:
    links = "".join(
        f'<a href="{escape(address)}" target="_blank" rel="noopener">{escape(word)} &#8599;</a>'
        for word, address in (head.links or {}).items()
        if address and not head.over
    )
    usage = head.over or _usage(state)
    budget = "" if head.over else _budget(state.budget)
    return (
        f'<div class="head"><b>FlameCluster</b> {escape(head.name)}'
        f'<span class="quiet">{escape(head.backend)}</span>'
        f'<span class="quiet">{escape(usage)}</span>'
        f"{budget}{'' if head.over else _as_of(state.now)}"
        f'<span class="push">{links}</span></div>'
    )


def _as_of(now: float) -> str:
    """Return the time of the state; a live panel shows it only if it is no longer updated."""
    local = time.localtime(now)
    written = time.strftime("%Y-%m-%d %H:%M:%S", local)
    stamp = f'<time datetime="{time.strftime("%Y-%m-%dT%H:%M:%S", local)}">{written}</time>'
    said = '<span class="saved">as of</span><span class="live">not updated since</span>'
    return f'<span class="quiet since">{said} {stamp}</span>'


def _usage(state: Snapshot) -> str:
    used = costs(state.pools)
    words = f"{duration(used.runner_seconds)} of runners so far"
    if used.runner_seconds and used.amount is not None:
        words += f", {money(used.amount)}"
    return words


def _budget(spent: Spending | None) -> str:
    if spent is None:
        return ""
    kind = "trouble" if spent.low else "quiet"
    return f'<span class="{kind}">budget: {escape(str(spent))} spent</span>'


def _pool(pool: PoolSummary, boots: Sequence[Boot], now: float, several: bool) -> str:
    under_way = {boot.name: boot for boot in boots if boot.seconds is None and not boot.ended}
    runners = [(runner, _kind(runner, under_way)) for runner in pool.runners]
    number = Counter(kind for _, kind in runners)
    name = f"<b>{escape(pool.name)}</b>" if several else ""
    per = pool.concurrency
    each = f", {per} calls each" if per > 1 else ""
    idle = f", idle for {pool.idle_timeout:g} s" if pool.idle_timeout is not None else ""
    if pool.idle_why:
        idle = f'<span title="{escape(pool.idle_why)}">{idle} (auto)</span>'
    policy = f"{pool.min} to {pool.max} runners{each}{idle}"
    lines = [
        f'<div class="row">{name}<span>{_numbers(number)}</span>{_mixed(pool)}',
        f'<span class="quiet push">{policy}</span></div>',
        _tiles(runners, number, pool.max or 0, now),
        _waiting(pool),
        _steps(boots, under_way, now),
    ]
    return f'<div class="pool now">{"".join(lines)}</div>'


def _kind(runner: RunnerSummary, under_way: Mapping[str, Boot]) -> str:
    state = runner.state
    if state == "ready" and runner.busy:
        return "busy"
    boot = under_way.get(runner.name)
    if state == "booting" and boot is not None and not boot.steps:
        return "asked"
    return state


def _mixed(pool: PoolSummary) -> str:
    """Return the number of runners of each kind, if there are several kinds."""
    words = ", ".join(f"{n} of {kind}" for kind, n in pool.mixed.items() if n)
    return f'<span class="quiet">{escape(words)}</span>' if words else ""


def _numbers(number: Counter[str]) -> str:
    parts = [
        f'<span class="key"><i class="{kind}"></i>{number[kind]} {word}</span>'
        for kind, word in _KINDS.items()
        if number[kind]
    ]
    return "".join(parts) or '<span class="quiet">no runner</span>'


def _tiles(
    runners: Sequence[tuple[RunnerSummary, str]], number: Counter[str], most: int, now: float
) -> str:
    if max(len(runners), most) > _TILES:
        free = max(0, most - len(runners))
        counts = [*((kind, number[kind]) for kind in _KINDS), ("free", free)]
        bars = [f'<i class="{kind}" style="flex-grow:{n}"></i>' for kind, n in counts if n]
        return f'<div class="bar">{"".join(bars)}</div>'
    places = list(_KINDS)
    ordered = sorted(runners, key=lambda item: places.index(item[1]))
    tiles = [
        f'<i class="{kind}" title="{escape(_title(runner, kind, now))}"></i>'
        for runner, kind in ordered
    ]
    tiles += ['<i class="free"></i>'] * (most - len(runners))
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _title(runner: RunnerSummary, kind: str, now: float) -> str:
    calls = f", {runner.busy} calls" if runner.busy > 1 else ""
    since = duration(max(0.0, now - runner.since))
    of = f" ({runner.kind})" if runner.kind else ""
    return f"{runner.name}{of}: {_KINDS[kind]}{calls}, in this state for {since}"


def _waiting(pool: PoolSummary) -> str:
    waiting = pool.waiting
    if not waiting:
        return ""
    calls = "call waits" if waiting == 1 else "calls wait"
    held = f" as {escape(pool.held)}" if pool.held else ""
    return f"<div>{waiting:,} {calls} for a runner{held}</div>"


def _steps(boots: Sequence[Boot], under_way: Mapping[str, Boot], now: float) -> str:
    """Return the progress of boots under way, or the durations of earlier boots."""
    if not under_way:
        took = summary(boots)
        return f'<div class="quiet">boots: {escape(took)}</div>' if took else ""
    known = [step for step in in_order(boots) if step != FIRST_CALL] or ["accepted"]
    steps = ["asked", *(step for step in known if step != REGISTERED), REGISTERED]
    there = Counter(boot.last for boot in under_way.values())
    chips = [
        f'<span class="step{" here" if there[step] else ""}">{escape(step)}'
        f"{f' {there[step]}' if there[step] else ''}</span>"
        for step in steps
    ]
    longest = max(0.0, now - min(boot.at for boot in under_way.values()))
    track = " &#8594; ".join(chips)
    said = f'<span class="quiet">booting for {duration(longest)}:</span>'
    lines = [f"<div>{said} {track}</div>"]
    troubles = Counter(boot.trouble for boot in under_way.values() if boot.trouble)
    lines += [
        f'<div class="trouble">&#9888; {n} held up: {escape(why)}</div>'
        for why, n in troubles.most_common(2)
    ]
    return "".join(lines)


def _events(events: Sequence[Event]) -> str:
    lines = [
        f'<div class="events quiet" title="{escape(event.text)}">'
        f"{escape(event.kind)} &#183; {escape(_first_line(event.text))}</div>"
        for event in events[-_EVENTS:]
    ]
    return f'<div class="pool">{"".join(lines)}</div>' if lines else ""


def _first_line(text: str) -> str:
    return text.partition("\n")[0]
