"""Install the packages that a runner lacks, before it imports anything else (runner).

Imports only the standard library: a package that was imported already cannot be replaced.
"""

from __future__ import annotations

import base64
import hashlib
import importlib
import json
import shutil
import site
import sys
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from dask_flame.core.launch_config import Packages, Wanted
from dask_flame.packages.folder_cache import FolderCache, cache_folder
from dask_flame.packages.installed import canonical, environment, installed, public
from dask_flame.packages.installers import InstallFailed, installer

#: What this process has prepared, and the folder that it has put on its import path.
_prepared: list[Wanted] | None = None
_folder = ""


def prepare(packages: Packages | None, scratch: str | None = None) -> None:
    """Install the packages that are missing or have other versions, and have them imported first.

    A fork of a process that has done this already has them.

    Parameters
    ----------
    packages : Packages or None
        See :class:`dask_flame.core.launch_config.Packages`.
    scratch : str or None
        The folder of this runner, used if the cache cannot be written to.

    Raises
    ------
    InstallFailed
        With the last words of the installer.
    """
    global _prepared, _folder
    if not packages or not packages.get("install") or _prepared == packages["install"]:
        return
    here, exact = installed(), packages.get("exact", False)
    wanted = [w for w in packages["install"] if not _is_satisfied(w, here)]
    if wanted:
        # The resolver needs all of a list, to choose versions that fit together.
        wanted = wanted if exact else packages["install"]
        folder = FolderCache(cache_folder(scratch)).get(
            _key(wanted, here, exact=exact),
            lambda part, lock: _install(wanted, part, lock, exact=exact),
        )
        _put_first(str(folder))
        _folder = str(folder)
    _prepared = packages["install"]


def installed_folder() -> str:
    """Return the folder that :func:`prepare` has installed packages into; empty if none."""
    return _folder


def found(packages: Packages | None) -> dict[str, str] | None:
    """Return what a runner tells of its packages when it registers; None if there is no need to."""
    if not packages or not packages.get("check") or packages.get("driver") == environment():
        return None
    return installed()


def _is_satisfied(wanted: Wanted, here: Mapping[str, str]) -> bool:
    version = wanted["version"]
    there = here.get(wanted["name"], "")
    return bool(version) and version in (there, public(there))


def _key(wanted: Sequence[Wanted], here: Mapping[str, str], *, exact: bool) -> str:
    """Return the name of the folder for these packages and this interpreter."""
    lines = sorted(w.get("digest") or w["line"] for w in wanted)
    tag = [
        sys.implementation.cache_tag,
        sysconfig.get_platform(),
        sysconfig.get_config_var("SOABI"),
    ]
    # A resolver's choice depends on the packages that are there.
    base = [] if exact else sorted(here.items())
    return hashlib.sha256(json.dumps([lines, tag, base]).encode()).hexdigest()[:32]


def _install(wanted: Sequence[Wanted], target: Path, lock: int, *, exact: bool) -> None:
    tool = installer()
    print(f"installing {', '.join(w['name'] for w in wanted)} with {tool.name}", flush=True)
    # Beside the folder, and removed with it if this process is killed.
    work = Path(tempfile.mkdtemp(dir=target.parent, prefix=f"{target.stem}.", suffix=".part"))
    try:
        lines = [_line(w, work) for w in wanted]
        if not exact:
            lines = _chosen(tool.resolve(lines, work, lock), wanted, lines)
        if lines:
            tool.install(lines, target, work, lock)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _line(wanted: Wanted, work: Path) -> str:
    """Return the requirement for the installer; write the archive that came with it."""
    if "data" not in wanted:
        return wanted["line"]
    file = work / Path(wanted["line"]).name
    file.write_bytes(base64.b64decode(wanted["data"]))
    return str(file)


def _chosen(resolved: Sequence[str], wanted: Sequence[Wanted], lines: Sequence[str]) -> list[str]:
    """Return the requirements to install, of those that a resolver has chosen."""
    # Its words leave out credentials, so an address of the user is taken as it was given.
    given = {w["name"]: line for w, line in zip(wanted, lines, strict=True)}
    here, chosen = installed(), []
    for line in resolved:
        name, at, _ = line.partition(" @ ")
        name, _, version = name.partition("==")
        if at:
            chosen.append(given.get(canonical(name), line))
        elif here.get(canonical(name)) != version:
            chosen.append(line)
    return chosen


def _put_first(folder: str) -> None:
    """Import from a folder before all others, with what its .pth files name."""
    before = list(sys.path)
    site.addsitedir(folder)
    added = [path for path in sys.path if path not in before]
    sys.path[:] = [*added, *before]
    importlib.invalidate_caches()


__all__ = ["InstallFailed", "found", "installed_folder", "prepare"]
