"""Compatibility with scripts written for distributed's clusters (driver)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from distributed import Status

from dask_flame.core.option_checks import number, size, whole, wrong
from dask_flame.core.pool import Pool
from dask_flame.core.ranges import RUNNERS
from dask_flame.errors import PoolError
from dask_flame.scaling.runner_index import Phase

_STATUS = {
    Phase.BOOTING: Status.created,
    Phase.READY: Status.running,
    Phase.DRAINING: Status.closing_gracefully,
    Phase.ENDING: Status.closing,
}
#: Keywords of distributed's Adaptive and of ``workers_to_close`` that have no effect here.
_MEANINGLESS = (
    "Adaptive",
    "interval",
    "wait_count",
    "target_duration",
    "worker_key",
    "memory_ratio",
    "key",
    "attribute",
)
_BY_AMOUNT = ("minimum_cores", "maximum_cores", "minimum_memory", "maximum_memory")
#: Attributes of distributed's clusters that do not exist here, and their replacements.
ELSEWHERE = {
    "worker_spec": "cluster.runners for the runners there are, cluster.pools for what they are",
    "new_spec": "cluster.pools for what runners are, cluster.resize(…) to change it",
    "new_worker_spec": "cluster.resize(max=…) for more runners",
    "scheduler_spec": "cluster.scheduler_address",
    "scale_up": "cluster.scale(n)",
    "scale_down": "cluster.scale(n), or client.retire_workers(…) to name them",
    "start_worker": "cluster.scale(n)",
    "stop_worker": "client.retire_workers(…)",
    "logs": "cluster.get_logs()",
    "from_name": "Client(address) for a cluster that runs elsewhere",
    "job_script": "print(cluster.manifest())",
}


@dataclass(frozen=True, slots=True)
class WorkerView:
    """A runner, in the form of a worker of distributed's clusters.

    Attributes
    ----------
    name : str
    status : distributed.Status
        ``undefined`` before it is requested, ``created`` while it boots, then ``running``;
        ``closing_gracefully`` while it drains, ``closing`` while it ends.
    address : str or None
        Address of its worker; None until it has registered.
    """

    name: str
    status: Status
    address: str | None = None

    @property
    def worker_address(self) -> str | None:
        """The address, under the name that a Nanny uses."""
        return self.address


def worker_views(
    members: Mapping[str, Any], known: Mapping[str, Mapping[str, Any]], to_come: Iterable[str] = ()
) -> dict[str, WorkerView]:
    """Return views of the runners as workers, by name.

    Parameters
    ----------
    members : mapping of str to RunnerState
    known : mapping
        The workers in ``scheduler_info``, by address.
    to_come : iterable of str, default ()
        Names of runners that may still boot.
    """
    addresses = {worker["name"]: address for address, worker in known.items()}
    return {
        name: WorkerView(name, _STATUS[member.phase], addresses.get(name))
        for name, member in members.items()
    } | {name: WorkerView(name, Status.undefined) for name in to_come if name not in members}


def runners_for(
    pool: Pool, *, cores: Any = None, memory: Any = None, least: bool = True, bound: str = ""
) -> int:
    """Return the number of runners with a total number of cores, or a total memory.

    Parameters
    ----------
    pool : Pool
        Each runner has its ``memory``, and ``concurrency`` or ``cpus`` cores, whichever is larger.
    cores : int, optional
    memory : size, optional
    least : bool, default True
        Return the smallest number with at least these resources; if False, the largest number with
        at most these resources.
    bound : str, default ""
        Prefix of the option's name in errors, such as ``"minimum_"``.

    Raises
    ------
    PoolError
    """
    rounded = math.ceil if least else math.floor
    if cores is not None:
        name, given = f"{bound}cores", cores
        runners = rounded(number(name, cores) / max(pool.concurrency, int(pool.cpus or 1)))
    elif pool.memory is None:
        raise PoolError(
            "memory= counts runners by their memory, and the pool does not limit it; write "
            'Pool(memory="4 GiB"), or count runners: cluster.scale(4)'
        )
    else:
        name, given = f"{bound}memory", memory
        runners = rounded(size(name, memory) / pool.memory)
    if runners > RUNNERS:
        raise wrong(name, given, f"that of {RUNNERS:,} runners or fewer, but of {runners:,}")
    return runners


def adapt_bounds(pool: Pool, given: Mapping[str, Any]) -> dict[str, int]:
    """Convert the keywords of ``Cluster.adapt`` to ``min`` and ``max`` of a pool.

    Warn once about keywords that have no effect here.

    Raises
    ------
    PoolError
        A bound is invalid, or a keyword is unknown.
    """
    others = [n for n in given if n not in ("minimum", "maximum", *_BY_AMOUNT, *_MEANINGLESS)]
    if others:
        raise PoolError(
            f"adapt() does not take {', '.join(others)}; write cluster.adapt(minimum=0, maximum=8)"
        )
    minimum, maximum = given.get("minimum"), given.get("maximum")
    said = _said_of_keywords(given)
    if isinstance(maximum, float) and math.isinf(maximum) and maximum > 0:
        said.append(
            f"maximum=inf leaves the bound as it is, max={pool.max}; for more runners write "
            f"cluster.adapt(maximum={min(max(64, 2 * pool.max), RUNNERS)})"
        )
        maximum = None
    bounds: dict[str, int] = {}
    if minimum is not None:
        bounds["min"] = whole("minimum", minimum, 0)
    if maximum is not None:
        bounds["max"] = whole("maximum", maximum, 0)
    for kind in ("cores", "memory"):
        low, high = given.get(f"minimum_{kind}"), given.get(f"maximum_{kind}")
        if low is not None and not (isinstance(low, int | float) and low == 0):
            fewest = runners_for(pool, **{kind: low}, bound="minimum_")
            bounds["min"] = max(bounds.get("min", 0), fewest)
        if high is not None:
            most = runners_for(pool, **{kind: high}, least=False, bound="maximum_")
            bounds["max"] = min(bounds.get("max", most), most)
    _check_order(pool, bounds)
    if said:
        warnings.warn("; ".join(said), UserWarning, stacklevel=3)
    return bounds


def _said_of_keywords(given: Mapping[str, Any]) -> list[str]:
    names = [name for name in _MEANINGLESS if given.get(name) is not None]
    if not names:
        return []
    words, them = ", ".join(f"{name}=" for name in names), "it" if len(names) == 1 else "them"
    why = (
        "governs nothing here, where each change of demand is decided upon, and idle_timeout= says"
    )
    return [f"adapt({words}) {why} when a runner ends; leave {them} out"]


def _check_order(pool: Pool, bounds: Mapping[str, int]) -> None:
    low, high = bounds.get("min", pool.min), bounds.get("max", pool.max)
    if low > high:
        raise PoolError(
            f"minimum={low} is more than maximum={high}; "
            f"write cluster.adapt(minimum={high}, maximum={low})"
        )
