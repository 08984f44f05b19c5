"""What a remote scheduler is started with (driver)."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

from distributed.protocol import pickle

from dask_flame.backends.specs import SchedulerSpec
from dask_flame.core import config, python_versions
from dask_flame.core.connection import ConnectionInfo
from dask_flame.core.option_checks import cpus, seconds, size
from dask_flame.driver.certificates import inlined
from dask_flame.driver.hosts.base import HostParts
from dask_flame.driver.launch import settings, with_dashboard_token
from dask_flame.packages.imported import core_versions


def launch_config(
    parts: HostParts, connection: ConnectionInfo, *, driver: str, silence: float
) -> dict[str, Any]:
    """Return the configuration of the scheduler's process; it holds private keys.

    Parameters
    ----------
    parts : HostParts
    connection : ConnectionInfo
    driver : str
        The id of this driver.
    silence : float
        Seconds without a message after which a connection counts as lost.
    """
    proof = hashlib.sha256(connection.proof.encode()).hexdigest()
    return {
        "grace": parts.disconnect_grace,
        "silence": silence,
        "security": inlined(parts.security),
        # A file that only this pod reads, of which nothing is shown.
        "config": with_dashboard_token(settings(), parts.dashboard_token),
        "listening": {"port": connection.port},
        "python": python_versions.here(),
        "place": parts.backend.scheduler_place_word,
        "packages": {} if parts.packages is None else core_versions(),
        "cluster": _options(parts, connection),
        "driver": {"id": driver, "proof": proof},
    }


def _options(parts: HostParts, connection: ConnectionInfo) -> str:
    """Return the arguments of the FlameCluster in the scheduler's process, as text."""
    has_dashboard = parts.dashboard_address is not None
    port = connection.dashboard_port
    options = {
        "pools": {name: pool.abridged for name, pool in parts.fleets.policies.items()},
        "scheduler": "driver",
        "name": parts.name,
        "disconnect_grace": parts.disconnect_grace,
        "max_lifetime": parts.max_lifetime,
        "home_limit": parts.home_limit,
        "budget": parts.fleets.budget,
        "packages": "ignore" if parts.packages is None else "check",
        "dashboard_address": f"127.0.0.1:{port}" if has_dashboard else None,
    }
    return base64.b64encode(pickle.dumps(options)).decode()


def scheduler_spec(
    parts: HostParts, connection: ConnectionInfo, launch_config: dict[str, Any]
) -> SchedulerSpec:
    """Return what the backend needs to know to start the scheduler, or to find it.

    Raises
    ------
    PoolError
        A setting is wrong.
    """
    fleets = parts.fleets
    first = fleets.policies[fleets.default]
    return SchedulerSpec(
        launch_config=launch_config,
        options={**first.options, **first.kinds[0].options},
        timeout=seconds("scheduler.timeout", config.get("scheduler.timeout")),
        cpus=cpus("scheduler.cpus", config.get("scheduler.cpus")),
        memory=size("scheduler.memory", config.get("scheduler.memory")),
        template=config.get("scheduler.pod-template"),
        service=connection.service,
        port=connection.port,
        connection=connection,
    )
