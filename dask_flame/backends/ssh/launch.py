"""What an agent is told of runners: their kind, and their launch configuration (driver)."""

from __future__ import annotations

import hashlib
import json
import secrets
from typing import Any

import dask.config

from dask_flame.backends.environment import threads, usual_environment
from dask_flame.backends.redact import HIDDEN, hide, plain, scrub
from dask_flame.backends.specs import RunnerSpec
from dask_flame.backends.ssh.claims import Capacity, Need
from dask_flame.backends.ssh.hosts import HostSpec

#: Dask's pages of a worker, which need no certificate, would be open to other users of the host.
_NO_PAGES: dict[str, Any] = {"distributed": {"worker": {"http": {"routes": []}}}}
#: Imported by runners before they connect, for the scheme of their addresses.
COMM = "dask_flame.backends.ssh.comm"


class Kinds:
    """The keys of kinds of runners: each kind is forked from one process of a host."""

    def __init__(self) -> None:
        # The command line of a supervisor has a key, which must not let others test what they
        # guess of the environment.
        self._salt = secrets.token_bytes(16)

    def of(self, spec: RunnerSpec) -> dict[str, Any]:
        """Return the message that describes runners like this one, with its key."""
        what = kind(spec)
        words = json.dumps(what, sort_keys=True).encode()
        key = hashlib.blake2b(words, key=self._salt, digest_size=32).hexdigest()
        return {"op": "kind", "key": key, **what}


def kind(spec: RunnerSpec) -> dict[str, Any]:
    """Return what runners like this one have in common; a host adds its own environment."""
    # Installed before Dask is imported, which may be among them.
    names = ("install", "exact") if spec.packages.get("install") else ()
    usual = usual_environment(spec)
    return {
        "usual": usual,
        "variables": {**threads(spec), **spec.variables},
        "gpus": bool(spec.gpus),
        "preload": [COMM, *spec.preload],
        "path": [],
        "cwd": None,
        "packages": {name: spec.packages.get(name) for name in names},
        "flags": list(spec.flags),
        "fork": True,
    }


def launch_config(spec: RunnerSpec, *, scheduler: str, host: str | None) -> dict[str, Any]:
    """Return the launch configuration of a runner, without what its agent adds.

    Parameters
    ----------
    spec : RunnerSpec
    scheduler : str
        The scheduler's address for this host.
    host : str or None
        Where the runner listens.
    """
    return {
        **spec.launch_config(local=False),
        "scheduler": scheduler,
        "host": host,
        "config": dask.config.merge(spec.config, _NO_PAGES),
        "preload": [COMM, *spec.preload],
        # In a folder of its own, which is removed with it.
        "cwd": None,
        "limit": spec.memory,
        "prints": None,
    }


def need(spec: RunnerSpec, host: HostSpec, capacity: Capacity) -> Need:
    """Return the share of a host that a runner takes.

    Without ``cpus=``, it takes a core for each call that it runs at a time; on a host with
    ``"slots"``, one of these.
    """
    if spec.cpus is not None:
        cpus = float(spec.cpus)
    else:
        cpus = 0.0 if host.slots is not None else min(float(spec.concurrency), capacity.cpus)
    return Need(cpus=cpus, memory=spec.memory or 0, gpus=spec.gpus)


def shown(spec: RunnerSpec, hosts: list[str]) -> dict[str, Any]:
    """Return what an agent would be told of a runner, without secrets, as plain data for YAML."""
    what = kind(spec)
    config = launch_config(spec, scheduler=spec.scheduler, host=None)
    for packages in (what["packages"], config["packages"]):
        if packages.get("install"):  # requirements may hold credentials
            packages["install"] = [wanted["name"] for wanted in packages["install"]]
    config["config"] = HIDDEN
    config["security"] = hide(config["security"])
    config["setup"] = config["setup"] and hide(config["setup"], shown={"name", "python"})
    for part in ("usual", "variables"):
        what[part] = hide(dict(sorted(what[part].items())), shown=frozenset())
    shape = {
        "kind": "Runner",
        "metadata": {"name": spec.name},
        "spec": {**what, "hosts": hosts, "launch_config": config},
    }
    clean: dict[str, Any] = scrub(plain(shape), spec.secret_values)
    return clean
