"""Summary of each pool: its numbers, and why calls wait; pure (scheduler)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape

from dask_flame.charts.ranking import counted
from dask_flame.core import config
from dask_flame.core.text import duration
from dask_flame.dashboard.pools.rows import Counts, count
from dask_flame.dashboard.pools.timeline import DRAINING
from dask_flame.history.boots import Boot
from dask_flame.history.costs import amount_of, kind_costs, money
from dask_flame.history.state import PoolSummary, Snapshot
from dask_flame.scaling.budget import Spending

#: A share of busy time below this is highlighted, after this many runner-seconds.
_LOW, _ENOUGH = 0.5, 60.0


def heads(state: Snapshot) -> str:
    """Return the budget, and a card for each pool, as HTML."""
    boots = state.boots or ()
    cards = [
        _card(pool, [boot for boot in boots if boot.pool == pool.name]) for pool in state.pools
    ]
    columns = "repeat(auto-fill, minmax(min(100%, 400px), 1fr))"
    return (
        f"{_budget(state.budget)}"
        f'<div style="display:grid; grid-template-columns:{columns}; gap:8px; font-size:13px; '
        f'color:var(--flame-ink)">{"".join(cards) or "No pools."}</div>'
    )


def _budget(spent: Spending | None) -> str:
    """Return a bar of the part of the budget that is spent."""
    if spent is None:
        return ""
    color = "bad" if spent.low else "quiet"
    weight = "600" if spent.low else "400"
    said = f"Budget: {spent} spent"
    if spent.exhausted:
        said += "; no runner boots, and calls that wait fail, until cluster.budget = … raises it"
    elif (lasts := spent.lasts) is not None:
        said += f" \N{MIDDLE DOT} at the present rate, the rest lasts {duration(lasts)}"
    return (
        f'<div class="flame-budget" style="font-size:13px; margin-bottom:8px; '
        f'font-weight:{weight}; color:var(--flame-{color}); overflow-wrap:anywhere">{escape(said)}'
        '<div style="height:6px; border:1px solid var(--flame-rule); border-radius:3px; '
        'overflow:hidden; margin-top:3px">'
        f'<div style="width:{100 * min(1.0, spent.share):.2f}%; height:100%; '
        f'background:var(--flame-{"bad" if spent.low else "busy"})"></div></div></div>'
    )


def _card(pool: PoolSummary, boots: Sequence[Boot]) -> str:
    n = count(pool.runners)
    asked = sum(not b.steps and not b.ended for b in boots) if n.booting else 0
    return f"""
<div style="background:var(--flame-card); border:1px solid var(--flame-rule); border-radius:6px;
  padding:8px 12px; min-width:0">
 <div style="display:flex; justify-content:space-between; gap:4px 12px; flex-wrap:wrap">
  <b style="font-size:15px; overflow-wrap:anywhere">{escape(pool.name)}</b>
  <span style="color:var(--flame-quiet)">{_policy(pool)}</span>
 </div>
 {_bar(pool, n)}
 <div style="display:flex; flex-wrap:wrap; gap:1px 14px">{_counts(n, asked)}{_demand(pool)}</div>
 {_paid(pool)}
 {_said(*why(pool, n, boots))}
</div>"""


def _policy(pool: PoolSummary) -> str:
    if pool.max is None:
        words = ["workers of this cluster"]
    else:
        words = [f"{pool.min:,}..{pool.max:,} {'runner' if pool.max == 1 else 'runners'}"]
    slots = pool.concurrency
    words.append("1 call each" if slots == 1 else f"{slots} calls each")
    if gpus := pool.gpus:
        words.append(f"{counted(gpus, 'GPU')} each")
    if (idle := pool.idle_timeout) is not None:
        words.append(f"idle for {duration(idle)}")
        if pool.idle_why:
            words[-1] = f'<span title="{escape(pool.idle_why)}">{words[-1]} (auto)</span>'
    return " &#183; ".join(words)


def _bar(pool: PoolSummary, n: Counts) -> str:
    room = max(pool.max or n.asked, n.asked + n.draining + n.ending, 1)
    parts = "".join(
        f'<div style="width:{100 * k / room:.2f}%; background:{ground}"></div>'
        for k, ground in (
            (n.busy, "var(--flame-busy)"),
            (n.idle, "var(--flame-idle)"),
            (n.draining, DRAINING),
            (n.booting, "var(--flame-booting)"),
        )
        if k
    )
    return (
        '<div style="display:flex; height:10px; border:1px solid var(--flame-rule); '
        f'border-radius:3px; overflow:hidden; margin:5px 0">{parts}</div>'
    )


def _counts(n: Counts, asked: int) -> str:
    booting = f"{n.booting} booting"
    if asked:
        booting += f" ({min(asked, n.booting)} asked for)"
    kinds = (
        (n.busy, f"{n.busy} busy", "var(--flame-busy)", True),
        (n.idle, f"{n.idle} idle", "var(--flame-idle)", True),
        (n.booting, booting, "var(--flame-booting)", True),
        (n.draining, f"{n.draining} draining", DRAINING, False),
        (n.ending, f"{n.ending} ending", "var(--flame-rule)", False),
    )
    return "".join(
        f'<span style="white-space:nowrap"><i style="display:inline-block; width:10px; '
        f'height:10px; background:{ground}; vertical-align:-1px"></i> {words}</span>'
        for k, words, ground, always in kinds
        if k or always
    )


def _demand(pool: PoolSummary) -> str:
    waiting = f", {pool.waiting:,} waiting" if pool.waiting else ""
    return f'<span style="white-space:nowrap">demand {pool.demand:,}{waiting}</span>'


def _paid(pool: PoolSummary) -> str:
    paid = pool.runner_seconds
    if paid is None:
        return ""
    words = [f"{duration(paid)} of runners"]
    if gpus := pool.gpus:
        words.append(f"{duration(paid * gpus)} of GPUs")
    said = " &#183; ".join(words)
    if paid:
        share = min(pool.busy_seconds / paid, 1.0)
        weight = "600" if share < _LOW and paid > _ENOUGH else "400"
        said += (
            f' &#183; <span style="font-weight:{weight}; color:var(--flame-ink)" '
            f'title="of the time that runners are paid for, from request to end, how much they '
            f'had a call">busy {100 * share:.0f} %</span>'
        )
    if (cost := amount_of(pool)) is not None:
        said += f" &#183; {escape(money(cost))} so far"
    return f'<div style="color:var(--flame-quiet); margin-top:3px">{said}{_kinds(pool)}</div>'


def _kinds(pool: PoolSummary) -> str:
    """Return a line for each kind of runner, if there are several."""
    costs = {cost.kind: cost for cost in kind_costs(pool, str(config.get("currency")))}
    lines = []
    for kind, number in pool.mixed.items():
        words = [f"{escape(kind)}: {counted(number, 'runner')} now"]
        if kind in costs:
            words.append(duration(costs[kind].runner_seconds))
            if (cost := costs[kind].amount) is not None:
                words.append(escape(money(cost)))
        lines.append(f'<div class="kind">{" &#183; ".join(words)}</div>')
    return "".join(lines)


def _said(text: str, bad: bool) -> str:
    if not text:
        return ""
    color = "bad" if bad else "quiet"
    return (
        f'<div style="color:var(--flame-{color}); margin-top:3px; overflow-wrap:anywhere">'
        f"{escape(text)}</div>"
    )


def why(pool: PoolSummary, n: Counts, boots: Sequence[Boot]) -> tuple[str, bool]:
    """Return why calls wait or nothing happens, in a sentence, and whether it is a problem.

    Parameters
    ----------
    pool : PoolSummary
    n : Counts
        Counts of its runners.
    boots : sequence of Boot
        Its last boots, the newest last.

    Returns
    -------
    tuple of (str, bool)
    """
    waiting = pool.waiting
    wait = f"{counted(waiting, 'call')} {'waits' if waiting == 1 else 'wait'}"
    if pool.suspended:
        return f"No runner is to be there: {pool.suspended}", bool(waiting)
    troubles = Counter(b.trouble for b in boots if b.trouble and not b.ended)
    if troubles:
        reason, number = troubles.most_common(1)[0]
        return f"{counted(number, 'boot')} held up: {reason}", True
    last = next((b for b in reversed(boots) if _is_over(b)), None)
    if last is not None and last.failed and (waiting or not n.asked):
        reason = last.ended.partition("\n")[0][:300]
        return f"{f'{wait}: ' if waiting else ''}the last boot failed: {reason}", True
    if pool.max is None or not waiting:
        return "", False
    if n.booting:
        return f"{wait}: {counted(n.booting, 'runner')} booting", False
    if pool.max == 0:
        return f"{wait}: max=0; cluster.resize({pool.name!r}, max=…) raises it", True
    if pool.held:
        return f"{wait}: {pool.held}", True
    paused = [r for r in pool.runners if r.state == "paused"]
    if paused and n.asked + n.draining + n.ending >= pool.max:
        first = paused[0]
        of = f" of {len(paused)} paused ones" if len(paused) > 1 else ""
        return f"{wait}: {first.name}{of} takes none ({first.why})", True
    if (fixed := pool.fixed) is not None and n.asked >= fixed:
        kept = "no runner" if not fixed else counted(fixed, "runner")
        return f"{wait}: adapt(...).stop() keeps {kept}; cluster.adapt() follows demand again", True
    if n.asked + n.draining + n.ending >= pool.max:
        return f"{wait}: as many runners as may be (max={pool.max:,}) are there", False
    return f"{wait} for a free slot", False


def nothing_yet(pools: Sequence[PoolSummary], *, ever: bool) -> str:
    """Return HTML that explains how to start a runner, for a page without runners."""
    if any(pool.max is None for pool in pools):
        how = "no worker has registered with this scheduler."
    else:
        how = "a call makes one boot, for example <code>client.submit(function, argument)</code>"
        names = [pool.name for pool in pools]
        if len(names) > 1:
            example = escape(f"with dask_flame.on({names[1]!r}): …")
            how += f", or one of another pool <code>{example}</code>"
        how += "; <code>min=</code> keeps runners at all times."
    what = "No runner in this stretch of time" if ever else "No runner yet"
    return (
        '<div style="color:var(--flame-quiet); font-size:15px; padding:28px 12px">'
        f"{what}: {how}</div>"
    )


def _is_over(boot: Boot) -> bool:
    return bool(boot.ended) or boot.seconds is not None
