"""What a local runner is told, and how that is shown (driver)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import dask.config

from dask_flame.backends.base import RunnerSpec
from dask_flame.backends.environment import KNOWN
from dask_flame.backends.local.sampling_intervals import measure_less
from dask_flame.backends.local.templates import kind
from dask_flame.backends.redact import HIDDEN, hide, plain
from dask_flame.core.process_settings import import_path, main_program
from dask_flame.prints.rate_limit import Limits

#: Where it is False, Dask is not to end workers for their memory; nor are runners ended then.
_TERMINATE = "distributed.worker.memory.terminate"


def told(spec: RunnerSpec, times: float, limits: Limits | None) -> dict[str, Any]:
    """What runners like this one are told, each beside its name and folder.

    They measure their calls so many times as rarely as Dask's settings say, and mark what these
    print, as much of it as is to be shown.
    """
    return {
        **spec.launch_config(local=True),
        "config": measure_less(spec.config, times),
        "rarely": times,
        "path": import_path(),
        "cwd": spec.cwd,
        "main": main_program(),
        "host": "127.0.0.1",
        "limit": None if dask.config.get(_TERMINATE, True) is False else spec.memory,
        "prints": limits and asdict(limits),
    }


def runner(
    spec: RunnerSpec, own: Mapping[str, str], times: float, limits: Limits | None = None
) -> dict[str, Any]:
    """All that is said of a runner, without its secrets: as an object of YAML.

    Its environment is the driver's, with what the pool and Dask add. What is in a variable is shown
    of few, and of Dask's configuration, which may hold anything, nothing.

    Parameters
    ----------
    spec : RunnerSpec
    own : mapping of str to str
        Variables of this runner alone.
    times : float
    limits : Limits or None
    """
    what = kind(spec)
    orders = told(spec, times, limits)
    shown = (KNOWN - {*what.pop("own")}) | {*own}
    orders["config"] = HIDDEN
    orders["security"] = hide(orders["security"])
    environment = dict(sorted({**what["env"], **own}.items()))
    return plain(
        {
            "kind": "Runner",
            "metadata": {"name": spec.name},
            "spec": {**what, "env": hide(environment, shown=shown), "orders": orders},
        }
    )
