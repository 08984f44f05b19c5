"""Clients that keep a copy of the store of reports, and are told of its changes (scheduler)."""

from __future__ import annotations

import contextlib
from typing import Any

from distributed import Scheduler
from distributed.comm import CommClosedError

from dask_flame.reports.changes import Change
from dask_flame.reports.scheduler.store import ReportStore
from dask_flame.reports.wire import FOLLOW

#: Messages that may wait for a client that does not read; beyond it, it has to begin anew.
_MOST_WAITING = 10_000


class Followers:
    """Tells clients of a store's changes, over the stream that Dask tells them of results on.

    So what a call has reported is at a client before its result. Changes are numbered. A client
    that has missed some, as its connection broke or it did not read, is told so, and then asks for
    the whole store again.

    Parameters
    ----------
    scheduler : Scheduler
    store : ReportStore
    """

    def __init__(self, scheduler: Scheduler, store: ReportStore) -> None:
        self._scheduler = scheduler
        self._store = store
        self._number = 0
        self._clients: dict[str, bool] = {}  # whether it has missed something
        scheduler.handlers[FOLLOW] = self.follow

    def follow(self, client: str) -> dict[str, Any]:
        """What is in the store, for a client that will be told of what comes after it."""
        if not self._clients:
            self._store.subscribe(self._changed)
        self._clients[client] = False
        limits = self._store.limits
        return {"number": self._number, "limits": limits, "calls": self._store.dump()}

    def returned(self, client: str) -> None:
        """A client has connected, perhaps again."""
        if client in self._clients:
            # When its new stream is there.
            self._scheduler.loop.add_callback(self._missed, client)

    def leave(self, client: str) -> None:
        """A client is gone."""
        if self._clients.pop(client, None) is not None and not self._clients:
            self._store.unsubscribe(self._changed)

    def close(self) -> None:
        """Tell nobody anything more."""
        for client in list(self._clients):
            self.leave(client)
        self._scheduler.handlers.pop(FOLLOW, None)

    def _changed(self, change: Change) -> None:
        self._number += 1
        message = None
        for client, behind in self._clients.items():
            stream = self._scheduler.client_comms.get(client)
            if behind or stream is None:
                continue
            if len(stream.buffer) > _MOST_WAITING:
                self._missed(client)
            else:
                message = message or change.pack()
                self._send(client, message)

    def _missed(self, client: str) -> None:
        if client in self._clients:
            self._clients[client] = True
            self._send(client, None)

    def _send(self, client: str, message: Any) -> None:
        stream = self._scheduler.client_comms.get(client)
        if stream is not None:
            event = (self._number, message)
            # One that is closed is about to be taken away, and to come back perhaps.
            with contextlib.suppress(CommClosedError):
                stream.send({"op": "event", "topic": FOLLOW, "event": event})
