"""Send and receive the messages between a notebook and an application (application, driver).

A message is a JSON object, with bytes behind it if it carries a pickled value. Its head holds both
lengths, which are compared with limits before anything is read.

Each request has an ``id`` and an operation, ``do``. Its answers have the same ``id``. ``is`` is
``item`` for those that come before the last one, and ``done`` or ``failed`` for the last one.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
from typing import Any, Protocol

from dask_flame.attached.tokens import SEAL_SIZE, Seal

#: Increased when an older notebook or application would not understand the messages.
PROTOCOL = 1
#: Maximum size of a message without its bytes, in bytes.
MOST_TEXT = 16 * 2**20
#: Maximum size of the bytes of a message.
MOST_BYTES = 256 * 2**20
_HEAD = struct.Struct(">II")
#: Seconds for which the other side may leave a message unread.
_SEND_WITHIN = 20

Message = dict[str, Any]


class Broken(ConnectionError):
    """The other side has sent what is not a message, or too large a one."""


def pack(message: Message, data: bytes = b"") -> bytes:
    """Return a message as bytes.

    Raises
    ------
    ValueError
        It is larger than the limits.
    """
    text = json.dumps(message, separators=(",", ":"), default=repr).encode("utf-8", "replace")
    if len(text) > MOST_TEXT or len(data) > MOST_BYTES:
        raise ValueError(
            f"a message of {len(text) + len(data):,} bytes is too large; at most "
            f"{MOST_TEXT:,} bytes of text and {MOST_BYTES:,} bytes of values can be sent"
        )
    return b"".join((_HEAD.pack(len(text), len(data)), text, data))


class Wire(Protocol):
    """What carries messages: :class:`SocketWire`, or another connection between processes."""

    def send(self, message: Message, data: bytes = b"") -> None:
        """Send a message and its bytes, from any thread; raise OSError if it cannot be sent."""

    def receive(self) -> tuple[Message, bytes] | None:
        """Wait for the next message and its bytes; None if the other side has closed."""

    def shut(self) -> None:
        """End the connection for both sides; a thread that receives gets None."""

    def close(self) -> None:
        """Free what it holds; called when no thread receives any more."""


class SocketWire:
    """Messages over a connected socket, which it closes.

    Any thread may send. One thread receives.

    Parameters
    ----------
    sock : socket.socket
    seal : Seal, optional
        For a connection that others reach.
    most_text, most_bytes : int
        Limits of received messages.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        seal: Seal | None = None,
        most_text: int = MOST_TEXT,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        sock.setblocking(True)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", _SEND_WITHIN, 0))
        self.socket = sock
        self._seal = seal
        self._most_text = most_text
        self._most_bytes = most_bytes
        self._sending = threading.Lock()

    def send(self, message: Message, data: bytes = b"") -> None:
        """Send a message.

        Raises
        ------
        OSError
            The connection is closed, or the other side does not read.
        ValueError
            The message is too large; nothing was sent.
        """
        packed = pack(message, data)
        with self._sending:
            if self._seal is not None:
                packed += self._seal.of_sent(packed)
            try:
                self.socket.sendall(packed)
            except BlockingIOError:
                self.shut()  # a part may have been sent
                raise TimeoutError(f"no message was read for {_SEND_WITHIN} seconds") from None

    def receive(self) -> tuple[Message, bytes] | None:
        """Wait for the next message and its bytes; None if the other side has closed.

        Raises
        ------
        Broken
        OSError
        """
        head = self._exactly(_HEAD.size)
        if head is None:
            return None
        length, size = _HEAD.unpack(head)
        if length > self._most_text or size > self._most_bytes:
            raise Broken(f"a message of {length:,} + {size:,} bytes is too large")
        text, data = self._exactly(length), self._exactly(size)
        if text is None or data is None:
            return None
        if self._seal is not None:
            seal = self._exactly(SEAL_SIZE)
            if seal is None or not self._seal.is_genuine(bytes(head + text + data), bytes(seal)):
                raise Broken("a message was changed on its way")
        try:
            message = json.loads(text)
        except (ValueError, RecursionError):
            raise Broken("not a message of dask-flame") from None
        if not isinstance(message, dict):
            raise Broken("not a message of dask-flame")
        return message, bytes(data)

    def shut(self) -> None:
        """End the connection for both sides; a thread that receives gets None."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.socket.close()

    def _exactly(self, size: int) -> bytearray | None:
        data = bytearray()
        while len(data) < size:
            part = self.socket.recv(min(size - len(data), 2**20))
            if not part:
                return None
            data += part
        return data
