"""The requests that create machines: of runners, of the reserve, of a scheduler; pure (driver)."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from dask_flame.backends.environment import KNOWN, usual_environment
from dask_flame.backends.fly import metadata
from dask_flame.backends.fly.api.types import CreateRequest, File, MachineConfig
from dask_flame.backends.fly.guests import guest
from dask_flame.backends.fly.metadata import Identity, machine_name
from dask_flame.backends.fly.options import FlyOptions
from dask_flame.backends.fly.own_machine import OwnMachine
from dask_flame.backends.redact import HIDDEN, hide, plain, scrub
from dask_flame.backends.specs import RunnerSpec, SchedulerSpec
from dask_flame.errors import PoolError

#: Where a machine finds its launch configuration. It is a file, because the environment of a
#: machine is shown on Fly's dashboard.
LAUNCH_FILE = "/run/dask-flame/launch.json"
#: Seconds to fetch a runner's results, in addition to `shutdown_timeout`.
SEE_OFF = 10
#: The longest time, in seconds, that Fly gives a machine to end after its signal.
LONGEST_STOP = 300
#: What the machine's own address is found by.
ADDRESS_VARIABLE = "FLY_PRIVATE_IP"
#: Public ports of schedulers, one for each cluster: an app has one public address.
_PORTS = range(20_000, 60_000)


@dataclass(frozen=True, kw_only=True)
class Site:
    """What all machines of a cluster have in common.

    Attributes
    ----------
    identity : Identity
    own : OwnMachine
        The driver's machine, whose image and region are the defaults.
    """

    identity: Identity
    own: OwnMachine


def runner(spec: RunnerSpec, options: FlyOptions, site: Site) -> CreateRequest:
    """Return the request for the machine of a runner.

    Parameters
    ----------
    spec : RunnerSpec
    options : FlyOptions
        The options of its pool, with those that are configured.
    site : Site

    Raises
    ------
    PoolError
        If there is no such machine, or no image.
    """
    names = metadata.RUNNER
    return _request(
        machine_name(site.identity.cluster, spec.name),
        {
            **_hardware(spec, options, site),
            "env": _environment(spec),
            "files": [launch_file(_launch_config(spec))],
            "init": {
                "cmd": ["python", *spec.flags, "-m", "dask_flame.runner.from_file", LAUNCH_FILE]
            },
            "metadata": site.identity.metadata(
                names, pool=spec.pool, runner=spec.name, kind=spec.kind
            ),
            # A machine of a pool with a reserve may return to it, so it must be left when it ends.
            "auto_destroy": not options.reserve,
            **_life(spec.shutdown_timeout),
        },
        options,
        site,
    )


def reserve(
    name: str, spec: RunnerSpec, options: FlyOptions, site: Site, *, alive: float
) -> CreateRequest:
    """Return the request for a machine of the reserve, which does not start.

    It holds nothing of a runner yet. If anybody but the driver starts it, it ends, and destroys
    itself.

    Parameters
    ----------
    name : str
    spec : RunnerSpec
        A runner of the pool.
    options : FlyOptions
    site : Site
    alive : float
        Unix time.
    """
    made = _request(
        machine_name(site.identity.cluster, name), blank(spec, options, site, alive), options, site
    )
    made["skip_launch"] = True
    return made


def blank(spec: RunnerSpec, options: FlyOptions, site: Site, alive: float) -> MachineConfig:
    """Return the configuration of a machine while it is in the reserve."""
    names = site.identity.metadata(metadata.RESERVE, pool=spec.pool)
    return {
        **_hardware(spec, options, site),
        "env": {},
        "files": [],
        "init": {"cmd": ["python", "-c", "raise SystemExit"]},
        "metadata": {**names, metadata.ALIVE: f"{alive:.0f}"},
        "auto_destroy": True,
        **_life(0),
    }


def shape(spec: RunnerSpec, options: FlyOptions, site: Site) -> str:
    """Return a key that is the same for machines which can take each other's place."""
    parts = [_hardware(spec, options, site), _region(options, site), spec.pool]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def scheduler(
    spec: SchedulerSpec, options: FlyOptions, site: Site, *, public: bool
) -> CreateRequest:
    """Return the request for the machine of a scheduler, see :mod:`dask_flame.remote`.

    Parameters
    ----------
    spec : SchedulerSpec
    options : FlyOptions
        Options of the first pool, for the image and the region.
    site : Site
    public : bool
        Whether its port is open to the Internet. Fly passes the bytes on as they are, and the
        scheduler demands a certificate of this cluster.
    """
    launch_config = {
        **spec.launch_config,
        "address_variable": ADDRESS_VARIABLE,
        # Fly's proxy reaches a public service at an IPv4 address of the machine.
        "also_at": ["0.0.0.0" if public else "127.0.0.1"],
    }
    config: MachineConfig = {
        "image": _image(options, site),
        "guest": guest(spec.cpus, spec.memory),
        "env": {},
        "files": [launch_file(launch_config)],
        "init": {"cmd": ["python", "-m", "dask_flame.remote.server", LAUNCH_FILE]},
        "metadata": site.identity.metadata(metadata.SCHEDULER),
        "auto_destroy": True,
        **_life(0),
    }
    if public:
        ports: list[dict[str, Any]] = [{"port": public_port(site.identity.cluster)}]
        config["services"] = [
            {
                "protocol": "tcp",
                "internal_port": spec.port,
                "ports": ports,
                "autostart": False,
                "autostop": False,
            }
        ]
    name = machine_name(site.identity.cluster, "scheduler")
    return _request(name, config, options, site)


def public_port(cluster: str) -> int:
    """Return the public port of a cluster's scheduler."""
    digest = hashlib.sha256(cluster.encode()).digest()
    return _PORTS[int.from_bytes(digest[:4]) % len(_PORTS)]


def shown(body: Mapping[str, Any], spec: RunnerSpec) -> dict[str, Any]:
    """Return a request without secrets.

    Hidden are the contents of files; the values of all variables except a few known ones; and the
    values of secrets, wherever they are.
    """
    seen = plain(body)
    config = seen["config"]
    for file in config.get("files") or ():
        file["raw_value"] = HIDDEN
    config["env"] = hide(config["env"], shown=KNOWN - {*spec.env, *spec.secrets})
    clean: dict[str, Any] = scrub(seen, spec.secret_values)
    return clean


def launch_file(content: Mapping[str, Any]) -> File:
    """Return the file with a launch configuration."""
    text = json.dumps(content).encode()
    return {"guest_path": LAUNCH_FILE, "raw_value": base64.b64encode(text).decode()}


def _request(name: str, config: MachineConfig, options: FlyOptions, site: Site) -> CreateRequest:
    made: CreateRequest = {"name": name, "config": config}
    if region := _region(options, site):
        made["region"] = region
    return made


def _first(preferred: str | tuple[str, ...] | None) -> str | None:
    """Return the first of the values of a setting, which the cluster does not choose from."""
    return preferred[0] if isinstance(preferred, tuple) else preferred


def _region(options: FlyOptions, site: Site) -> str:
    given = options.region or site.own.region
    return given if isinstance(given, str) else ",".join(given)


def _image(options: FlyOptions, site: Site) -> str:
    image = options.image or site.own.image
    if not image:
        raise PoolError(
            "a machine needs an image: this driver is in no machine of Fly whose image it could "
            'take; write image="registry.fly.io/my-runners:1", or set flame.fly.image in Dask\'s '
            "configuration; the image needs Python, dask-flame and what your calls import"
        )
    return image


def _hardware(spec: RunnerSpec, options: FlyOptions, site: Site) -> MachineConfig:
    """Return what a machine keeps for life: its image, its size and its volumes."""
    made: MachineConfig = {
        "image": _image(options, site),
        "guest": guest(spec.cpus, spec.memory, _first(options.cpu_kind)),
    }
    if options.mounts:
        made["mounts"] = [{"volume": v, "path": path} for path, v in options.mounts.items()]
    return made


def _life(shutdown_timeout: float) -> MachineConfig:
    """Return how a machine ends: at a SIGTERM, within this time, and for good."""
    seconds = min(LONGEST_STOP, math.ceil(shutdown_timeout) + SEE_OFF)
    return {
        "restart": {"policy": "no"},
        "stop_config": {"signal": "SIGTERM", "timeout": f"{seconds}s"},
    }


def _environment(spec: RunnerSpec) -> dict[str, str]:
    """Return the variables of a runner that are no secrets."""
    secret = {*spec.secret_names}
    own = {name: value for name, value in spec.env.items() if name not in secret}
    return {**usual_environment(spec), **own}


def _launch_config(spec: RunnerSpec) -> dict[str, Any]:
    """Return the launch configuration of a runner, with those of its variables that are secret."""
    values = spec.variables
    config = cast("dict[str, Any]", spec.launch_config(local=False))
    secret = {name: values[name] for name in spec.secret_names if name in values}
    return {**config, "host": None, "variables": secret}
