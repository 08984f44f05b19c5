"""The options of a pool on Fly, which describe the machines of its runners (driver)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from dask_flame.backends.options import BackendOptions, Option, option
from dask_flame.core.option_checks import line, number, one_of, shown, whole, word, wrong
from dask_flame.errors import PoolError

#: How a driver outside of Fly's network reaches a scheduler in a machine.
REACHES = ("proxy", "wireguard", "public")
CPU_KINDS = ("shared", "performance")

#: Names of apps and regions.
_APP = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_REGION = re.compile(r"[a-z]{2,10}")
_VOLUME = re.compile(r"vol_[A-Za-z0-9]+")


def check_app(name: str, value: Any) -> str:
    """Check the name of an app."""
    if not isinstance(value, str) or not _APP.fullmatch(value):
        raise wrong(name, value, "the name of an app: lower-case letters, digits and -")
    return value


def _region(name: str, value: Any) -> str:
    """Check the name of a region."""
    if not isinstance(value, str) or not _REGION.fullmatch(value):
        raise wrong(name, value, "a region such as fra, or a list of them")
    return value


def _mounts(name: str, value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise wrong(name, value, "a mapping of paths to volumes")
    for path, volume in value.items():
        if not isinstance(path, str) or not path.startswith("/") or not path.strip("/"):
            raise wrong(name, value, f"made of absolute paths ({path!r})")
        if not isinstance(volume, str) or not _VOLUME.fullmatch(volume):
            raise wrong(name, value, f"made of ids of volumes ({volume!r})")
    if len(value) > 1:
        raise wrong(name, value, "one volume: a machine of Fly has no more")
    return dict(value)


def _token(name: str, value: Any) -> str:
    """Check a token, without showing it."""
    if not isinstance(value, str) or not value.strip():
        raise PoolError(
            f"{name} in Dask's configuration is not a token; set the variable FLY_API_TOKEN in its "
            f"place, or write {line(name)}"
        )
    return value


@dataclass(frozen=True, init=False, repr=False)
class FlyOptions(BackendOptions):
    """Options of a pool whose runners are Fly Machines; None for an option that was not given.

    Parameters
    ----------
    app : str, optional
        The app of the machines (``flame.fly.app``), the same for all pools of a cluster. By
        default, that of the driver if it is in a machine of Fly itself. Make one for runners alone:
        ``fly apps create my-runners``.
    region : str or list of str, optional
        The region, such as ``"fra"``, or several in order of preference (``flame.fly.region``). By
        default, that of the driver if it is in a machine, else the one closest to it. A region
        without room is left for the next one.
    image : str, optional
        The runner's image (``flame.fly.image``). By default, that of the driver if it is in a
        machine. It needs Python, dask-flame and all packages that calls import.
    cpu_kind : {"shared", "performance"} or list of str, optional
        The kind of CPUs, or both in order of preference. By default, the cheapest kind that has a
        machine with the pool's `cpus` and `memory`.
    reserve : int, optional
        Stopped machines that are kept ready for this pool. They start in parallel and at once, in
        place of new ones, of which Fly creates one a second. Each costs only its root disk while it
        is stopped.
    reach : {"proxy", "wireguard", "public"}, optional
        How a driver outside of Fly's network reaches the scheduler, which is in a machine then
        (``flame.fly.reach``). ``"proxy"``: through ``fly proxy``, which must be installed.
        ``"wireguard"``: at its private address, by a WireGuard connection that you have made.
        ``"public"``: at a public port of the app. All connections are TLS with certificates of this
        cluster.
    mounts : mapping of str to str, optional
        A volume by the path at which it is mounted: ``{"/data": "vol_abc123"}``. A volume belongs
        to one machine at a time.

    Raises
    ------
    PoolError
        An option is wrong; the message has its name and a line that works.
    """

    backend: ClassVar[str] = "fly"
    makes: ClassVar[str] = "Fly Machines"
    merges: ClassVar[bool] = True
    settings: ClassVar[Mapping[str, Option]] = {
        "api": Option(check=word, example='"https://api.machines.dev"', nullable=True),
        "logs-api": Option(check=word, example='"https://api.fly.io"', nullable=True),
        "token": Option(check=_token, example='"FlyV1 …"', nullable=True, secret=True),
        "rate": Option(check=number, example="1"),
        "flyctl": Option(check=word, example='"flyctl"'),
        "public-address": Option(check=word, example='"my-runners.fly.dev"', nullable=True),
    }

    app: str | None = option(check_app, '"my-runners"', section="fly", nullable=True, fixed=True)
    region: str | tuple[str, ...] | None = option(
        _region, '["fra", "ams"]', section="fly", nullable=True, preference=True
    )
    image: str | None = option(word, '"registry.fly.io/my-runners:1"', section="fly", nullable=True)
    cpu_kind: str | tuple[str, ...] | None = option(
        partial(one_of, words=CPU_KINDS),
        '"performance"',
        section="fly",
        nullable=True,
        preference=True,
    )
    reserve: int | None = option(partial(whole, least=0), "8")
    reach: str | None = option(
        partial(one_of, words=REACHES), '"proxy"', section="fly", nullable=True, fixed=True
    )
    mounts: Mapping[str, str] | None = option(_mounts, '{"/data": "vol_abc123"}', hash=False)

    def check_max(self, max: int) -> None:
        """Check that a volume is for one machine."""
        if self.mounts and max > 1:
            raise PoolError(
                f"mounts={shown(self.mounts)} is for a pool of one runner, because a volume can be "
                f"in one machine at a time, and max={max}; write max=1"
            )


#: The name under which pools look up this class.
Options = FlyOptions
