"""Tell those who keep a copy of the report store of its changes (scheduler)."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, Protocol

from distributed import Scheduler
from distributed.comm import CommClosedError

from dask_flame.reports.changes import Change
from dask_flame.reports.scheduler.store import ReportStore
from dask_flame.reports.wire import FOLLOW

#: Messages that may wait in a client's stream. Beyond it, the client asks for the store anew.
_MAX_QUEUED = 10_000


class Follower(Protocol):
    """A connection to one copy of the store. It delivers in order, and may lose messages."""

    @property
    def crowded(self) -> bool:
        """Whether too many messages wait to be sent."""

    def send(self, number: int, change: Mapping[str, Any] | None) -> None:
        """Send a packed change with its number; None means that changes are missing."""


class ReportPublisher:
    """Send the numbered changes of a store to those who keep a copy of it.

    A copy begins with the whole store (:meth:`follow`). A copy that has missed changes, because its
    connection broke or because it does not read, receives a single None and asks for the whole
    store again: see :class:`dask_flame.reports.driver.replica.ReportReplica`.

    Parameters
    ----------
    store : ReportStore
    """

    def __init__(self, store: ReportStore) -> None:
        self._store = store
        self._number = 0
        self._followers: dict[str, Follower] = {}
        self._behind: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._followers

    def follow(self, name: str, follower: Follower) -> dict[str, Any]:
        """Return the whole store, and send its changes from now on.

        Parameters
        ----------
        name : str
            Of the copy; a follower with the same name is replaced.
        follower : Follower

        Returns
        -------
        dict
            What :meth:`dask_flame.reports.driver.replica.ReportReplica.follow` takes in.
        """
        if not self._followers:
            self._store.subscribe(self._changed)
        self._followers[name] = follower
        self._behind.discard(name)
        return {"number": self._number, "limits": self._store.limits, "calls": self._store.dump()}

    def missed(self, name: str) -> None:
        """Tell a follower that changes are missing, and send no more until it follows again."""
        if name in self._followers:
            self._behind.add(name)
            self._followers[name].send(self._number, None)

    def leave(self, name: str) -> None:
        """Send nothing more to this follower, if there is one with this name."""
        self._behind.discard(name)
        if self._followers.pop(name, None) is not None and not self._followers:
            self._store.unsubscribe(self._changed)

    def close(self) -> None:
        """Send nothing more to anybody."""
        for name in list(self._followers):
            self.leave(name)

    def _changed(self, change: Change) -> None:
        self._number += 1
        packed = None
        for name, follower in self._followers.items():
            if name in self._behind:
                continue
            if follower.crowded:
                self.missed(name)
            else:
                packed = packed or change.pack()
                follower.send(self._number, packed)


class ClientFollowers:
    """Publish a store to Dask clients, over the stream on which the scheduler tells of results.

    A report is therefore at a client before the result of its call.

    Parameters
    ----------
    scheduler : Scheduler
    store : ReportStore
    """

    def __init__(self, scheduler: Scheduler, store: ReportStore) -> None:
        self._scheduler = scheduler
        self._publisher = ReportPublisher(store)
        scheduler.handlers[FOLLOW] = self._follow

    def _follow(self, client: str) -> dict[str, Any]:
        return self._publisher.follow(client, _ClientStream(self._scheduler, client))

    def reconnected(self, client: str) -> None:
        """Note that a client has connected, perhaps again."""
        if client in self._publisher:
            # Later, when its new stream is there.
            self._scheduler.loop.add_callback(self._publisher.missed, client)

    def remove(self, client: str) -> None:
        """Forget a client that is gone."""
        self._publisher.leave(client)

    def close(self) -> None:
        """Send nothing more to anybody."""
        self._publisher.close()
        self._scheduler.handlers.pop(FOLLOW, None)


class _ClientStream:
    """A :class:`Follower` that is a Dask client; its stream is replaced when it reconnects."""

    def __init__(self, scheduler: Scheduler, client: str) -> None:
        self._scheduler = scheduler
        self._client = client

    @property
    def crowded(self) -> bool:
        stream = self._scheduler.client_comms.get(self._client)
        return stream is not None and len(stream.buffer) > _MAX_QUEUED

    def send(self, number: int, change: Mapping[str, Any] | None) -> None:
        stream = self._scheduler.client_comms.get(self._client)
        if stream is not None:
            # A closed stream is about to be removed; the client may come back with another.
            with contextlib.suppress(CommClosedError):
                stream.send({"op": "event", "topic": FOLLOW, "event": (number, change)})
