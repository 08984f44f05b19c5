"""Find the installed packages of this process, by the names of their metadata (driver, runner).

Imports only the standard library, as a runner uses this before it imports anything else. Reading
the names in a folder takes a millisecond for hundreds of packages; :mod:`importlib.metadata` takes
a hundred times as long, because it opens each of them.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence

from dask_flame._version import __version__

#: The name of this package among those of a process. Its version is that of the code in use: a
#: checkout on the import path has no metadata.
OWN = "dask-flame"

_EGG = re.compile(r"(?P<name>.+?)(-(?P<version>\d[^-]*)(-py\d.*)?)?\.egg-info")
_VERSION = re.compile(r"^Version: *(\S+)", re.MULTILINE)

#: Names of folders that installers use. Elsewhere, such as in a checkout, metadata of the old kind
#: are those of a project that is being worked on.
_SITES = ("site-packages", "dist-packages")

#: By folder: the time of its last change, and what was found in it then.
_seen: dict[str, tuple[int, Mapping[str, tuple[str, str]]]] = {}


def canonical(name: str) -> str:
    """Return the canonical name of a distribution.

    Examples
    --------
    >>> canonical("Scikit_Learn")
    'scikit-learn'
    """
    return re.sub(r"[-_.]+", "-", name).lower()


def distributions(folder: str) -> Mapping[str, tuple[str, str]]:
    """Return the distributions in a folder: by canonical name, their versions and metadata."""
    try:
        changed = os.stat(folder).st_mtime_ns
        if (seen := _seen.get(folder)) is not None and seen[0] == changed:
            return seen[1]
        names = sorted(os.listdir(folder))
    except OSError:
        return {}
    found: dict[str, tuple[str, str]] = {}
    for name in names:
        path = os.path.join(folder, name)
        if (known := _distribution(name, path)) is not None:
            found.setdefault(known[0], (known[1], path))
    _seen[folder] = (changed, found)
    return found


def _distribution(name: str, path: str) -> tuple[str, str] | None:
    """Return the canonical name and the version in the name of a folder or file, if it has any."""
    if name.endswith(".dist-info"):
        of, _, version = name.removesuffix(".dist-info").partition("-")
        return (canonical(of), version) if version else None
    egg = _EGG.fullmatch(name)
    if egg is not None and os.path.basename(os.path.dirname(path)) in _SITES:
        version = egg["version"] or _read_version(path)
        return (canonical(egg["name"]), version) if version else None
    return None


def _read_version(path: str) -> str:
    try:
        file = os.path.join(path, "PKG-INFO") if os.path.isdir(path) else path
        with open(file, encoding="utf-8", errors="replace") as opened:
            found = _VERSION.search(opened.read(10_000))
    except OSError:
        return ""
    return found[1] if found is not None else ""


def metadata_folders(path: Sequence[str] | None = None) -> list[str]:
    """Return the folders on an import path (default: of this process) that hold distributions."""
    folders = dict.fromkeys(map(_absolute, sys.path if path is None else path))
    return [folder for folder in folders if folder and distributions(folder)]


def _absolute(folder: str) -> str:
    try:
        return os.path.abspath(folder)
    except OSError:  # relative, and the working directory was deleted
        return ""


def installed() -> dict[str, str]:
    """Return the versions of the packages that this process imports, by canonical name."""
    found: dict[str, str] = {}
    for folder in metadata_folders():
        for name, (version, _) in distributions(folder).items():
            found.setdefault(name, version)
    return {**found, OWN: __version__}


def environment() -> list[str]:
    """Return the interpreter's installation and the folders of its packages.

    Two processes on one machine for which this is equal import the same packages.
    """
    return [sys.prefix, *metadata_folders()]


def public(version: str) -> str:
    """Return a version without its local part, which names a build for other hardware.

    Examples
    --------
    >>> public("2.6.0+cu124")
    '2.6.0'
    """
    return version.partition("+")[0]
