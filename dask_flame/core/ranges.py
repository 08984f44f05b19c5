"""Valid ranges of numeric options; values outside are mistakes, or attacks (all places)."""

from __future__ import annotations

from collections.abc import Mapping

#: Maximum number of runners in a pool; Dask's scheduler does not keep up with more.
RUNNERS = 10_000
#: Maximum duration in seconds, and maximum size in bytes.
LONGEST, LARGEST = 100 * 365.25 * 86_400.0, 2**50
#: Maximum by option.
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
#: Minimum duration by option, in seconds.
_SHORTEST = {"max_lifetime": 1.0}
#: Minimum number of bytes by option. A runner alone takes about 50 MB.
_LEAST_SIZE = {"memory": 64 * 2**20, "flame.home.memory": 2**16, "inline_result": 0}
_LEAST_SIZE_ELSE = 2**16
#: Maximum number of bytes by option. Messages with larger results would delay others.
_LARGEST = {"inline_result": 2**20}


def option(name: str) -> str:
    """Return the option whose default a setting is: ``flame.pool.idle-timeout``, ``idle_timeout``.

    An option's name is returned unchanged.
    """
    return name.rpartition(".")[2].replace("-", "_")


def most(name: str) -> float:
    """Return the maximum for an option or a setting."""
    return _found(_MOST, name, _MOST_ELSE)


def shortest(name: str) -> float:
    """Return the minimum duration for an option or a setting, in seconds."""
    return _found(_SHORTEST, name, 0.0)


def least_size(name: str) -> int:
    """Return the minimum size for an option or a setting, in bytes."""
    return int(_found(_LEAST_SIZE, name, _LEAST_SIZE_ELSE))


def largest_size(name: str) -> int:
    """Return the maximum size for an option or a setting, in bytes."""
    return int(_found(_LARGEST, name, LARGEST))


def _found(table: Mapping[str, float], name: str, otherwise: float) -> float:
    return table.get(name, table.get(option(name), otherwise))
