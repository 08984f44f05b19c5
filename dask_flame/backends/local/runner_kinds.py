"""The kinds of local runners; all runners of a kind are forked from one template (driver)."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import sys
from collections.abc import Iterable
from typing import Any

from dask_flame.backends.environment import DASHBOARD_TOKEN, threads, usual_environment
from dask_flame.backends.local.options import LocalOptions
from dask_flame.backends.specs import RunnerSpec
from dask_flame.core.process_settings import HASH_SEED, import_path
from dask_flame.runner.devices import VISIBLE


class RunnerKinds:
    """The kinds of runners in use, one for each pool.

    A kind is an environment, the modules to import first, and their search path, all as they are
    in the driver at the moment: a pool's kind changes with the environment.
    """

    def __init__(self) -> None:
        self._of: dict[str, str] = {}  # by pool
        self._messages: dict[str, dict[str, Any]] = {}
        # The supervisor's command line has a key, which must not let others test what they guess
        # of the environment.
        self._salt = secrets.token_bytes(16)

    def all(self) -> Iterable[dict[str, Any]]:
        """Return the messages for a new supervisor."""
        return self._messages.values()

    def first(self) -> dict[str, Any] | None:
        """Return the first of :meth:`all`, if the supervisor may start with its environment.

        It may not if the pool sets variables to other values than this process has: they are meant
        for runners, and could affect the supervisor.
        """
        first = next(iter(self._messages.values()), None)
        if first is None or not first["fork"]:
            return None
        inherited = all(os.environ.get(name) == first["env"][name] for name in first["own"])
        return first if inherited else None

    def of(self, spec: RunnerSpec) -> tuple[str, list[dict[str, Any]]]:
        """Return the key of a runner's kind, and the messages to send to the supervisor first."""
        what = kind(spec)
        plain = json.dumps(what, sort_keys=True).encode()
        key = hashlib.blake2b(plain, key=self._salt, digest_size=32).hexdigest()
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
    """Return the message that describes runners like this one to a supervisor."""
    # Installed before Dask is imported, which may be among them.
    names = ("install", "exact") if spec.packages.get("install") else ()
    packages = {name: spec.packages.get(name) for name in names}
    return {
        "env": _environment(spec),
        "own": sorted(spec.variables),
        "preload": list(spec.preload),
        # Without preloaded modules and packages the path does not matter, and may change.
        "path": import_path() if spec.preload or packages else [],
        "cwd": spec.cwd if spec.preload or packages else None,
        "packages": packages,
        "flags": list(spec.flags),
        "fork": LocalOptions.setting("fork") and sys.platform == "linux",
    }


def _environment(spec: RunnerSpec) -> dict[str, str]:
    # Leave out the driver's folder for temporary files, as each runner has its own, the driver's
    # GPUs, if the runner is given its own, and the token of the dashboard.
    kept = {"TMPDIR", DASHBOARD_TOKEN, VISIBLE} if spec.gpus else {"TMPDIR", DASHBOARD_TOKEN}
    inherited = {k: v for k, v in os.environ.items() if k not in kept}
    if sys.flags.ignore_environment:
        # Option -E would also ignore the hash seed of runners.
        inherited = {k: v for k, v in inherited.items() if not k.startswith("PYTHON")}
    if inherited.get(HASH_SEED) == "random":
        del inherited[HASH_SEED]  # as if unset: all runners need the same seed
    return {**usual_environment(spec), **inherited, **threads(spec), **spec.variables}
