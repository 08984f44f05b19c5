"""Decide what runners are told about packages when they start (driver)."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from dask_flame.core.launch_config import Packages, Wanted
from dask_flame.core.packages_option import PackagesOption
from dask_flame.core.pool import Pool
from dask_flame.core.text import memory
from dask_flame.core.threads import in_thread
from dask_flame.errors import PoolError
from dask_flame.packages.check import PackageCheck
from dask_flame.packages.imported import ImportedPackages
from dask_flame.packages.installed import OWN, public

#: Maximum size in bytes of all archives that are sent. They are in a Secret of Kubernetes, which
#: may have 1 MiB, in Base64.
_MOST = 500_000
#: Packages that a runner cannot replace, as it runs them while it installs the others.
_NEVER = frozenset({OWN, "pip", "setuptools", "uv", "wheel"})


class PackagePolicy:
    """The option ``packages`` of a cluster, as its runners and its scheduler need it.

    Parameters
    ----------
    option : PackagesOption
    remote : bool
        Whether runners are on other machines, so that their packages are not the driver's.

    Raises
    ------
    PoolError
        Archives are too large to be sent to other machines.
    """

    def __init__(self, option: PackagesOption, *, remote: bool) -> None:
        self._option = option
        self._wanted = _sent(option.wanted) if remote else list(option.wanted)
        self._remote = remote
        self._imported = ImportedPackages()

    def check(self, note: Callable[[str, str], object]) -> PackageCheck | None:
        """Return the check of the runners that register; None if they are not compared."""
        if self._option.mode == "ignore":
            return None
        return PackageCheck(self._option, self._imported, remote=self._remote, note=note)

    async def prepare(self, pools: Mapping[str, Pool]) -> None:
        """Find the driver's packages in another thread, if runners of these pools install them."""
        if any(map(self._installs, pools.values())):
            await in_thread(self._imported.needed)

    def of(self, pool: Pool) -> Packages:
        """Return the packages of a runner of this pool, for its launch configuration."""
        told: Packages = {"check": self._option.mode != "ignore", "install": [], "exact": False}
        if self._option.mode == "list":
            told["install"] = self._wanted
        elif self._installs(pool):
            told["install"], told["exact"] = self._driver(), True
        return told

    def _installs(self, pool: Pool) -> bool:
        """Return whether a runner of this pool may lack packages that the driver has."""
        if self._option.mode != "sync":
            return False
        # A runner on this machine imports what the driver does, unless variables say otherwise.
        own = {*pool.env, *pool.secrets}
        return self._remote or any(name.startswith("PYTHON") for name in own)

    def _driver(self) -> list[Wanted]:
        return [
            {"line": line, "name": name, "version": public(version)}
            for name, (version, path) in sorted(self._imported.needed().items())
            if name not in _NEVER and (line := _line(name, version, path))
        ]


def _line(name: str, version: str, metadata: str) -> str:
    """Return the requirement for a distribution; empty if no other machine can install it."""
    try:
        origin: dict[str, Any] = json.loads(Path(metadata, "direct_url.json").read_text())
        url = str(origin["url"])
    except (OSError, ValueError, LookupError, TypeError):
        return f"{name}=={public(version)}"
    if (system := origin.get("vcs_info")) is not None:
        return f"{name} @ {system['vcs']}+{url}@{system['commit_id']}"
    return f"{name} @ {url}" if url.startswith(("https://", "http://")) else ""


def _sent(wanted: Iterable[Wanted]) -> list[Wanted]:
    """Return what runners on other machines install, with the archives themselves."""
    sent: list[Wanted] = []
    size = 0
    for item in wanted:
        if "digest" not in item:
            sent.append(item)
            continue
        path = Path(item["line"])
        size += path.stat().st_size
        if size > _MOST:
            raise PoolError(
                f"packages: {path} cannot be sent to runners on other machines: all archives may "
                f"have {memory(_MOST)} together; put it into the image or an index, or write its "
                'URL: packages=["NAME @ https://…"]'
            )
        data = base64.b64encode(path.read_bytes()).decode()
        sent.append({**item, "line": path.name, "data": data})
    return sent
