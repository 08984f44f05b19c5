"""Check the option ``packages`` of a cluster (driver)."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass, field
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    parse_sdist_filename,
    parse_wheel_filename,
)
from packaging.utils import canonicalize_name as canonical

from dask_flame.core.launch_config import Wanted
from dask_flame.core.option_checks import plain, shown, wrong
from dask_flame.core.redaction import veiled
from dask_flame.errors import PoolError

_ARCHIVES = (".whl", ".tar.gz", ".zip")
_ONE_VERSION = re.compile(r"==\s*([^\s,;*]+)")


@dataclass(frozen=True)
class PackagesOption:
    """The checked value of ``packages``.

    Attributes
    ----------
    mode : {"check", "sync", "ignore", "list"}
    wanted : tuple of Wanted
        What runners install, if the value is a list. May hold credentials in URLs.
    """

    mode: str
    wanted: tuple[Wanted, ...] = field(default=(), repr=False)

    @property
    def named(self) -> frozenset[str]:
        """Canonical names of the packages in the list."""
        return frozenset(wanted["name"] for wanted in self.wanted)


def packages_option(name: str, value: Any) -> PackagesOption:
    """Check a value of ``packages``.

    Raises
    ------
    PoolError
    """
    given, value = value, plain(value)
    if value is False or (isinstance(value, str) and value == "ignore"):
        return PackagesOption("ignore")
    if isinstance(value, str) and value in ("check", "sync"):
        return PackagesOption(value)
    if not isinstance(value, list | tuple) or not value:
        raise _wrong(name, given)
    if not all(isinstance(item, str) and item.strip() for item in value):
        # Items may hold credentials.
        clean = [veiled(i, random=False) if isinstance(i, str) else i for i in value]
        raise _wrong(name, tuple(clean) if isinstance(value, tuple) else clean)
    return PackagesOption("list", tuple(_wanted(name, item.strip()) for item in value))


def _wrong(name: str, value: object) -> PoolError:
    return wrong(name, value, '"check", "sync", "ignore" or a list such as ["polars==1.2"]')


def _refused(name: str, item: str, why: str, example: str = "polars==1.2") -> PoolError:
    """Return the error for an item of a list; the item may hold credentials."""
    works = f'["{example}"]'
    write = f'dask.config.set({{"{name}": {works}}})' if "." in name else f"{name}={works}"
    where = " in Dask's configuration" if "." in name else ""
    said = shown([veiled(item, random=False)])
    return PoolError(f"{name}={said}{where} {why}; write {write}")


def _wanted(name: str, text: str) -> Wanted:
    if text.startswith("-") or "\n" in text:
        why = (
            "is an option of pip, which belongs into pip.conf, or variables PIP_… and UV_… in env="
        )
        raise _refused(name, text, why)
    if "://" not in text and (text.endswith(_ARCHIVES) or text.startswith((".", "/", "~"))):
        return _file(name, text)
    try:
        requirement = Requirement(text)
    except InvalidRequirement:
        raise _refused(name, text, "is no requirement as pip takes it") from None
    only = _ONE_VERSION.fullmatch(str(requirement.specifier))
    version = only[1] if only and not (requirement.url or requirement.marker) else ""
    return {"line": text, "name": canonical(requirement.name), "version": version}


def _file(name: str, text: str) -> Wanted:
    path = os.path.abspath(os.path.expanduser(text))
    if os.path.isdir(path):
        why = "is a folder, and runners install only archives, which `pip wheel --no-deps` makes"
        raise _refused(name, text, why, "/wheels/polars-1.2-py3-none-any.whl")
    of = _project(os.path.basename(path))
    if not of:
        why = "is not named as a wheel or another archive of a package is"
        raise _refused(name, text, why, "/wheels/polars-1.2-py3-none-any.whl")
    if os.path.isfile(path):
        with open(path, "rb") as archive:
            digest = hashlib.file_digest(archive, "sha256").hexdigest()
        return {"line": path, "name": of, "version": "", "digest": digest}
    if not os.path.isabs(text):
        why = f"is no file in {os.getcwd()!r}"
        raise _refused(name, text, why, "/wheels/polars-1.2-py3-none-any.whl")
    return {"line": path, "name": of, "version": ""}  # in the runner's image


def _project(file: str) -> str:
    """Return the canonical name of the package in an archive; empty if the file has no such name.

    Examples
    --------
    >>> _project("Polars-1.2-py3-none-any.whl"), _project("polars.zip")
    ('polars', '')
    """
    try:
        parse = parse_wheel_filename if file.endswith(".whl") else parse_sdist_filename
        return str(parse(file)[0])
    except (InvalidWheelFilename, InvalidSdistFilename):
        return ""
