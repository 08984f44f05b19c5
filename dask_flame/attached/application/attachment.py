"""One notebook that is connected to this process (application)."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from dask_flame.attached.application import completion
from dask_flame.attached.application.audit import Log, command
from dask_flame.attached.application.session import Session
from dask_flame.attached.tokens import prove_to_notebook
from dask_flame.attached.wire import PROTOCOL, SocketWire, Wire
from dask_flame.core.peers import Peer, user_named
from dask_flame.errors import AttachError

if TYPE_CHECKING:
    import logging

    from dask_flame.attached.application.server import Server

#: Maximum number of characters of what a notebook says about itself.
_MOST_SAID = 200
#: Seconds for the proof and the first message of whoever connects.
_GREET_WITHIN = 10.0


def serve(
    wire: Wire,
    name: str,
    *,
    who: str,
    started: float,
    readonly: bool = False,
    log: logging.Logger | None = None,
    options: Mapping[str, Any] | None = None,
    main: Mapping[str, Any] | None = None,
    greeted: Callable[[], object] | None = None,
) -> None:
    """Greet a notebook, and serve its requests in this thread until it detaches or ends.

    Parameters
    ----------
    wire : Wire
        A connection to a notebook that has proved who it is. It is not closed.
    name : str
        Name of the application.
    who : str
        User and process of the notebook, for the log.
    started : float
        When this process was exposed, in seconds since the epoch.
    readonly : bool, default False
        Whether to answer questions only.
    log : logging.Logger, optional
    options : mapping of str to object, optional
        What questions may need to know: ``Asked.options``.
    main : mapping of str to object, optional
        Names that cells can use; by default the variables of the main module.
    greeted : callable, optional
        Called when the notebook has said that it wants to attach.
    """
    wire.send(
        {
            "is": "hello",
            "protocol": PROTOCOL,
            "application": name,
            "pid": os.getpid(),
            "started": started,
            "readonly": readonly,
            "command": command(),
        }
    )
    first = wire.receive()
    if first is None or first[0].get("do") != "attach":
        return  # somebody has looked whether this application is alive
    if greeted is not None:
        greeted()
    said = str(first[0].get("program", ""))[:_MOST_SAID]
    entries = Log(name, f"{who}, {said!r}", log)
    session = Session(
        name,
        wire.send,
        log=entries,
        readonly=readonly,
        options={"started": started, **(options or {})},
        main=main,
    )
    entries.note("attach", "has attached")
    if not readonly:
        completion.load()
    try:
        while (received := wire.receive()) is not None:
            session.handle(*received)
    finally:
        session.close()
        entries.note("detach", "has detached")


class Attachment:
    """Serves one notebook, in a thread.

    Parameters
    ----------
    server : Server
    connection : socket.socket
    peer : Peer or None
        A process of this user; None for a connection whose other end has to prove the token.
    token : bytes or None

    Attributes
    ----------
    greeted : bool
        Whether it is a notebook that has attached.
    by_token : bool
        Whether the other end has to prove the token.
    """

    def __init__(
        self,
        server: Server,
        connection: socket.socket,
        peer: Peer | None,
        token: bytes | None,
    ) -> None:
        self._server = server
        self._socket = connection
        self._peer = peer
        self._token = token
        self.greeted = False
        self.by_token = peer is None
        self._gives_way = False
        # A connection over which nothing is said must not keep its place.
        self._timer = threading.Timer(_GREET_WITHIN, self.shut)
        self._timer.daemon = True
        self._thread = threading.Thread(target=self._run, name="dask-flame-attach", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def shut(self) -> None:
        """End the connection, so that what it runs is interrupted."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    @property
    def is_begun(self) -> bool:
        """Whether it takes a place, and has not shown that a notebook is at its other end."""
        return not (self.greeted or self._gives_way)

    def give_way(self) -> None:
        """End it, as another connection needs its place."""
        self._gives_way = True
        self.shut()

    def join(self, within: float) -> None:
        """Wait so many seconds for the end of what it runs."""
        if threading.current_thread() is not self._thread:
            self._thread.join(within)

    def disown(self) -> None:
        """Close a connection that belongs to the parent of this process."""
        self._socket.close()

    def _run(self) -> None:
        server = self._server
        try:
            self._timer.start()
            with contextlib.suppress(OSError):
                self._serve()
        finally:
            self._timer.cancel()
            self._timer.join()
            self._socket.close()
            server.ended(self)

    def _serve(self) -> None:
        server, seal = self._server, None
        if self._peer is not None:
            who = f"{user_named(self._peer.user)}, pid {self._peer.process}"
        else:
            host, port = self._socket.getpeername()[:2]
            who = f"with the token, from {host}:{port}"
            assert self._token is not None
            try:
                seal = prove_to_notebook(self._socket, self._token)
            except AttachError:
                Log(server.name, f"{host}:{port}", server.log).note(
                    "refused", "was refused: it does not have the token"
                )
                return
        serve(
            SocketWire(self._socket, seal=seal),
            server.name,
            who=who,
            started=server.started,
            readonly=server.readonly,
            log=server.log,
            greeted=self._greeted,
        )

    def _greeted(self) -> None:
        self.greeted = True
        self._timer.cancel()
