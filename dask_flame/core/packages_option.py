"""Check the option ``packages`` of a cluster (driver)."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
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
from dask_flame.core.option_checks import line, shown, wrong
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
    if value is False or value == "ignore":
        return PackagesOption("ignore")
    if isinstance(value, str) and value in ("check", "sync"):
        return PackagesOption(value)
    if isinstance(value, str) or not isinstance(value, Sequence) or not value:
        raise _wrong(name, value)
    return PackagesOption("list", tuple(_wanted(name, item) for item in value))


def _wrong(name: str, value: object) -> PoolError:
    return wrong(name, value, '"check", "sync", "ignore" or a list such as ["polars==1.2"]')


def _wanted(name: str, item: Any) -> Wanted:
    if not isinstance(item, str) or not item.strip():
        raise _wrong(name, item)
    text = item.strip()
    if text.startswith("-") or "\n" in text:
        raise PoolError(
            f"{name}: {_said(text)} is an option of pip, which belongs into its configuration "
            '(pip.conf, or PIP_… and UV_… variables in env=); write packages=["polars==1.2"]'
        )
    if "://" not in text and (text.endswith(_ARCHIVES) or text.startswith((".", "/", "~"))):
        return _file(name, text)
    try:
        requirement = Requirement(text)
    except InvalidRequirement as error:
        why = str(error).partition("\n")[0]
        raise PoolError(
            f"{name}: {_said(text)} is no requirement of pip: {_said(why, quoted=False)}; write "
            f'{line("packages")}, packages=["polars==1.2"] or the path of a wheel'
        ) from None
    only = _ONE_VERSION.fullmatch(str(requirement.specifier))
    version = only[1] if only and not (requirement.url or requirement.marker) else ""
    return {"line": text, "name": canonical(requirement.name), "version": version}


def _file(name: str, text: str) -> Wanted:
    path = os.path.abspath(os.path.expanduser(text))
    if os.path.isdir(path):
        raise PoolError(
            f"{name}: {_said(text)} is a folder, and runners install only archives; make one with "
            f"pip wheel --no-deps {_said(text, quoted=False)}, and write its path"
        )
    of = _project(os.path.basename(path))
    if not of:
        raise PoolError(
            f"{name}: {_said(text)} is not named as a wheel or an archive of a package is; write "
            'packages=["./polars-1.2-py3-none-any.whl"]'
        )
    if os.path.isfile(path):
        with open(path, "rb") as archive:
            digest = hashlib.file_digest(archive, "sha256").hexdigest()
        return {"line": path, "name": of, "version": "", "digest": digest}
    if not os.path.isabs(text):
        raise PoolError(
            f"{name}: there is no file {_said(text)} in {os.getcwd()!r}; write the whole path of a "
            'wheel, packages=["/wheels/polars-1.2-py3-none-any.whl"]'
        )
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


def _said(text: str, *, quoted: bool = True) -> str:
    """Return a text of the user without credentials."""
    clean = veiled(text, random=False)
    return shown(clean) if quoted else clean
