"""Check the options of a cluster other than its pools, before it starts (driver)."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
from types import ModuleType
from typing import Any

from tornado.ioloop import IOLoop

from dask_flame.code.driver.local_code import LocalCode
from dask_flame.core.option_checks import plain, whole, wrong, yes_or_no

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,40}")
_PORT = re.compile(r"[0-9]{1,5}", re.ASCII)


def cluster_name(value: Any) -> str | None:
    """Check the name of a cluster; None means a random name."""
    if value is None:
        return None
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise wrong("name", value, "made of letters, digits and -")
    return str(value)


def dashboard_address(value: Any) -> str | None:
    """Check the dashboard's address: a host of this machine and a port; None disables it."""
    if value is None:
        return None
    wanted = 'a host of this machine and a port, such as "127.0.0.1:8787" or ":0"'
    if not isinstance(value, str):
        raise wrong("dashboard_address", value, wanted)
    host, _, port = value.rpartition(":")
    if not _PORT.fullmatch(port) or int(port) > 65_535 or not _is_of_this_machine(host):
        raise wrong("dashboard_address", value, wanted)
    return str(value)


def _is_of_this_machine(host: str) -> bool:
    if host in ("", "127.0.0.1", "0.0.0.0", "localhost"):
        return True
    try:
        found = socket.getaddrinfo(host, 0, socket.AF_INET, socket.SOCK_STREAM)
    except (OSError, UnicodeError, ValueError):
        return False
    for family, kind, protocol, _, address in found:
        with socket.socket(family, kind, protocol) as probe:
            try:
                probe.bind(address)
            except OSError:
                continue
            return True
    return False


def log_level(value: Any) -> int | None:
    """Return a logging level from its number or name; None or False means no level."""
    value = plain(value)
    if value is None or value is False:
        return None
    names = logging.getLevelNamesMapping()
    if isinstance(value, str) and value.upper() in names:
        return names[value.upper()]
    return whole("silence_logs", value, 0, beside='0 to 100, such as logging.ERROR, or "ERROR"')


def event_loop(value: Any) -> IOLoop | None:
    """Check that the value is a running tornado event loop; None means a new one."""
    if value is None:
        return None
    loop = getattr(value, "asyncio_loop", None) if isinstance(value, IOLoop) else None
    if loop is None or not loop.is_running():
        raise wrong("loop", value, "a tornado.ioloop.IOLoop that runs")
    return value


def asynchronous(value: Any, loop: IOLoop | None) -> bool:
    """Check whether the cluster is used on the running event loop."""
    if yes_or_no("asynchronous", value) and loop is None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            raise wrong("asynchronous", value, "possible where no event loop runs") from None
    return yes_or_no("asynchronous", value)


def local_code(value: Any, *, data: bool) -> LocalCode | None:
    """Return the local modules to send with calls; None for ``code=False``.

    Parameters
    ----------
    value : bool or sequence
        The option ``code``.
    data : bool
        Whether to send other files in packages too.
    """
    value = plain(value)
    if value is False:
        return None
    wanted = 'True, False, or a list of folders, packages and modules such as ["src", "tools.py"]'
    if value is not True and (
        not isinstance(value, list | tuple)
        or not all(isinstance(each, str | os.PathLike | ModuleType) and each for each in value)
    ):
        raise wrong("code", value, wanted)
    try:
        return LocalCode(value, data=data)
    except FileNotFoundError as error:
        wanted = f"a list of folders, packages and modules that exist ({error} does not)"
        raise wrong("code", value, wanted) from None
