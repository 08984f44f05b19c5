"""Replicate the store of reports to clients (scheduler)."""

from __future__ import annotations

import contextlib
from typing import Any

from distributed import Scheduler
from distributed.comm import CommClosedError

from dask_flame.reports.changes import Change
from dask_flame.reports.scheduler.store import ReportStore
from dask_flame.reports.wire import FOLLOW

#: Maximum number of queued messages for a client; beyond it the client must reload the store.
_MAX_QUEUED = 10_000


class Followers:
    """Sends the changes of a store to clients, on the stream that also carries task results.

    Reports of a call therefore arrive before its result. Changes are numbered. A client that missed
    some, because its connection broke or it did not read, is notified and requests the whole store.

    Parameters
    ----------
    scheduler : Scheduler
    store : ReportStore
    """

    def __init__(self, scheduler: Scheduler, store: ReportStore) -> None:
        self._scheduler = scheduler
        self._store = store
        self._number = 0
        self._clients: dict[str, bool] = {}  # whether the client missed a change
        scheduler.handlers[FOLLOW] = self.follow

    def follow(self, client: str) -> dict[str, Any]:
        """Subscribe a client to changes, and return the content of the store."""
        if not self._clients:
            self._store.subscribe(self._changed)
        self._clients[client] = False
        limits = self._store.limits
        return {"number": self._number, "limits": limits, "calls": self._store.dump()}

    def reconnected(self, client: str) -> None:
        """Handle a client that connected, perhaps again."""
        if client in self._clients:
            # Wait until its new stream exists.
            self._scheduler.loop.add_callback(self._notify_missed, client)

    def remove(self, client: str) -> None:
        """Unsubscribe a client that disconnected."""
        if self._clients.pop(client, None) is not None and not self._clients:
            self._store.unsubscribe(self._changed)

    def close(self) -> None:
        """Unsubscribe all clients."""
        for client in list(self._clients):
            self.remove(client)
        self._scheduler.handlers.pop(FOLLOW, None)

    def _changed(self, change: Change) -> None:
        self._number += 1
        message = None
        for client, behind in self._clients.items():
            stream = self._scheduler.client_comms.get(client)
            if behind or stream is None:
                continue
            if len(stream.buffer) > _MAX_QUEUED:
                self._notify_missed(client)
            else:
                message = message or change.pack()
                self._send(client, message)

    def _notify_missed(self, client: str) -> None:
        if client in self._clients:
            self._clients[client] = True
            self._send(client, None)

    def _send(self, client: str, message: Any) -> None:
        stream = self._scheduler.client_comms.get(client)
        if stream is not None:
            event = (self._number, message)
            # The scheduler is about to remove a closed stream; the client may reconnect.
            with contextlib.suppress(CommClosedError):
                stream.send({"op": "event", "topic": FOLLOW, "event": event})
