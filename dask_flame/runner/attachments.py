"""Run cells inside a runner's process, beside its calls (runner).

A notebook attaches to a runner as to an application (:mod:`dask_flame.attached`), only that its
connection goes through the scheduler. A cell is no call: it takes no slot, and an idle runner ends
with its attachments.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from distributed import Worker
from distributed.comm import Comm

from dask_flame.core.messages import ATTACH

if TYPE_CHECKING:
    from dask_flame.runner.post_mortems import PostMortems


class Attachments:
    """Serves the notebooks that are attached to a runner.

    Parameters
    ----------
    worker : distributed.Worker
    post_mortems : PostMortems or None
        The calls in whose frames cells may run.

    Attributes
    ----------
    handlers : mapping of str to callable
        Requests of the scheduler.
    """

    def __init__(self, worker: Worker, post_mortems: PostMortems | None) -> None:
        self._worker = worker
        self._post_mortems = post_mortems
        self._since = time.time()
        self.handlers: dict[str, Callable[..., Any]] = {ATTACH: self.attach}

    async def attach(self, comm: Comm, key: Any = None, frame: int = -1, **kwargs: Any) -> None:
        """Serve a notebook until it detaches.

        Parameters
        ----------
        comm : distributed.comm.Comm
            Carries the bytes of a connection of :class:`dask_flame.attached.wire.SocketWire` after
            the first message.
        key : Key, optional
            Of a failed call: cells run in one of its frames.
        frame : int, default -1
        """
        # Loaded when somebody attaches, as most runners never need it.
        from dask_flame.core.tunnel import carry

        ours, theirs = socket.socketpair()
        try:
            names = {} if key is None else self._names(key, frame, ours)
        except LookupError as error:
            ours.close()
            theirs.close()
            await comm.write({"failed": str(error.args[0])})
            await comm.close()
            return
        serving = threading.Thread(
            target=self._serve, args=(theirs, names), name="dask-flame-attach", daemon=True
        )
        serving.start()
        del names  # only the thread's, which ends when the frames are released
        try:
            await comm.write({"status": "OK"})
            reader, writer = await asyncio.open_connection(sock=ours)
        except BaseException:
            ours.close()
            raise
        await carry(comm, reader, writer)

    def _names(self, key: Any, frame: int, ours: socket.socket) -> Mapping[str, Any]:
        if self._post_mortems is None:
            raise LookupError(
                f"the pool of {self._worker.name} keeps no frames; write Pool(post_mortem=True)"
            )
        return self._post_mortems.names(key, frame, ours)

    def _serve(self, connection: socket.socket, names: Mapping[str, Any]) -> None:
        from dask_flame.attached.application.attachment import serve
        from dask_flame.attached.wire import SocketWire

        wire = SocketWire(connection)
        try:
            with contextlib.suppress(OSError):
                serve(
                    wire,
                    str(self._worker.name),
                    who="the driver",
                    started=self._since,
                    main=names,
                )
        finally:
            wire.close()
