"""Configuration of prints (driver)."""

from __future__ import annotations

from dask_flame.core import config
from dask_flame.core.rate_limit import Limits
from dask_flame.core.settings import configured


def shown() -> bool:
    """Return whether to show the output of calls."""
    # `local.echo` is the former name of the setting.
    echo = config.get("local.echo")
    return bool(config.get("prints.show") if echo is None else echo)


def limits() -> Limits:
    """Return the configured maximum number of lines.

    Raises
    ------
    PoolError
        A setting is not valid.
    """
    return Limits(
        burst=configured("prints.burst"),
        rate=configured("prints.rate"),
        total_burst=configured("prints.total-burst"),
        total_rate=configured("prints.total-rate"),
    )
