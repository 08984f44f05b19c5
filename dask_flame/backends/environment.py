"""The environment variables that Dask sets for its workers (driver)."""

from __future__ import annotations

import dask.config

from dask_flame.backends.base import RunnerSpec

_THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
#: Variables whose values are no secret, where neither a pool nor a template sets them.
KNOWN = frozenset({*_THREADS, "MALLOC_TRIM_THRESHOLD_"})


def usual_environment(spec: RunnerSpec) -> dict[str, str]:
    """Variables for a runner: Dask's own, and how many threads its libraries may use."""
    usual = dask.config.get("distributed.nanny.pre-spawn-environ", default=None) or {}
    return {**{k: str(v) for k, v in usual.items()}, **threads(spec)}


def threads(spec: RunnerSpec) -> dict[str, str]:
    """Variables that say how many threads numerical libraries may use, where the pool does."""
    return {} if spec.cpus is None else dict.fromkeys(_THREADS, str(spec.cpus))
