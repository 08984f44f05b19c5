"""The launch configuration of a local runner, and its display (driver)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import dask.config

from dask_flame.backends.environment import KNOWN
from dask_flame.backends.local.runner_kinds import kind
from dask_flame.backends.local.sampling_intervals import lengthen_intervals
from dask_flame.backends.redact import HIDDEN, hide, plain, scrub
from dask_flame.backends.specs import RunnerSpec
from dask_flame.core.process_settings import import_path, main_program
from dask_flame.core.rate_limit import Limits

#: False in Dask's configuration: never end workers for their memory, and so no runners either.
_TERMINATE = "distributed.worker.memory.terminate"


def shared_config(spec: RunnerSpec, times: float, limits: Limits | None) -> dict[str, Any]:
    """Return the part of the launch configuration that alike runners share.

    Parameters
    ----------
    spec : RunnerSpec
    times : float
        Factor by which runners lengthen the intervals between measurements.
    limits : Limits or None
        Limits for the output of calls; None: do not mark it for display.
    """
    return {
        **spec.launch_config(local=True),
        "config": lengthen_intervals(spec.config, times),
        "rarely": times,
        "path": import_path(),
        "cwd": spec.cwd,
        "main": main_program(),
        "host": "127.0.0.1",
        "limit": None if dask.config.get(_TERMINATE, True) is False else spec.memory,
        "prints": limits and asdict(limits),
    }


def displayed(
    spec: RunnerSpec, own: Mapping[str, str], times: float, limits: Limits | None = None
) -> dict[str, Any]:
    """Return the whole configuration of a runner, without secrets, as plain data for YAML.

    The environment is the driver's, with the variables of the pool and of Dask. Only a few values
    are shown, and none of Dask's configuration, because they may contain anything.

    Parameters
    ----------
    spec : RunnerSpec
    own : mapping of str to str
        Variables of this runner only.
    times : float
        See :func:`shared_config`.
    limits : Limits or None
        See :func:`shared_config`.
    """
    what = kind(spec)
    launch_config = shared_config(spec, times, limits)
    for packages in (what["packages"], launch_config["packages"]):
        if packages.get("install"):  # requirements may hold credentials
            packages["install"] = [wanted["name"] for wanted in packages["install"]]
    shown = (KNOWN - {*what.pop("own")}) | {*own}
    launch_config["config"] = HIDDEN
    launch_config["security"] = hide(launch_config["security"])
    launch_config["setup"] = launch_config["setup"] and hide(
        launch_config["setup"], shown={"name", "python"}
    )
    environment = dict(sorted({**what["env"], **own}.items()))
    shape = {
        "kind": "Runner",
        "metadata": {"name": spec.name},
        "spec": {**what, "env": hide(environment, shown=shown), "launch_config": launch_config},
    }
    clean: dict[str, Any] = scrub(plain(shape), spec.secret_values)
    return clean
