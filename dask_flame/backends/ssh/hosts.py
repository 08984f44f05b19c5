"""The hosts of a cluster, as ``hosts=`` names them (driver)."""

from __future__ import annotations

import glob
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dask_flame.core.option_checks import (
    cpus,
    declared_example,
    plain,
    size,
    whole,
    word,
    wrong,
)
from dask_flame.core.options import Check
from dask_flame.core.text import memory as memory_text
from dask_flame.errors import PoolError

_WANTED = (
    'a list of hosts such as ["gpu1", "ada@gpu2:2222", {"host": "gpu3", "gpus": 4}], or the path '
    "of a configuration of ssh"
)
#: What `ssh` takes for a user and a host; a name that begins with "-" would be an option.
_HOST = re.compile(
    r"(?:(?P<user>[^@\s:/-][^@\s:/]*)@)?(?P<host>\[[0-9A-Fa-f:.%\w]+\]|[^@\s:/\[\]-][^@\s:/\[\]]*)"
    r"(?::(?P<port>\d{1,5}))?"
)
_KEYS = ("host", "gpus", "slots", "cpus", "memory", "python")


@dataclass(frozen=True)
class HostSpec:
    """One host.

    Attributes
    ----------
    name : str
        As the user has written it: an alias of the configuration of ssh, or ``user@host:port``.
    host : str
        The alias, name or address.
    user : str
        Empty for that of the configuration of ssh.
    port : int
        0 for that of the configuration of ssh.
    gpus : int or None
        Number of GPUs; None: found out.
    slots : int or None
        Maximum number of runners; None: as many as there are cores for.
    cpus : float or None
        Cores for runners; None: found out.
    memory : int or None
        Bytes of memory for runners; None: found out.
    python : str or None
        The interpreter on this host; None: that of the pool.
    config : str
        The configuration of ssh that names it; empty for the usual one.
    """

    name: str
    host: str
    user: str = ""
    port: int = 0
    gpus: int | None = None
    slots: int | None = None
    cpus: float | None = None
    memory: int | None = None
    python: str | None = None
    config: str = ""

    def __repr__(self) -> str:
        given = {key: getattr(self, key) for key in _KEYS[1:]}
        given = {key: value for key, value in given.items() if value is not None}
        if "memory" in given:
            given["memory"] = memory_text(given["memory"])
        return repr({"host": self.name, **given} if given else self.name)

    @property
    def ssh(self) -> str:
        """What to type after ``ssh`` for this host."""
        port = f"-p {self.port} " if self.port else ""
        user = f"{self.user}@" if self.user else ""
        config = f"-F {self.config} " if self.config else ""
        return f"{config}{port}{user}{self.host}"


def check_hosts(name: str, value: Any) -> tuple[HostSpec, ...]:
    """Check the option ``hosts``; return the hosts.

    Examples
    --------
    >>> check_hosts("hosts", ["gpu1", "ada@gpu2:2222", {"host": "gpu3", "gpus": 4}])
    ('gpu1', 'ada@gpu2:2222', {'host': 'gpu3', 'gpus': 4})
    """
    if isinstance(value, os.PathLike) or (isinstance(value, str) and "/" in value):
        config = os.path.expanduser(value)
        return tuple(HostSpec(alias, alias, config=config) for alias in _of_file(name, value))
    if isinstance(value, str | Mapping | HostSpec):
        value = [value]
    if not isinstance(value, list | tuple) or not value:
        raise wrong(name, value, _WANTED)
    hosts = tuple(_checked(name, one) for one in value)
    seen: set[tuple[str, str, int]] = set()
    for one in hosts:
        if (key := (one.host, one.user, one.port)) in seen:
            raise wrong(name, value, f"a list of different hosts ({one.name!r} is there twice)")
        seen.add(key)
    return hosts


def _checked(name: str, value: Any) -> HostSpec:
    if isinstance(value, HostSpec):
        return value
    if isinstance(value, str):
        return _parsed(name, value)
    if not isinstance(value, Mapping):
        raise wrong(name, value, _WANTED)
    if unknown := next((key for key in value if key not in _KEYS), None):
        raise PoolError(f"{name}: unknown key {unknown!r} of a host; there are {', '.join(_KEYS)}")
    if "host" not in value:
        raise wrong(name, dict(value), 'a mapping with a "host"')
    host = _parsed(name, value["host"])
    given = {key: one for key in _KEYS[1:] if (one := value.get(key)) is not None}
    try:
        checked = {key: _checked_key(key, one) for key, one in given.items()}
    except PoolError as error:
        raise PoolError(f"{name}: {host.name}: {error}") from None
    return HostSpec(host.name, host.host, host.user, host.port, **checked)


def _checked_key(key: str, value: Any) -> Any:
    check, example = _CHECKS[key]
    token = declared_example.set(example)
    try:
        return check(key, value)
    finally:
        declared_example.reset(token)


def _slots(name: str, value: Any) -> int:
    if whole(name, value, 1) > 10_000:
        raise wrong(name, value, "a whole number of 10,000 or less")
    return int(plain(value))


def _gpus(name: str, value: Any) -> int:
    return whole(name, value, 0)


#: The check of each key of a host, and an example.
_CHECKS: dict[str, tuple[Check, str]] = {
    "gpus": (_gpus, "4"),
    "slots": (_slots, "4"),
    "cpus": (cpus, "16"),
    "memory": (size, '"64 GiB"'),
    "python": (word, '"/opt/env/bin/python"'),
}


def _parsed(name: str, value: Any) -> HostSpec:
    match = _HOST.fullmatch(value) if isinstance(value, str) else None
    if match is None or int(match["port"] or 0) > 65_535:
        raise wrong(name, value, 'a host such as "gpu1" or "ada@gpu2:2222"')
    return HostSpec(value, match["host"].strip("[]"), match["user"] or "", int(match["port"] or 0))


def _of_file(name: str, value: Any) -> list[str]:
    """Return the aliases in a configuration of ssh."""
    path = Path(value).expanduser()
    try:
        found = list(dict.fromkeys(_aliases(path, set())))
    except OSError as error:
        raise PoolError(
            f"{name}={str(value)!r} cannot be read: {error.strerror}; write "
            f'{name}="~/.ssh/config", or the hosts themselves: {name}=["gpu1", "gpu2"]'
        ) from None
    if not found:
        raise PoolError(
            f"{name}={str(value)!r} names no hosts: it has no line such as `Host gpu1`; write the "
            f'hosts themselves: {name}=["gpu1", "gpu2"]'
        )
    return found


def _aliases(path: Path, seen: set[Path]) -> Iterator[str]:
    """Yield the aliases that have no wildcards, also those of included files."""
    if path in seen:
        return
    seen.add(path)
    for line in path.read_text(errors="replace").splitlines():
        words = _words(line)
        if len(words) < 2:
            continue
        key = words[0].lower()
        if key == "host":
            yield from (w for w in words[1:] if not set(w) & set("*?!") and _HOST.fullmatch(w))
        elif key == "include":
            for pattern in words[1:]:
                where = os.path.join(path.parent, os.path.expanduser(pattern))
                for found in sorted(glob.glob(where)):
                    yield from _aliases(Path(found), seen)


def _words(line: str) -> list[str]:
    try:
        words = shlex.split(line, comments=True)
    except ValueError:
        return []
    if words and "=" in words[0]:
        key, _, first = words[0].partition("=")
        words = [key, *([first] if first else []), *words[1:]]
    return [word for word in words if word != "="]
