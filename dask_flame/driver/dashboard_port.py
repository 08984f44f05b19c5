"""Find another port for the dashboard if its own is taken (driver)."""

from __future__ import annotations

import errno
import socket


def free_address(address: str) -> tuple[str, int]:
    """Return where the dashboard can listen, and the port that is taken, or 0.

    Distributed chooses another port as well, but warns in four lines.

    Parameters
    ----------
    address : str
        A host, which may be empty, and a port.
    """
    host, _, port = address.rpartition(":")
    return (f"{host}:0", int(port)) if _in_use(host, int(port)) else (address, 0)


def _in_use(host: str, port: int) -> bool:
    with socket.socket() as probe:
        # As tornado does: connections that have ended do not matter.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host or "0.0.0.0", port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE  # another error comes again, and is raised
    return False
