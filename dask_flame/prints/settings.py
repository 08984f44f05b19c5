"""What the configuration says of prints (driver)."""

from __future__ import annotations

from dask_flame.core import config
from dask_flame.core.settings import configured
from dask_flame.prints.rate_limit import Limits


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
        burst=configured("prints.burst"),
        rate=configured("prints.rate"),
        total_burst=configured("prints.total-burst"),
        total_rate=configured("prints.total-rate"),
    )
