"""The ranges in which numbers make sense: what is beyond them is a slip, or an attack (all)."""

from __future__ import annotations

from collections.abc import Mapping

#: Runners that one pool may have; a scheduler of Dask does not keep up with more.
RUNNERS = 10_000
#: Seconds, and bytes.
LONGEST, LARGEST = 100 * 365.25 * 86_400.0, 2**50
#: By option: the largest number.
_MOST: dict[str, float] = {
    **dict.fromkeys(("min", "max", "minimum", "maximum", "n", "n_workers", "spare"), RUNNERS),
    "concurrency": 10_000,
    "boot_attempts": 1_000_000,
    "cpus": 4_096,
    "gpus": 1_024,
    "port": 65_535,
    "dashboard_port": 65_535,
    "silence_logs": 100,
}
_MOST_ELSE = 10**9
#: By option: the shortest duration, in seconds, where less cannot be meant.
_SHORTEST = {"max_lifetime": 1.0}
#: By option: the least number of bytes. A runner alone takes about 50 MB.
_LEAST_SIZE = {"memory": 64 * 2**20, "flame.home.memory": 2**16}
_LEAST_SIZE_ELSE = 2**16


def option(name: str) -> str:
    """The option that a setting is the default of: ``flame.pool.idle-timeout``, ``idle_timeout``.

    An option is its own.
    """
    return name.rpartition(".")[2].replace("-", "_")


def most(name: str) -> float:
    """The largest number for an option or a setting."""
    return _found(_MOST, name, _MOST_ELSE)


def shortest(name: str) -> float:
    """The shortest duration for it, in seconds."""
    return _found(_SHORTEST, name, 0.0)


def least_size(name: str) -> int:
    """The smallest size for it, in bytes."""
    return int(_found(_LEAST_SIZE, name, _LEAST_SIZE_ELSE))


def _found(table: Mapping[str, float], name: str, otherwise: float) -> float:
    return table.get(name, table.get(option(name), otherwise))
