"""Addresses of Unix sockets, in the form that Dask and other libraries expect (all places).

An address is a URL: ``flame://127.0.0.1:`` and the path of the socket. A byte of an unusual
character is a tilde and two hexadecimal digits, since Dask's pages decode percent signs once too
often. It has a host, because libraries such as LightGBM look for one in a worker's address, and an
empty port behind it, because Dask's client takes all before the first colon of the scheduler's
address for the host of the dashboard.
"""

from __future__ import annotations

import os
import re

SCHEME = "flame"
PREFIX = f"{SCHEME}://"
#: The host in all addresses.
HOST = "127.0.0.1"
_UNUSUAL = re.compile(rb"[^A-Za-z0-9/._-]")
_ESCAPE = re.compile(rb"~([0-9a-f]{2})")


def location(path: str) -> str:
    """Return the location of a socket: its address without the scheme.

    Parameters
    ----------
    path : str
        An absolute path. One that begins with a null byte is a name in Linux's abstract namespace.

    Examples
    --------
    >>> location("/tmp/my folder/scheduler")
    '127.0.0.1:/tmp/my~20folder/scheduler'
    """
    return f"{HOST}:{_url_path(path)}"


def _url_path(path: str) -> str:
    escaped = _UNUSUAL.sub(lambda found: b"~%02x" % found[0][0], os.fsencode(path))
    return ("" if path.startswith("/") else "/") + escaped.decode()


def path_of(location: str) -> str:
    """Return the path of the socket at a location; empty if the location names none.

    Parameters
    ----------
    location : str
        Possibly with a port at its end, which Dask adds, and which has no meaning; and possibly
        without the colon behind the host.

    Raises
    ------
    ValueError
        The location is on another host.

    Examples
    --------
    >>> path_of("127.0.0.1:/tmp/my~20folder/scheduler")
    '/tmp/my folder/scheduler'
    """
    place, _, port = location.rpartition(":")
    host, slash, path = (place if port.isdecimal() or not port else location).partition("/")
    if host.removesuffix(":") not in (HOST, "localhost", ""):
        raise ValueError(f"{PREFIX}{location} is on another machine; Unix sockets are of this one")
    plain = _ESCAPE.sub(lambda found: bytes([int(found[1], 16)]), os.fsencode(slash + path))
    path = os.fsdecode(plain)
    return path[1:] if path.startswith("/\0") else path


def new_socket_in(folder: str) -> str:
    """Return the ``host`` of a Dask server that shall listen on a new socket in a folder.

    Parameters
    ----------
    folder : str
        Empty: in Linux's abstract namespace.
    """
    # Dask would take a host with a colon for an IPv6 address.
    return HOST + _url_path(os.path.join(os.path.abspath(folder), "")) if folder else HOST


def new_socket_beside(address: str) -> str:
    """Return the ``host`` of a Dask server that shall listen next to the socket at an address."""
    path = path_of(address.removeprefix(PREFIX))
    return new_socket_in(os.path.dirname(path) if path.startswith("/") else "")
