"""What the configuration says of prints (driver)."""

from __future__ import annotations

from dask_flame import config
from dask_flame.checks import number, whole
from dask_flame.prints.bucket import Limits


def shown() -> bool:
    """Whether what calls print is shown."""
    # The name that it had before, where somebody has written that.
    echo = config.get("local.echo")
    return bool(config.get("prints.show") if echo is None else echo)


def limits() -> Limits:
    """How much of it is shown.

    Raises
    ------
    PoolError
        If a setting is wrong.
    """
    return Limits(
        burst=whole("prints.burst", config.get("prints.burst"), 1),
        rate=number("prints.rate", config.get("prints.rate")),
        total_burst=whole("prints.total_burst", config.get("prints.total-burst"), 1),
        total_rate=number("prints.total_rate", config.get("prints.total-rate")),
    )
