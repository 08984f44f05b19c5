"""What ssh's configuration and known hosts say of a host and of those before it (driver).

asyncssh reports a key that has changed, one that was never seen and one of a host on the way to
another in the same words. The functions here find out which it is.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import asyncssh

#: Maximum number of hosts on the way to another one: a configuration may name a circle of them.
_MOST_HOPS = 16


@dataclass(frozen=True)
class Hop:
    """A host that ssh connects to: the one that is wanted, or one on the way to it.

    Attributes
    ----------
    alias : str
        As the configuration names it.
    name : str
        The name or address under which its key is known.
    address : str
        Where it is connected.
    keys : frozenset of str
        The algorithms of the keys that are known of it.
    checked : bool
        Whether its key is checked at all.
    """

    alias: str
    name: str
    address: str
    keys: frozenset[str]
    checked: bool


def hops(host: str, given: dict[str, Any]) -> list[Hop]:
    """Return the hosts that are connected for a host, itself last; reads files.

    Parameters
    ----------
    host : str
    given : dict
        Arguments of ``asyncssh.connect``.

    Raises
    ------
    OSError, ValueError
        A file cannot be read.
    """
    # Without `config` it would read none.
    wanted = {"config": (), **given}
    options = asyncssh.SSHClientConnectionOptions(host=host, **wanted)
    found = [_hop(host, options)]
    if isinstance(options.tunnel, str):
        jumps = options.tunnel.split(",")
        for number, jump in reversed(list(enumerate(jumps))):
            # As asyncssh does: only the configuration is the same for those.
            user, _, place = jump.rpartition("@")
            name, colon, port = place.rpartition(":")
            more: dict[str, Any] = {"config": wanted["config"]}
            if user:
                more["username"] = user
            if colon:
                more["port"] = int(port)
            if number:  # it is reached through the one before
                more["tunnel"] = None
            before = hops(name if colon else place, more) if len(found) < _MOST_HOPS else []
            found = [*before, *found]
    return found[-_MOST_HOPS:]


def _hop(alias: str, options: Any) -> Hop:
    port = options.port if options.port not in (0, 22) else None
    name = str(options.host_key_alias or options.host)
    if options.known_hosts is None:
        return Hop(alias, name, options.host, frozenset(), checked=False)
    files = options.known_hosts or [os.path.expanduser("~/.ssh/known_hosts")]
    there = [file for file in files if os.path.exists(file)]
    keys: set[str] = set()
    if there:
        known, authorities, *_ = asyncssh.match_known_hosts(there, name, "", port)
        keys = {key.get_algorithm() for key in (*known, *authorities)}
    shown = f"[{name}]:{port}" if port else name
    return Hop(alias, shown, options.host, frozenset(keys), checked=True)


def words(hop: Hop, said: str, ssh: str) -> str:
    """Return why the key of a host is not trusted, and the line to type.

    Parameters
    ----------
    hop : Hop
        Whose key it is.
    said : str
        The error.
    ssh : str
        What to type after ``ssh`` for the host that is wanted.
    """
    own = hop.alias == ssh.split()[-1].rpartition("@")[2]
    whose = "its host key" if own else f"the host key of {hop.alias}, through which it is reached,"
    if hop.keys:
        return (
            f"{whose} is another one than in known_hosts ({said}): somebody may be in between; if "
            f"you know why it has changed, type: ssh-keygen -R '{hop.name}' && ssh {ssh} true"
        )
    return f"{whose} is not in known_hosts ({said}); type: ssh {ssh} true"
