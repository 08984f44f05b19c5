"""The backend of joblib that :mod:`dask_flame.core.joblib_hook` registers (driver, runner)."""

from __future__ import annotations

from typing import Any

import dask
from distributed import get_worker

# Private, and where joblib keeps its backend for Dask.
from joblib._dask import DaskDistributedBackend

from dask_flame.core.capacity import capacity
from dask_flame.core.joblib_hook import backend

#: Minimum number of jobs in the driver: with a single one, joblib runs them locally.
_SENT = 2


class FlameBackend(DaskDistributedBackend):
    """joblib's backend for Dask, with the number of slots that a pool can have.

    The pool is the one that takes the calls. On schedulers other than dask-flame's it behaves as
    joblib's own.
    """

    def __init__(self, *, nesting_level: int | None = None, **options: Any) -> None:
        # joblib's own passes the level of `Parallel(backend="dask")` on as an option of the calls.
        super().__init__(**options)
        self.nesting_level = nesting_level

    def effective_n_jobs(self, n_jobs: int) -> int:
        if "workers" in self.submit_kwargs:
            return int(super().effective_n_jobs(n_jobs))
        slots = capacity(
            self.client,
            pool=dask.get_annotations().get("pool"),
            resources=self.submit_kwargs.get("resources"),
        )
        if slots is None:
            return int(super().effective_n_jobs(n_jobs))
        return max(slots, 1 if _in_call() else _SENT)

    def get_nested_backend(self) -> tuple[Any, int]:
        return backend(client=self.client), -1

    def __reduce__(self) -> tuple[Any, ...]:
        return backend, ()


def _in_call() -> bool:
    try:
        get_worker()
    except ValueError:
        return False
    return True
