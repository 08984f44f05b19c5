"""What local runners have in common, so that they can be forked from one template (driver)."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable
from typing import Any

from dask_flame.backends.base import RunnerSpec
from dask_flame.backends.environment import threads, usual_environment
from dask_flame.backends.local.options import LocalOptions
from dask_flame.core.process_settings import HASH_SEED, import_path
from dask_flame.errors import BackendError
from dask_flame.runner.devices import VISIBLE


class RunnerKinds:
    """The kinds of runners that are asked for, one for each pool.

    A kind is an environment, the modules to import first, and where they are found. All are what
    they are in the driver now: a pool's kind is another one after a change of the environment.
    """

    def __init__(self) -> None:
        self._of: dict[str, str] = {}  # by pool
        self._messages: dict[str, dict[str, Any]] = {}

    def all(self) -> Iterable[dict[str, Any]]:
        """What a guard is to be told that has just been started."""
        return self._messages.values()

    def first(self) -> dict[str, Any] | None:
        """The first of :meth:`all`, if a guard may be started with its environment.

        Not if the pool has named variables: what they do to its runners, they need not do to the
        guard.
        """
        first = next(iter(self._messages.values()), None)
        return first if first is not None and first["fork"] and not first["own"] else None

    def of(self, spec: RunnerSpec) -> tuple[str, list[dict[str, Any]]]:
        """A runner's kind, and what the guard has to be told first."""
        what = kind(spec)
        key = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
        before = self._of.get(spec.pool)
        self._of[spec.pool] = key
        news: list[dict[str, Any]] = []
        if key not in self._messages:
            self._messages[key] = {"op": "kind", "key": key, **what}
            news.append(self._messages[key])
        if before is not None and before not in self._of.values():
            del self._messages[before]
            news.append({"op": "forget", "key": before})
        return key, news


def kind(spec: RunnerSpec) -> dict[str, Any]:
    """What a guard is told of runners like this one before the first of them."""
    return {
        "env": _environment(spec),
        "own": sorted({**spec.env, **_secrets(spec)}),
        "preload": list(spec.preload),
        # Without modules of the user's own it does not matter, and may change.
        "path": import_path() if spec.preload else [],
        "cwd": spec.cwd if spec.preload else None,
        "flags": list(spec.flags),
        "fork": LocalOptions.setting("fork") and sys.platform == "linux",
    }


def _environment(spec: RunnerSpec) -> dict[str, str]:
    # Without the driver's own folder for temporary files: a runner has one that goes with it. Nor
    # with the driver's GPUs, where it has been given its own.
    kept = {"TMPDIR", VISIBLE} if spec.gpus else {"TMPDIR"}
    inherited = {k: v for k, v in os.environ.items() if k not in kept}
    if sys.flags.ignore_environment:
        # Not by -E, which would ignore the hash seed of runners as well.
        inherited = {k: v for k, v in inherited.items() if not k.startswith("PYTHON")}
    if inherited.get(HASH_SEED) == "random":
        del inherited[HASH_SEED]  # as if it were not set: all runners are to have the same
    own = {**spec.env, **_secrets(spec)}
    return {**usual_environment(spec), **inherited, **threads(spec), **own}


def _secrets(spec: RunnerSpec) -> dict[str, str]:
    """Variables that are kept secret elsewhere; here, others of this user may see any variable."""
    secrets = spec.options.get("secrets") or {}
    for name, value in secrets.items():
        if not isinstance(value, str):
            raise BackendError(
                f"secrets: {name} is kept in Kubernetes, where local runners cannot read it; write "
                f'secrets={{"{name}": os.environ["{name}"]}}'
            )
    return dict(secrets)
