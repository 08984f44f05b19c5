"""Open a connection of ssh to a host, and say what to type if that fails (driver)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import Any

import asyncssh

from dask_flame.backends.ssh.hosts import HostSpec
from dask_flame.backends.ssh.options import SshOptions
from dask_flame.core.threads import in_thread

#: Answers that may stay away in a row before a connection counts as lost.
_UNANSWERED = 3


class HostError(Exception):
    """A host cannot be used: why, and the line to type."""


async def connect(host: HostSpec) -> asyncssh.SSHClientConnection:
    """Return a connection to a host, by ssh's own configuration, keys, agent and known hosts.

    Raises
    ------
    HostError
    """
    within: float = SshOptions.setting("connect-timeout")
    silence: float = SshOptions.setting("silence")
    more = _given(host)
    try:
        async with asyncio.timeout(within):
            return await asyncssh.connect(
                host.host,
                login_timeout=within,
                keepalive_interval=silence / (_UNANSWERED + 1),
                keepalive_count_max=_UNANSWERED,
                **more,
            )
    except asyncssh.HostKeyNotVerifiable as error:
        raise HostError(await in_thread(_of_host_key, host, more, str(error))) from None
    except (asyncssh.Error, asyncssh.KeyImportError, OSError, ValueError) as error:
        raise HostError(_words(host, error, within)) from None


def _given(host: HostSpec) -> dict[str, Any]:
    """Return the arguments of asyncssh for what the user has said of this host."""
    given: dict[str, Any] = {}
    config = host.config or SshOptions.setting("config")
    if config:
        given["config"] = [os.path.expanduser(config)]
    if host.user:
        given["username"] = host.user
    if host.port:
        given["port"] = host.port
    return given


def _words(host: HostSpec, error: Exception, within: float) -> str:
    """Return an error in ssh's own words, with the line to type."""
    said = str(error) or type(error).__name__
    ssh = f"ssh {host.ssh}"
    if isinstance(error, asyncssh.PermissionDenied):
        return (
            f"it refuses the keys of this user ({said}); type: ssh-copy-id {host.ssh} — or, for a "
            f"key with a passphrase, ssh-add; `{ssh}` must work without a question"
        )
    if isinstance(error, asyncssh.KeyImportError):
        return f"a key cannot be read ({said}); type: ssh-add — then `{ssh}` asks no question"
    if isinstance(error, asyncssh.ConfigParseError):
        return f"the configuration of ssh cannot be read ({said}); type: {ssh} true"
    if isinstance(error, TimeoutError):
        return (
            f"it did not answer within flame.ssh.connect-timeout={within:g} s; is it switched on? "
            f"type: {ssh} true"
        )
    if isinstance(error, socket.gaierror):
        return f"its name is not known ({error.strerror}); type: {ssh} true"
    if isinstance(error, OSError) and error.errno:
        said = os.strerror(error.errno)  # asyncio has words of its own, with the address
    return f"it cannot be reached ({said}); type: {ssh} true"


def _of_host_key(host: HostSpec, more: dict[str, Any], said: str) -> str:
    """Return whether the key of a host has changed, or was never seen, and the line to type."""
    known, name = False, host.host
    with contextlib.suppress(Exception):  # whatever else is wrong, the key is not trusted
        options = asyncssh.SSHClientConnectionOptions(host=host.host, **more)
        port = options.port if options.port not in (0, 22) else None
        alias = options.config.get("HostKeyAlias")
        name = str(alias or options.host)
        files = options.known_hosts or os.path.expanduser("~/.ssh/known_hosts")
        keys, authorities, *_ = asyncssh.match_known_hosts(files, name, "", port)
        known = bool(keys or authorities)
        name = f"[{name}]:{port}" if port else name
    if known:
        return (
            f"its host key is another one than in known_hosts ({said}): somebody may be in "
            f"between; if you know why it has changed, type: ssh-keygen -R '{name}' && "
            f"ssh {host.ssh} true"
        )
    return f"its host key is not in known_hosts ({said}); type: ssh {host.ssh} true"
