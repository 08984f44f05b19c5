"""The environment variables that Dask sets for its workers (driver)."""

from __future__ import annotations

import dask.config

from dask_flame.backends.base import RunnerSpec
from dask_flame.core.process_settings import HASH_SEED

_THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
#: Variables whose values are no secret, where neither a pool nor a template sets them.
KNOWN = frozenset({*_THREADS, "MALLOC_TRIM_THRESHOLD_", HASH_SEED})


def usual_environment(spec: RunnerSpec) -> dict[str, str]:
    """Variables for a runner: Dask's own, and how many threads its libraries may use.

    As for distributed's own workers: what is set to null is left out, and ``environ`` wins over
    ``pre-spawn-environ``, which for a runner are the same moment.
    """
    usual: dict[str, str] = {}
    for setting in ("pre-spawn-environ", "environ"):
        given = dask.config.get(f"distributed.nanny.{setting}", default=None) or {}
        usual |= {name: str(value) for name, value in given.items() if value is not None}
    seed = {HASH_SEED: spec.hash_seed} if spec.hash_seed else {}
    return {**seed, **usual, **threads(spec)}


def threads(spec: RunnerSpec) -> dict[str, str]:
    """Variables that say how many threads numerical libraries may use, where the pool does.

    One at least; of a fraction beyond it there is none, as the substrate would slow all down.
    """
    return {} if spec.cpus is None else dict.fromkeys(_THREADS, str(max(1, int(spec.cpus))))
