"""The processes of a cluster as a table with links, from what the scheduler knows (scheduler)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any
from urllib.parse import urlencode

import psutil

from dask_flame.attached.looking.tables import html, size
from dask_flame.core.text import label
from dask_flame.scheduler.looks import SCHEDULER

#: What can be shown of a process, by the name in the address, and its title.
VIEWS = {"stacks": "Stacks", "memory": "Memory", "versions": "Versions", "processes": "Processes"}
#: Maximum number of processes, and of calls of one.
_MOST, _CALLS = 200, 3


@dataclass(frozen=True)
class Known:
    """A process, as far as the scheduler knows it without asking.

    Attributes
    ----------
    name : str
    calls : str
    cpu : float or None
        1.0 is one core.
    memory : int or None
        Bytes.
    """

    name: str
    calls: str = ""
    cpu: float | None = None
    memory: int | None = None


def known_processes(scheduler: Any) -> list[Known]:
    """Return the scheduler and its workers; those that run calls come first."""
    found = []
    for ws in islice(scheduler.workers.values(), _MOST):
        calls = [label(ts.key) for ts in islice(ws.processing, _CALLS)]
        more = len(ws.processing) - len(calls)
        text = ", ".join([*calls, *([f"and {more} more"] if more > 0 else [])])
        cpu = ws.metrics.get("cpu")
        memory = ws.metrics.get("memory")
        found.append(Known(str(ws.name), text, None if cpu is None else cpu / 100, memory))
    found.sort(key=lambda known: (not known.calls, len(known.name), known.name))
    own = scheduler.monitor.recent() if scheduler.monitor.count else {}
    cpu = own.get("cpu")
    memory = own.get("memory") or psutil.Process().memory_info().rss
    return [Known(SCHEDULER, "", None if cpu is None else cpu / 100, memory), *found]


def overview(processes: Sequence[Known], chosen: str, view: str, *, left_out: int = 0) -> str:
    """Return the table of processes, and the links to what can be shown of the chosen one.

    Parameters
    ----------
    processes : sequence of Known
    chosen, view : str
        Name of the process that is shown, and what of it.
    left_out : int
        Number of processes that are not in the table.
    """
    rows = "".join(_row(known, chosen, view) for known in processes)
    more = f"<p class=quiet>and {left_out:,} more</p>" if left_out > 0 else ""
    links = "".join(
        f'<a href="?{html(urlencode({"process": chosen, "show": name}))}"'
        f"{' aria-current=page' if name == view else ''}>{title}</a>"
        for name, title in VIEWS.items()
    )
    return (
        '<div class="inspect-processes" tabindex=0 role=region aria-label="processes"><table>'
        "<thead><tr><th scope=col>process</th><th scope=col>calls</th>"
        "<th scope=col class=number>CPU</th><th scope=col class=number>memory</th></tr></thead>"
        f"<tbody>{rows}</tbody></table>{more}</div>"
        f'<nav class="inspect-views" aria-label="what to show of {html(chosen)}">{links}</nav>'
    )


def _row(known: Known, chosen: str, view: str) -> str:
    address = html(urlencode({"process": known.name, "show": view}))
    current = " aria-current=true" if known.name == chosen else ""
    cpu = "" if known.cpu is None else f"{100 * known.cpu:.0f} %"
    memory = "" if known.memory is None else size(known.memory)
    return (
        f'<tr{" class=here" if current else ""}><td><a href="?{address}"{current}>'
        f"{html(known.name)}</a></td><td>{html(known.calls)}</td>"
        f"<td class=number>{cpu}</td><td class=number>{memory}</td></tr>"
    )
