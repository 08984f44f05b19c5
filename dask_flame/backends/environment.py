"""The environment variables that Dask sets for its workers (driver)."""

from __future__ import annotations

import dask.config

from dask_flame.backends.specs import RunnerSpec
from dask_flame.core.process_settings import HASH_SEED

_OMP = "OMP_NUM_THREADS"
_THREADS = (
    _OMP,
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
#: The variable of a setting that only the driver needs: ``flame.dashboard.token``.
DASHBOARD_TOKEN = "DASK_FLAME__DASHBOARD__TOKEN"
#: Variables whose values are not secret, unless a pool or a template sets them.
KNOWN = frozenset({*_THREADS, "MALLOC_TRIM_THRESHOLD_", HASH_SEED})


def usual_environment(spec: RunnerSpec) -> dict[str, str]:
    """Return variables for a runner: Dask's settings, and the numbers of threads of libraries.

    As for distributed's own workers, settings of null are ignored, and ``environ`` overrides
    ``pre-spawn-environ``, although both apply before the start of a runner.
    """
    usual: dict[str, str] = {}
    for setting in ("pre-spawn-environ", "environ"):
        given = dask.config.get(f"distributed.nanny.{setting}", default=None) or {}
        usual |= {name: str(value) for name, value in given.items() if value is not None}
    seed = {HASH_SEED: spec.hash_seed} if spec.hash_seed else {}
    return {**seed, **usual, **threads(spec)}


def threads(spec: RunnerSpec) -> dict[str, str]:
    """Return variables with the number of threads of numerical libraries in each call.

    It is the share of the pool's cpus of one of its concurrent calls. Fractions are rounded down,
    because the substrate would throttle another thread; the minimum is 1. A pool's own
    ``OMP_NUM_THREADS`` applies to all libraries, as the variables of the others override it.
    Without either, none are returned.
    """
    number, _, _ = spec.variables.get(_OMP, "").partition(",")  # one for each level of nesting
    if number.isdecimal():
        return dict.fromkeys(_THREADS, number)
    if spec.cpus is None:
        return {}
    return dict.fromkeys(_THREADS, str(max(1, int(spec.cpus // spec.concurrency))))
