"""See whether this host can be connected to, and can connect to others (host)."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Sequence

_BACKLOG = 128
#: Length of the token that a listener sends, so that another machine is not taken for it.
TOKEN = 32


def own_address() -> str:
    """Return this host's address, as its sshd has it; empty if it is not known."""
    words = os.environ.get("SSH_CONNECTION", "").split()
    return words[2] if len(words) == 4 else ""


class Listener:
    """Listens at a port of all addresses, and sends a token to whoever connects.

    Parameters
    ----------
    token : str
    """

    def __init__(self, token: str) -> None:
        self._token = token.encode()
        family = socket.AF_INET6 if ":" in own_address() else socket.AF_INET
        self._socket = socket.create_server(("", 0), family=family, backlog=_BACKLOG)
        self.port: int = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._socket.accept()
                with sock, contextlib.suppress(OSError):
                    sock.settimeout(1)
                    sock.sendall(self._token)

    def close(self) -> None:
        """Stop listening."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread
        self._socket.close()


def first_out_of_reach(places: Sequence[Sequence[object]], token: str, within: float) -> int:
    """Return the number of the first place that cannot be connected to; -1 if all can.

    Parameters
    ----------
    places : sequence of (str, int)
        Addresses and ports.
    token : str
        What is heard there.
    within : float
        Seconds for all together.
    """
    failed = [True] * len(places)

    def connect(number: int, address: str, port: int) -> None:
        with (
            contextlib.suppress(OSError),
            socket.create_connection((address, port), timeout=within) as sock,
        ):
            heard = b""
            while len(heard) < TOKEN and (chunk := sock.recv(TOKEN)):
                heard += chunk
            failed[number] = heard != token.encode()

    threads = [
        threading.Thread(target=connect, args=(number, *place), daemon=True)
        for number, place in enumerate(places)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(within)
    return failed.index(True) if True in failed else -1
