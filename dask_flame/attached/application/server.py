"""Accept notebooks that attach to this process (application).

A thread waits for connections. It costs a thread that sleeps, and in return an application can be
attached to while its main thread is in an endless loop or waits in C code, which is when people
want to. A signal handler needs no thread, but Python runs it in the main thread only.

Before a fork the thread ends, and it starts again afterwards, so that Python does not warn of a
fork with several threads. The forked process listens on a socket of its own.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import sys
import threading
import time
from typing import Any

from dask_flame.attached.places import PORT, listen, listen_to_ports, remove
from dask_flame.core.peers import Peer, is_own, peer_of, user_named
from dask_flame.errors import AttachError

#: Maximum number of notebooks at a time.
MOST_ATTACHED = 16
#: Maximum number of connections that have not shown yet that a notebook is at their other end.
MOST_BEGUN = 32
#: Milliseconds for which a forked process must live before it listens.
_FORK_LIVES = 200
#: Seconds to wait for the end of a thread that has returned.
_END_WITHIN = 0.5
#: Seconds to wait after a failed accept: usually there are no file descriptors left.
_PAUSE = 0.5


logger = logging.getLogger("dask_flame.attach")


class Server:
    """Listens for notebooks, for one name in one process.

    Parameters
    ----------
    name : str
        Name of the application.
    readonly : bool
    log : logging.Logger or None
    token : bytes or None
        With a token, it listens on a port of the loopback address, too.
    port : int
        The first port to try.
    """

    def __init__(
        self,
        name: str,
        *,
        readonly: bool,
        log: logging.Logger | None,
        token: bytes | None = None,
        port: int = PORT,
    ) -> None:
        self.name = name
        self.readonly = readonly
        self.log = log
        self.started = time.time()
        self.path = ""
        self._token = token
        self._port = port
        self._sockets: list[socket.socket] = []
        self._wake: tuple[int, int] | None = None
        self._thread: threading.Thread | None = None
        self._attached: dict[Any, None] = {}  # the oldest first
        self._lock = threading.Lock()

    def open(self) -> None:
        """Listen; raise AttachError if that is not possible."""
        self._listen()
        self.resume()

    def resume(self) -> None:
        """Start the thread, after :meth:`open`, :meth:`pause` or :meth:`after_fork`."""
        if self._thread is not None:
            return
        self._wake = os.pipe()
        thread = threading.Thread(
            target=self._run, args=(self._wake[0],), name="dask-flame-expose", daemon=True
        )
        thread.start()
        self._thread = thread

    def pause(self) -> None:
        """End the thread. Connections wait meanwhile."""
        thread, self._thread = self._thread, None
        wake, self._wake = self._wake, None
        if wake is None or thread is None:
            return
        os.write(wake[1], b"x")
        thread.join()
        _await_end(thread)
        for descriptor in wake:
            os.close(descriptor)

    def shut(self) -> None:
        """Listen no more, and end all attachments without waiting for them."""
        self.pause()
        self._unlisten()
        if self.path:
            remove(self.path)
        for one in self._all():
            one.shut()

    def close(self, within: float = 5.0) -> None:
        """Listen no more, and end all attachments, waiting so many seconds for all together."""
        self.shut()
        due = time.monotonic() + within
        for one in self._all():
            one.join(max(0.0, due - time.monotonic()))

    def _all(self) -> list[Any]:
        with self._lock:
            return [*self._attached]

    def after_fork(self) -> None:
        """Close what a forked process has inherited: it belongs to its parent."""
        self._unlisten()
        for one in self._attached:
            one.disown()
        self._attached = {}
        self._lock = threading.Lock()
        self._thread = self._wake = None
        self.started = time.time()
        self.path = ""

    def _run(self, wake: int) -> None:
        if not self._sockets:
            # A forked process: many end at once, or execute another program.
            if _poll(wake).poll(_FORK_LIVES):
                return
            try:
                self._listen()
            except AttachError as error:
                # The application must not fail for it.
                logger.warning("%s", error)
                return
        self._accept(wake)

    def _listen(self) -> None:
        unix, self.path = listen(self.name)
        self._sockets.append(unix)
        if self._token is None:
            return
        try:
            self._sockets.append(listen_to_ports(self.name, self._port))
        except AttachError:
            self._unlisten()
            remove(self.path)
            raise

    def _unlisten(self) -> None:
        for sock in self._sockets:
            sock.close()
        self._sockets.clear()

    def _accept(self, wake: int) -> None:
        by_descriptor = {sock.fileno(): sock for sock in self._sockets}
        poll = _poll(wake, *by_descriptor)
        while True:
            ready = [descriptor for descriptor, _ in poll.poll()]
            if wake in ready:
                return
            for descriptor in ready:
                try:
                    connection, _ = by_descriptor[descriptor].accept()
                except BlockingIOError:
                    continue
                except OSError:
                    time.sleep(_PAUSE)
                    continue
                self._take(connection)

    def _take(self, connection: socket.socket) -> None:
        """Begin an attachment in a thread of its own, unless it is another user's."""
        peer = None
        if connection.family == socket.AF_UNIX:
            try:
                peer = peer_of(connection)
            except OSError:
                connection.close()
                return
        if peer is not None and not is_own(peer):
            connection.close()
            self._refused(peer)
            return
        if not self._has_room(by_token=peer is None):
            connection.close()
            return
        # Loaded when the first notebook attaches.
        from dask_flame.attached.application.attachment import Attachment

        attachment = Attachment(self, connection, peer, self._token)
        with self._lock:
            self._attached[attachment] = None
        attachment.start()

    def _has_room(self, *, by_token: bool) -> bool:
        """Return whether there is room for a connection.

        One that has proved nothing gives its place to the next: otherwise anybody who reaches the
        port could keep all others out, without a word.
        """
        with self._lock:
            greeted = sum(one.greeted for one in self._attached)
            begun = [one for one in self._attached if one.is_begun and one.by_token is by_token]
        if greeted >= MOST_ATTACHED:
            return False
        for one in begun[: len(begun) + 1 - MOST_BEGUN]:
            one.give_way()
        return True

    def _refused(self, peer: Peer) -> None:
        from dask_flame.attached.application.audit import Log

        who = f"{user_named(peer.user)}, pid {peer.process}"
        Log(self.name, who, self.log).note("refused", "was refused: it is another user")

    def ended(self, attachment: Any) -> None:
        with self._lock:
            self._attached.pop(attachment, None)


def _poll(*descriptors: int) -> select.poll:
    poll = select.poll()  # select() refuses descriptors above 1023
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return poll


def _await_end(thread: threading.Thread) -> None:
    """Wait until the system's thread has ended, too: Python 3.12 counts those at a fork."""
    if sys.platform == "linux" and sys.version_info < (3, 13):
        due = time.monotonic() + _END_WITHIN
        while os.path.exists(f"/proc/self/task/{thread.native_id}") and time.monotonic() < due:
            time.sleep(0.0001)
