"""The bounds of a pool whose control loop runs beside a remote scheduler (driver)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from dask_flame.core.pool import Pool
from dask_flame.history.state import Sample


class RemoteBounds:
    """The bounds of the default pool, in place of an Adaptive, which runs beside the scheduler.

    Parameters
    ----------
    policy : Pool
        Policy of the default pool.
    fix : callable
        Stops following demand in that pool.
    """

    def __init__(self, policy: Pool, fix: Callable[[], None]) -> None:
        self._fix = fix
        self.minimum, self.maximum = policy.min, policy.max
        #: Empty: the dashboard's page shows the history, and the scheduler serves it.
        self.history: dict[str, list[Sample]] = defaultdict(list)

    def stop(self, reason: str = "unknown") -> None:
        """Stop following demand, as :meth:`FlameAdaptive.stop` does."""
        self._fix()
