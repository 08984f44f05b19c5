"""Requests to one instance of an application, and their answers (driver)."""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import socket
import sys
import threading
import time
from collections import deque
from typing import Any

from dask_flame.attached.wire import PROTOCOL, Broken, Message, SocketWire, Wire
from dask_flame.core.peers import is_own, peer_of, user_named
from dask_flame.core.socket_paths import connected_socket
from dask_flame.errors import AttachError

#: Seconds to wait for the first message of an application.
_GREET_WITHIN = 10.0
#: Seconds after which a waiting thread looks for signals, where it would not otherwise.
_LOOK = 1.0

Answer = tuple[Message, bytes]


class Silent(AttachError):
    """The application has not answered in time."""


def connected(path: str) -> socket.socket:
    """Return a socket that is connected to an instance of this user.

    Raises
    ------
    AttachError
        Nobody listens there, or it is another user's.
    """
    try:
        sock = connected_socket(path)
    except BlockingIOError:
        raise AttachError(
            "the application has too many waiting connections; is its process stopped?"
        ) from None
    except OSError as error:
        raise AttachError(f"the application cannot be reached: {error}") from None
    peer = peer_of(sock)
    if not is_own(peer):
        # Values of the application are unpickled here: it must not gain this user's rights.
        sock.close()
        raise AttachError(
            f"the application belongs to {user_named(peer.user)}; only that user attaches to it"
        )
    return sock


class Answers:
    """The parts of the answer to one request.

    Attributes
    ----------
    number : int
        Number of the request.
    """

    def __init__(self, channel: Channel, number: int) -> None:
        self.number = number
        self._channel = channel
        self._parts: deque[Answer | None] = deque()
        self._news: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._ended = False

    def next(self, within: float | None = None) -> Answer:
        """Wait for the next part, at most so many seconds; the last one's ``is`` is ``done``.

        Raises
        ------
        AttachError
            The request was refused, or the application has gone.
        Silent
            Nothing has come in time.
        """
        due = None if within is None else time.monotonic() + within
        while not self._parts:
            with contextlib.suppress(queue.Empty):
                self._news.get(timeout=min(_LOOK, within or _LOOK))
            if not self._parts and due is not None and time.monotonic() > due:
                raise Silent(f"{self._channel.name} has not answered within {within:g} s")
        answer = self._parts[0]
        if answer is None:
            self._ended = True
            raise AttachError(f"{self._channel.name} has ended, or has closed the connection")
        if answer[0].get("is") in ("done", "failed"):
            self._ended = True
            self._channel.forget(self.number)
        if answer[0].get("is") == "failed":
            raise AttachError(str(answer[0].get("error")))
        # A KeyboardInterrupt comes after a call at the earliest: no part is lost.
        del self._parts[0]
        return answer

    def put(self, answer: Answer | None) -> None:
        """Add a part; None: no further one will come."""
        self._parts.append(answer)
        self._news.put(None)

    def close(self) -> None:
        """Cancel the request unless its answer is complete."""
        if not self._ended:
            self._ended = True
            self._channel.forget(self.number)
            self._channel.tell("cancel", request=self.number)

    def __enter__(self) -> Answers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Channel:
    """A connection to one instance; any thread may use it.

    Parameters
    ----------
    wire : Wire
        Closed with it.
    program : str
        What the log of the application says of this notebook.

    Attributes
    ----------
    hello : dict
        What the application has said about itself.
    """

    def __init__(self, wire: Wire, program: str) -> None:
        self._wire = wire
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._waiting: dict[int, Answers] = {}
        self._closed = False
        self._pid = os.getpid()
        try:
            self.hello = self._greet(program)
        except BaseException:
            self._wire.close()
            raise
        self._thread = threading.Thread(target=self._read, name="dask-flame-attached", daemon=True)
        self._thread.start()

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def here(self) -> bool:
        """Whether the application is a process of this machine, by the number that it says."""
        wire = self._wire
        if not isinstance(wire, SocketWire) or wire.socket.family != socket.AF_UNIX:
            return False
        try:
            return bool(peer_of(wire.socket).process == self.hello["pid"])
        except OSError:
            return False

    def close(self) -> None:
        """Detach; the application forgets what this notebook has made."""
        if os.getpid() != self._pid:  # a fork of the notebook
            self._wire.close()
            return
        self._wire.shut()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def request(
        self, operation: str, data: bytes = b"", *, within: float | None = None, **options: Any
    ) -> Answer:
        """Ask, and wait for the answer, at most ``within`` seconds.

        Raises
        ------
        AttachError
            It was refused, or the application has gone.
        """
        with self.answers(operation, data, **options) as answers:
            while (answer := answers.next(within))[0]["is"] != "done":
                pass
        return answer

    def answers(self, operation: str, data: bytes = b"", **options: Any) -> Answers:
        """Ask; return the parts of the answer as they come.

        Raises
        ------
        AttachError
            The attachment is over.
        """
        if os.getpid() != self._pid:
            raise AttachError("a fork of the notebook cannot use its attachment; attach again")
        number = next(self._numbers)
        answers = Answers(self, number)
        with self._lock:
            if self._closed:
                raise AttachError(f"{self.name}: the attachment is over; attach again")
            self._waiting[number] = answers
        try:
            self._wire.send({"id": number, "do": operation, **options}, data)
        except (OSError, ValueError) as error:
            self.forget(number)
            raise AttachError(f"{self.name}: {error}") from None
        return answers

    def forget(self, number: int) -> None:
        """Drop further parts of the answer to a request."""
        with self._lock:
            self._waiting.pop(number, None)

    def tell(self, operation: str, **options: Any) -> None:
        """Send a request whose answer does not matter."""
        with contextlib.suppress(OSError):
            self._wire.send({"id": next(self._numbers), "do": operation, **options})

    @property
    def name(self) -> str:
        """The application, for errors."""
        return f"{self.hello['application']} (pid {self.hello['pid']})"

    def _greet(self, program: str) -> dict[str, Any]:
        timer = threading.Timer(_GREET_WITHIN, self._wire.shut)
        timer.daemon = True
        timer.start()
        try:
            received = self._wire.receive()
        except (Broken, OSError) as error:
            raise AttachError(f"the application cannot be attached to: {error}") from None
        finally:
            timer.cancel()
            timer.join()
        if received is None:
            raise AttachError(
                "the application does not greet: its process is stopped or holds Python's lock, "
                "or too many notebooks are attached"
            )
        hello = received[0]
        if hello.get("protocol") != PROTOCOL:
            raise AttachError(
                f"the application has another version of dask-flame (protocol "
                f"{hello.get('protocol')}, here {PROTOCOL}); install the same on both sides"
            )
        self._wire.send({"do": "attach", "program": program})
        return hello

    def _read(self) -> None:
        try:
            while (received := self._wire.receive()) is not None:
                with self._lock:
                    answers = self._waiting.get(received[0].get("id", 0))
                if answers is not None:
                    answers.put(received)
        except OSError:
            pass
        finally:
            with self._lock:
                self._closed = True
                waiting = [*self._waiting.values()]
            for answers in waiting:
                answers.put(None)
            self._wire.close()


def program() -> str:
    """Return what this process says of itself to applications."""
    words = [os.path.basename(sys.argv[0]) if sys.argv and sys.argv[0] else "python"]
    return " ".join(words)
