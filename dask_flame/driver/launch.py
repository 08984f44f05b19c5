"""Build the launch specifications of runners (driver)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import dask.config
from distributed import Security

from dask_flame.backends.specs import RunnerSpec
from dask_flame.core.backend_options import BackendOptions, configuring, knowing, secret_settings
from dask_flame.core.launch_config import Packages
from dask_flame.core.options import Check
from dask_flame.core.pool import Pool, why_left_out
from dask_flame.core.process_settings import interpreter_flags, working_directory
from dask_flame.core.redaction import hide
from dask_flame.core.settings import configured
from dask_flame.core.setup_function import setup_config
from dask_flame.core.variables import Secret, with_own_values
from dask_flame.driver.certificates import temporary_security
from dask_flame.errors import PoolError


def runner_spec(
    name: str,
    pool: Pool,
    *,
    of: str,
    scheduler: str,
    security: Security,
    hash_seed: str = "",
    expected: bool = False,
    files: Mapping[str, Any] = MappingProxyType({}),
    packages: Packages | None = None,
) -> RunnerSpec:
    """Return the launch specification of one runner, of the pool's preferred kind.

    Parameters
    ----------
    name : str
        Name of the runner.
    pool : Pool
    of : str
        Name of the pool.
    scheduler : str
        Address of the scheduler.
    security : distributed.Security
        Security of the cluster; a runner receives the worker's keys and certificates.
    hash_seed : str, default ""
        Value of ``PYTHONHASHSEED`` in this cluster.
    expected : bool, default False
        Whether the runner is not requested yet. Variables that the driver lacks are then left out.
    files : mapping, optional
        See :attr:`RunnerSpec.files`.
    packages : Packages, optional
        Packages to compare and to install.

    Raises
    ------
    PoolError
        The pool's ``setup`` cannot be pickled any more, or the driver lacks a variable whose value
        it should give.
    """
    env = {name: value for name, value in pool.env.items() if value is not None}
    own: dict[str, Secret] = {name: None for name, value in pool.env.items() if value is None}
    secrets = {
        **with_own_values("env", own, partly=expected),
        **with_own_values("secrets", pool.secrets, partly=expected),
    }
    spec = RunnerSpec(
        name=name,
        scheduler=scheduler,
        concurrency=pool.concurrency,
        boot_timeout=pool.boot_timeout,
        pool=of,
        shutdown_timeout=pool.shutdown_timeout,
        cpus=pool.cpus,
        gpus=pool.gpus,
        resources=pool.offers,
        memory=pool.memory,
        env=env,
        secrets=secrets,
        preload=pool.preload,
        setup=None if pool.setup is None else setup_config(pool.setup),
        config=settings(),
        post_mortem=pool.post_mortem,
        security=_worker_security(security),
        flags=interpreter_flags(),
        hash_seed=hash_seed,
        cwd=working_directory(),
        files=files,
        packages=packages or {},
    )
    hide(spec.secret_values)
    return of_kind(spec, pool, "")


def of_kind(spec: RunnerSpec, pool: Pool, text: str) -> RunnerSpec:
    """Return the specification of a runner of one of the pool's kinds.

    Parameters
    ----------
    spec : RunnerSpec
    pool : Pool
    text : str
        Name of the kind. If the pool has no such kind (any more), the preferred one is used.
    """
    kinds = pool.kinds
    kind = next((kind for kind in kinds if kind.text == text), kinds[0])
    return replace(
        spec,
        options={**pool.options, **kind.options},
        kind=kind.text,
        capacity_wait=capacity_wait(pool) if len(kinds) > 1 else None,
        last_kind=kind is kinds[-1],
    )


def capacity_wait(pool: Pool) -> float:
    """Return after how many seconds of waiting for capacity another kind is asked for.

    By default this is half of the pool's ``boot_timeout``: that already says how long the nodes of
    a cluster autoscaler may take, and the other half remains for the rest of a boot.

    Raises
    ------
    PoolError
        The boot would end before.
    """
    given: float | None = configured("capacity-wait")
    if given is None:
        return pool.boot_timeout / 2
    if given >= pool.boot_timeout and len(pool.kinds) > 1:
        raise PoolError(
            f"flame.capacity-wait={given:g} s is not less than boot_timeout={pool.boot_timeout:g} "
            "s, after which a boot ends without another kind; write "
            f'boot_timeout="{2 * given:g}s"'
        )
    return given


#: Settings of ``distributed.client`` with the modules that the driver's Clients preload.
_PRELOADS = frozenset({"preload", "preload-argv", "preload_argv"})


def settings() -> dict[str, Any]:
    """Return Dask's configuration for other processes, without values that JSON cannot represent.

    The scheduler setting of a Client is omitted, as a runner has no Client until one of its calls
    needs it. A scheduler that the user has chosen, such as ``"threads"``, is kept.
    The token of the dashboard is left out, and a cluster that a call makes has one of its own. So
    are settings that backends declare as secret: with them, a runner could act as the driver.
    """
    with dask.config.config_lock:  # other threads may change it
        plain: dict[str, Any] = _plain(dask.config.config)
    if str(plain.get("scheduler")).lower() in ("dask.distributed", "distributed"):
        del plain["scheduler"]
    if isinstance(distributed := plain.get("distributed"), dict):
        client = distributed.get("client")
        if isinstance(client, dict):
            # These modules are for the driver's Clients, not for the Client of a call.
            for name in _PRELOADS & client.keys():
                del client[name]
    flame = plain.get("flame")
    for section, name in secret_settings():
        if isinstance(flame, dict) and isinstance(flame.get(section), dict):
            for spelled in {name, name.replace("-", "_")}:
                flame[section].pop(spelled, None)
    if dask.config.get("flame.dashboard.token", None, config=plain) is not None:
        return with_dashboard_token(plain, "auto")
    return plain


def with_dashboard_token(config: dict[str, Any], token: str | None) -> dict[str, Any]:
    """Return a configuration with this token, for the process that serves a dashboard."""
    own = {"flame": {"dashboard": {"token": token}}}
    merged: dict[str, Any] = dask.config.merge(config, own)
    return merged


def make_security(security: Security | bool | None, *, remote: bool = False) -> Security:
    """Return the security of a cluster: the user's, or temporary certificates.

    Parameters
    ----------
    security : distributed.Security, bool or None
    remote : bool, default False
        Whether runners are on other machines, which requires TLS.

    Raises
    ------
    PoolError
    """
    if security is True or (remote and security is None):
        return temporary_security()
    if remote and not (isinstance(security, Security) and security.require_encryption):
        raise PoolError(
            "security must have TLS where runners are on other machines; leave it out, and "
            "certificates are made for this cluster"
        )
    if security is None or security is False:
        return Security()
    if isinstance(security, Security):
        return security
    raise PoolError(
        f"security is a {type(security).__name__}, not a distributed.Security, True or False; "
        "write security=True"
    )


def _worker_security(security: Security) -> dict[str, Any]:
    if not security.require_encryption:
        return {}
    keys = ("require_encryption", "tls_ca_file", "tls_worker_key", "tls_worker_cert")
    return {key: getattr(security, key) for key in keys}


def _plain(value: Any) -> Any:
    """Return a configuration value without parts that JSON cannot represent."""
    if isinstance(value, Mapping):
        items = {str(key): _plain(item) for key, item in value.items()}
        return {key: item for key, item in items.items() if item is not _LEFT_OUT}
    if isinstance(value, list | tuple | set):
        return [item for item in map(_plain, value) if item is not _LEFT_OUT]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, timedelta):
        return f"{value.total_seconds()}s"
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return _LEFT_OUT


_LEFT_OUT = object()


def with_configured(backend: object, pools: Mapping[str, Pool]) -> dict[str, Pool]:
    """Return the pools with the options that are configured for their backend, and not given.

    Raises
    ------
    PoolError
    """
    known: type[BackendOptions] = getattr(backend, "Options", BackendOptions)
    configured = {} if known.merges else known.configured().given
    return {name: pool.with_defaults(configured) for name, pool in pools.items()}


def check_taken(backend: object, options: Mapping[str, Any], *, max: int | None = None) -> None:
    """Check the backend options of a pool.

    Parameters
    ----------
    backend : Backend or callable
    options : mapping
        Options of the pool. Options that every backend has are not checked, nor unknown ones.
    max : int, optional
        The largest number of runners, if options may depend on it.

    Raises
    ------
    PoolError
        An option belongs to another backend, or is invalid for this one.
    """
    if getattr(backend, "checked", False):
        return  # in the process of a remote scheduler
    known: type[BackendOptions] = getattr(backend, "Options", BackendOptions)
    name = getattr(backend, "name", getattr(backend, "__name__", "?"))
    taken = {}
    for option, value in options.items():
        if option in Pool.declared():
            continue
        if option in known.declared():
            taken[option] = value
            continue
        if not (others := knowing(option)):
            continue
        makers = " and ".join(other.runners() for other in others)
        backends = " or ".join(f'"{other.backend}"' for other in others)
        instead = f": {why}" if (why := why_left_out(option)) else ""
        raise PoolError(
            f"{option} is an option of {makers}, and backend={name!r} makes none; "
            f"leave it out{instead}, or write backend={backends}"
        )
    made = known(**taken)
    if max is not None:
        made.check_max(max)


def check_gpus(pool: Pool) -> None:
    """Check that a pool that names a kind of GPU has GPUs.

    Raises
    ------
    PoolError
    """
    kind = pool.options.get("gpu_kind")
    if kind is not None and not pool.gpus:
        same = list(kind) if isinstance(kind, tuple) else kind
        example = repr(same).replace("'", '"')
        raise PoolError(
            f"gpu_kind={same!r} has no effect without gpus: runners would have no GPU; write "
            f"gpus=1, gpu_kind={example}"
        )


def check_secrets(backend: object, secrets: Mapping[str, Secret]) -> None:
    """Check that the backend can give a pool's secrets to its runners.

    Parameters
    ----------
    backend : Backend or callable
    secrets : mapping

    Raises
    ------
    PoolError
    """
    name = getattr(backend, "name", getattr(backend, "__name__", "?"))
    for variable, value in secrets.items():
        if isinstance(value, Mapping) and not getattr(backend, "holds_secrets", False):
            raise PoolError(
                f"secrets: {variable} is kept in Kubernetes, where runners of backend={name!r} "
                f'cannot read it; write secrets={{"{variable}": os.environ["{variable}"]}}, or '
                f'secrets=["{variable}"] for the value that this process has'
            )


def places_for(backend: object, **given: str | None) -> dict[str, str]:
    """Return the location options of a backend, from arguments or the configuration.

    Parameters
    ----------
    backend : Backend or callable
    **given : str or None
        ``namespace`` and ``context``; None means that the argument was not given.

    Raises
    ------
    PoolError
        An option is invalid, or the backend does not have it.
    """
    takes: Mapping[str, Check] = getattr(backend, "places", {})
    name = getattr(backend, "name", getattr(backend, "__name__", "?"))
    places: dict[str, str] = {}
    for option, value in given.items():
        if option not in takes:
            if value is not None:
                other = configuring(option)[0]
                raise PoolError(
                    f"{option} says where {other.runners()} are, and backend={name!r} makes none; "
                    f'leave it out, or write backend="{other.backend}"'
                )
            continue
        where = "" if value is not None else f" (it is flame.{name}.{option} in the configuration)"
        # A backend of another package may have no such settings.
        value = dask.config.get(f"flame.{name}.{option}", None) if value is None else value
        if value is None:
            continue
        try:
            places[option] = takes[option](option, value)
        except PoolError as error:
            raise PoolError(f"{error}{where}") from None
    return places
