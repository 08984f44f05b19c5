"""How often runners that share a machine measure their calls (driver).

distributed looks at the threads of a busy worker 100 times a second, for its profile, and 50 times
at how late its event loop is: about 3 percent of a core for each worker. 64 busy runners would ask
two cores for that alone.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from dask.config import get
from dask.system import CPU_COUNT
from dask.utils import parse_timedelta

#: Settings of Dask that are intervals, and what a bare number in each of them counts.
_INTERVALS = {
    "distributed.worker.profile.interval": "ms",
    "distributed.admin.tick.interval": "ms",
    # Over which the event loop's delay is averaged: of as many looks as before.
    "distributed.admin.tick.cycle": "s",
}
#: Most times that an interval is taken. An event loop that is looked at less than once a second
#: is soon taken for one that hangs.
_MOST = 50.0


def crowd(runners: int, *, cores: int = CPU_COUNT) -> float:
    """How many times as rarely each of `runners` measures, for all to cost one on every core.

    Examples
    --------
    >>> crowd(8, cores=2), crowd(1, cores=2)
    (4.0, 1.0)
    """
    return min(max(runners / cores, 1.0), _MOST)


def measure_less(settings: Mapping[str, Any], times: float) -> dict[str, Any]:
    """The settings of Dask, with longer intervals between measurements of calls.

    Parameters
    ----------
    settings : mapping
        As nested as ``dask.config.config``; left as it is.
    times : float
        How many times as long, 1 or more.

    Examples
    --------
    >>> measure_less({"distributed": {"worker": {"profile": {"interval": "10ms"}}}}, 4)
    {'distributed': {'worker': {'profile': {'interval': '0.04s'}}}}
    """
    if times == 1:
        return dict(settings)
    rarer = copy.deepcopy(dict(settings))
    for name, unit in _INTERVALS.items():
        path, _, last = name.rpartition(".")
        group = get(path, {}, config=rarer)
        if group.get(last):
            group[last] = f"{parse_timedelta(group[last], unit) * times:g}s"
    return rarer
