"""The options of a cluster, as its driver leaves them to the next one (driver)."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from distributed.protocol.pickle import dumps

from dask_flame._version import __version__
from dask_flame.core.packages_option import PackagesOption
from dask_flame.core.pool import Pool
from dask_flame.core.variables import with_own_values
from dask_flame.driver.fleets import PoolFleets
from dask_flame.errors import BackendError
from dask_flame.files.driver.cluster_files import ClusterFiles

#: Options of a pool that are functions of the driver, and need not be left to another one.
_CALLBACKS = ("on_grow", "on_shrink")


@dataclass(frozen=True, kw_only=True)
class Given:
    """Options of a cluster that it does not need after its start.

    Attributes
    ----------
    code : bool or sequence
    packages : PackagesOption
    """

    code: Any
    packages: PackagesOption


class Leaving(Protocol):
    """The cluster whose options are left to another driver."""

    fleets: PoolFleets
    disconnect_grace: float
    max_lifetime: float | None
    home_limit: int
    dashboard_address: str | None
    _dashboard_token: str | None
    _hash_seed: str
    _given: Given
    _files: ClusterFiles

    @property
    def name(self) -> str: ...


@dataclass(frozen=True, kw_only=True)
class Handover:
    """What the next driver of a cluster needs.

    Attributes
    ----------
    options : mapping
        Keyword arguments of :class:`dask_flame.FlameCluster`.
    token : str or None
        The token of the dashboard.
    hash_seed : str
    files : mapping
        The plan of the files that runners fetch from the scheduler.
    """

    options: Mapping[str, Any]
    token: str | None
    hash_seed: str
    files: Mapping[str, Any]


def packed(cluster: Leaving) -> bytes:
    """Return what another process needs to become the driver of a cluster, pickled.

    Raises
    ------
    Exception
        A part of it cannot be pickled.
    """
    values = {
        "version": __version__,
        "pools": {name: _packed(pool) for name, pool in cluster.fleets.policies.items()},
        "code": _packed_code(cluster._given.code),
        "token": cluster._dashboard_token,
        "hash_seed": cluster._hash_seed,
        "files": dict(cluster._files.plan),
        "options": {
            "name": cluster.name,
            "disconnect_grace": cluster.disconnect_grace,
            "max_lifetime": cluster.max_lifetime,
            "home_limit": cluster.home_limit,
            "budget": cluster.fleets.budget,
            "packages": cluster._given.packages,
            "dashboard_address": cluster.dashboard_address,
        },
    }
    content: bytes = dumps(values)
    return content


def _packed(pool: Pool) -> bytes:
    # The next driver may have other environment variables.
    own = {
        name: {**values, **with_own_values(name, values, partly=True)}
        for name in ("env", "secrets")
        if None in (values := getattr(pool, name)).values()
    }
    pool = pool.replace(**own) if own else pool
    try:
        whole: bytes = dumps(pool)
    except Exception:
        # They may use a widget, a file or a lock of this process.
        whole = dumps(pool.replace(**dict.fromkeys(_CALLBACKS)))
    return whole


def _packed_code(code: Any) -> bytes:
    try:
        choice: bytes = dumps(code)
    except Exception:
        choice = dumps(True)
    return choice


def unpacked(content: bytes) -> Handover:
    """Return what :func:`packed` has pickled.

    Raises
    ------
    BackendError
        It cannot be used in this process.
    """
    values = pickle.loads(content)
    if values["version"] != __version__:
        raise BackendError(
            f"its driver had dask-flame {values['version']}, and this process has {__version__}; "
            f"type: pip install dask-flame=={values['version']}"
        )
    pools = {name: _unpacked(name, pool) for name, pool in values["pools"].items()}
    try:
        code = pickle.loads(values["code"])
    except Exception:
        code = True
    return Handover(
        options={**values["options"], "pools": pools, "code": code},
        token=values["token"],
        hash_seed=values["hash_seed"],
        files=values["files"],
    )


def _unpacked(name: str, content: bytes) -> Pool:
    try:
        pool: Pool = pickle.loads(content)
    except Exception as error:
        raise BackendError(
            f"the pool {name!r} uses what this process does not have: {type(error).__name__}: "
            f"{error}; start it in the folder, and with the modules, of the driver before"
        ) from error
    return pool
