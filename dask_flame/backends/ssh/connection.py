"""Open a connection of ssh to a host, and say what to type if that fails (driver)."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

import asyncssh

from dask_flame.backends.ssh.host_keys import hops, words
from dask_flame.backends.ssh.hosts import HostSpec
from dask_flame.backends.ssh.options import SshOptions
from dask_flame.core.backoff import Backoff
from dask_flame.core.threads import in_thread

#: Attempts to connect to an sshd that ends connections at once, and seconds between them.
_ATTEMPTS, _AGAIN, _AGAIN_AT_MOST = 5, 0.5, 4.0
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
        # ssh's own configuration must not take the check of keys away, nor lend the user's keys
        # and display to what runs on the host.
        await in_thread(_check, host, more)
        async with asyncio.timeout(within):
            return await _connected(
                host,
                agent_forwarding=False,
                x11_forwarding=False,
                login_timeout=within,
                keepalive_interval=silence / (_UNANSWERED + 1),
                keepalive_count_max=_UNANSWERED,
                **more,
            )
    except asyncssh.HostKeyNotVerifiable as error:
        raise HostError(await in_thread(_of_host_key, host, more, str(error))) from None
    except (asyncssh.Error, asyncssh.KeyImportError, OSError, ValueError) as error:
        raise HostError(_words(host, error, within)) from None


async def _connected(host: HostSpec, **how: Any) -> asyncssh.SSHClientConnection:
    """Connect; try again where a busy sshd ends connections before it has read from them."""
    backoff = Backoff(_AGAIN, _AGAIN_AT_MOST)
    for again in reversed(range(_ATTEMPTS)):
        try:
            return await asyncssh.connect(host.host, **how)
        except (asyncssh.ConnectionLost, ConnectionResetError):
            # It ends them too if it has no key of a kind that is known of it.
            if why := await _other_kind_of_key(host):
                raise HostError(why) from None
            if not again:
                raise
        await asyncio.sleep(backoff.next_with_jitter())
    raise AssertionError("unreachable")


async def _other_kind_of_key(host: HostSpec) -> str:
    """Return what to say if a host has another kind of key than is known of it, else nothing."""
    more = _given(host)
    place = {name: more[name] for name in ("config", "port") if name in more}
    try:
        hop = (await in_thread(hops, host.host, more))[-1]
        key = await asyncssh.get_server_host_key(host.host, **place)
    except (asyncssh.Error, OSError, ValueError):
        return ""
    if key is None or not hop.keys or key.get_algorithm() in hop.keys:
        return ""
    return words(hop, f"its key is of the kind {key.get_algorithm()}", host.ssh)


def _check(host: HostSpec, more: dict[str, Any]) -> None:
    """Refuse a configuration of ssh that takes any key of a host."""
    for hop in hops(host.host, more):
        if not hop.checked:
            raise HostError(
                f"the key of {hop.alias} would not be checked: `UserKnownHostsFile none` is in the "
                "configuration of ssh; remove that line, or name another configuration with "
                'dask.config.set({"flame.ssh.config": "~/.ssh/for-dask"})'
            )


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
    if isinstance(error, FileNotFoundError) and error.filename:
        return f"the file {error.filename} of ssh's configuration is not there; type: {ssh} true"
    if isinstance(error, OSError) and error.errno:
        said = os.strerror(error.errno)  # asyncio has words of its own, with the address
    return f"it cannot be reached ({said}); type: {ssh} true"


def _of_host_key(host: HostSpec, more: dict[str, Any], said: str) -> str:
    """Return whether a key has changed, or was never seen, and the line to type."""
    try:
        found = hops(host.host, more)
    except (OSError, ValueError) as error:
        return f"its host key is not trusted ({said}), and {error}; type: ssh {host.ssh} true"
    # asyncssh names the address, or the alias under which the key is known.
    named = [hop for hop in found if said.endswith((f" {hop.address}", f" {hop.name}"))]
    return words((named or found)[-1], said, host.ssh)
