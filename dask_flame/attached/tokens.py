"""Prove a shared token over a connection that others may reach (application, driver).

Both sides show that they have the token, by HMAC over random numbers of both, before anything else
is read. The token itself is not sent. All later messages carry an HMAC with a key of this
connection, so that whoever passes a connection on cannot add or change any; they are not encrypted.
"""

from __future__ import annotations

import hmac
import os
import secrets
import socket

from dask_flame.errors import AttachError

#: Environment variable with the token, for both sides.
TOKEN = "DASK_FLAME_ATTACH_TOKEN"
#: A shorter token could be guessed from a proof.
_SHORTEST = 16
_GREETING = b"dask-flame-attach-1\n"
_SIZE = 32
#: Seconds that the proof of the other side may take.
_WITHIN = 10.0
_REFUSED = "the other side does not have the same token"
_FULL = (
    "the application has closed the connection: too many notebooks are attached to it, or there "
    "are too many connections without a proof; try again, or detach another notebook"
)
_REFUSED_OR_FULL = f"{_REFUSED}, or there are too many connections to it"


def check_token(token: str | None) -> bytes | None:
    """Return a token, or that of the environment, as bytes; None if there is none.

    Raises
    ------
    AttachError
        It is too short.
    """
    if token is None:
        token = os.environ.get(TOKEN) or None
    if token is None:
        return None
    if not isinstance(token, str) or len(token) < _SHORTEST:
        raise AttachError(
            f"the token for attachments has less than {_SHORTEST} characters; make one with "
            'python -c "import secrets; print(secrets.token_urlsafe())"'
        )
    return token.encode()


class Seal:
    """The keys of one connection: seals sent messages, and checks received ones."""

    def __init__(self, sends: bytes, receives: bytes) -> None:
        self._sends, self._receives = sends, receives
        self._sent = self._received = 0

    def of_sent(self, message: bytes) -> bytes:
        """Return the seal of the next message that is sent."""
        self._sent += 1
        return _mac(self._sends, self._sent.to_bytes(8, "big"), message)

    def is_genuine(self, message: bytes, seal: bytes) -> bool:
        """Return whether the next received message has its seal."""
        self._received += 1
        expected = _mac(self._receives, self._received.to_bytes(8, "big"), message)
        return hmac.compare_digest(expected, seal)


#: Length of a seal in bytes.
SEAL_SIZE = _SIZE


def prove_to_application(sock: socket.socket, token: bytes) -> Seal:
    """Prove the token to an application, which proves it as well (driver).

    Raises
    ------
    AttachError
        The other side is no application, or has another token.
    OSError
    """
    with _Timed(sock):
        begin = _exactly(sock, len(_GREETING) + _SIZE, _FULL)
        if begin[: len(_GREETING)] != _GREETING:
            raise AttachError("an application with a token does not listen there")
        theirs, mine = begin[len(_GREETING) :], secrets.token_bytes(_SIZE)
        sock.sendall(mine + _mac(token, b"notebook", theirs, mine))
        proof = _exactly(sock, _SIZE, _REFUSED_OR_FULL)
    if not hmac.compare_digest(proof, _mac(token, b"application", theirs, mine)):
        raise AttachError(_REFUSED)
    return Seal(_mac(token, b"requests", theirs, mine), _mac(token, b"answers", theirs, mine))


def prove_to_notebook(sock: socket.socket, token: bytes) -> Seal:
    """Let a notebook prove the token, and prove it as well (application).

    Raises
    ------
    AttachError
        It has another token. It has learned nothing.
    OSError
    """
    with _Timed(sock):
        mine = secrets.token_bytes(_SIZE)
        sock.sendall(_GREETING + mine)
        answer = _exactly(sock, 2 * _SIZE)
        theirs, proof = answer[:_SIZE], answer[_SIZE:]
        if not hmac.compare_digest(proof, _mac(token, b"notebook", mine, theirs)):
            raise AttachError(_REFUSED)
        sock.sendall(_mac(token, b"application", mine, theirs))
    return Seal(_mac(token, b"answers", mine, theirs), _mac(token, b"requests", mine, theirs))


class _Timed:
    """Limits how long each operation of a socket takes, meanwhile."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def __enter__(self) -> None:
        self._sock.settimeout(_WITHIN)

    def __exit__(self, *_: object) -> None:
        self._sock.settimeout(None)


def _exactly(sock: socket.socket, size: int, otherwise: str = _REFUSED) -> bytes:
    """Receive so many bytes; raise AttachError with this text if the other side closes before."""
    data = b""
    while len(data) < size:
        part = sock.recv(size - len(data))
        if not part:
            raise AttachError(otherwise)
        data += part
    return data


def _mac(key: bytes, *parts: bytes) -> bytes:
    made = hmac.new(key, digestmod="sha256")
    for part in parts:
        made.update(len(part).to_bytes(8, "big") + part)
    return made.digest()
