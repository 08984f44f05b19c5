"""Lengthen the measuring intervals of runners that share a machine (driver).

distributed samples the threads of a busy worker 100 times a second for its profile, and measures
the delay of the event loop 50 times a second: about 3 percent of a core for each worker. For 64
busy runners this would be two cores.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from dask.config import get
from dask.system import CPU_COUNT
from dask.utils import parse_timedelta

#: Settings of Dask that are intervals, with the unit of a bare number.
_INTERVALS = {
    "distributed.worker.profile.interval": "ms",
    "distributed.admin.tick.interval": "ms",
    # The delay of the event loop is averaged over this time: keep the number of samples.
    "distributed.admin.tick.cycle": "s",
}
#: Maximum factor. An event loop measured less than once a second would soon count as blocked.
_MOST = 50.0


def interval_factor(runners: int, *, cores: int = CPU_COUNT) -> float:
    """Return the factor that limits the cost of measuring to that of one runner per core.

    Examples
    --------
    >>> interval_factor(8, cores=2), interval_factor(1, cores=2)
    (4.0, 1.0)
    """
    return min(max(runners / cores, 1.0), _MOST)


def lengthen_intervals(settings: Mapping[str, Any], times: float) -> dict[str, Any]:
    """Return Dask's settings with longer intervals between measurements of calls.

    Parameters
    ----------
    settings : mapping
        Nested as ``dask.config.config``; not modified.
    times : float
        Factor for the intervals, 1 or more.

    Examples
    --------
    >>> lengthen_intervals({"distributed": {"worker": {"profile": {"interval": "10ms"}}}}, 4)
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
