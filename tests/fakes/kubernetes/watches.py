"""Watches of the fake API server: changes as lines of JSON, as they are made (test process)."""

from __future__ import annotations

import asyncio
import copy
import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

from aiohttp import web

from tests.fakes.kubernetes.api import Api
from tests.fakes.kubernetes.errors import Refused, bad_request
from tests.fakes.kubernetes.kinds import Kind
from tests.fakes.kubernetes.selectors import Chooses
from tests.fakes.kubernetes.store import Change, Object

Event = dict[str, Any]

_INITIAL_END = "k8s.io/initial-events-end"


class _Watch:
    """One that is open: what it is for, and what it is still to be told."""

    def __init__(self, request: web.Request, kind: Kind, namespace: str, chooses: Chooses) -> None:
        self.request = request
        self.kind = kind
        self.namespace = namespace
        self.chooses = chooses
        #: Changes; a refusal, after which it ends; None to end.
        self.queue: asyncio.Queue[Change | Refused | None] = asyncio.Queue()

    def event(self, change: Change) -> Event | None:
        """What the change is to this watch, if it is any of its business."""
        namespace = change.object["metadata"].get("namespace", "")
        if change.kind != self.kind or self.namespace not in ("", namespace):
            return None
        before = change.old is not None and self.chooses(change.old)
        after = change.new is not None and self.chooses(change.new)
        if after:
            return {"type": "MODIFIED" if before else "ADDED", "object": change.new}
        if not before:
            return None
        # It has gone, or is not chosen any more: what it was last, at the version of the change.
        assert change.old is not None
        last = copy.deepcopy(change.old)
        last["metadata"]["resourceVersion"] = str(change.version)
        return {"type": "DELETED", "object": last}


class Watches:
    """All watches that are open.

    Parameters
    ----------
    api : Api
    bookmarks : float
        Seconds between the bookmarks of those that allow them.
    """

    def __init__(self, api: Api, *, bookmarks: float) -> None:
        self._api = api
        self._store = api.store
        self._bookmarks = bookmarks
        self._open: set[_Watch] = set()
        #: Whether one from a forgotten version is answered with 410, or with an ERROR event.
        self.gone_at_once = False
        self._store.listeners.append(self._tell)

    def __len__(self) -> int:
        return len(self._open)

    def drop(self, *, clean: bool = False) -> None:
        """Cut all of them, or end them as a server does whose time for them is over."""
        for watch in list(self._open):
            if clean:
                watch.queue.put_nowait(None)
            elif (transport := watch.request.transport) is not None:
                transport.abort()

    def expire(self) -> None:
        """Tell all of them that their version is forgotten."""
        version = self._store.compacted
        for watch in self._open:
            message = f"too old resource version: {version - 1} ({version})"
            watch.queue.put_nowait(Refused(410, message))

    def _tell(self, change: Change) -> None:
        for watch in self._open:
            watch.queue.put_nowait(change)

    async def serve(
        self, request: web.Request, kind: Kind, namespace: str, params: Mapping[str, str]
    ) -> web.StreamResponse:
        """Answer one watch, until its time is over or it is dropped."""
        watch = _Watch(request, kind, namespace, self._api.chooser(kind, params))
        try:
            first = list(self._first(watch, params))
        except Refused as refused:
            if self.gone_at_once or refused.code != 410:
                raise
            first = [{"type": "ERROR", "object": refused.status}]
            watch.queue.put_nowait(None)
        self._open.add(watch)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        try:
            await response.prepare(request)
            for event in first:
                await _send(response, event)
            await self._follow(watch, response, params)
            await response.write_eof()
        finally:
            self._open.discard(watch)
        return response

    def _first(self, watch: _Watch, params: Mapping[str, str]) -> Iterator[Event]:
        """What a watch is told at its beginning."""
        text = params.get("resourceVersion") or "0"
        if not text.isdigit():
            raise bad_request(f'Invalid value: "{text}": invalid resource version')
        initial = params.get("sendInitialEvents") == "true"
        if initial or text == "0":
            for obj in self._store.items(watch.kind, watch.namespace):
                if watch.chooses(obj):
                    yield {"type": "ADDED", "object": obj}
            if initial:
                bookmark = self._bookmark(watch.kind)
                bookmark["object"]["metadata"]["annotations"] = {_INITIAL_END: "true"}
                yield bookmark
            return
        for change in self._store.since(int(text)):
            if event := watch.event(change):
                yield event

    async def _follow(
        self, watch: _Watch, response: web.StreamResponse, params: Mapping[str, str]
    ) -> None:
        ends = time.monotonic() + float(params.get("timeoutSeconds") or 3600)
        marks = params.get("allowWatchBookmarks") in ("true", "1")
        marked = time.monotonic()
        while True:
            wait = ends - time.monotonic()
            if marks:
                wait = min(wait, marked + self._bookmarks - time.monotonic())
            try:
                change = await asyncio.wait_for(watch.queue.get(), max(wait, 0.001))
            except TimeoutError:
                over = time.monotonic() >= ends
                if marks:
                    marked = time.monotonic()
                    await _send(response, self._bookmark(watch.kind))
                if over:
                    return
                continue
            if change is None:
                return
            if isinstance(change, Refused):
                await _send(response, {"type": "ERROR", "object": change.status})
                return
            if event := watch.event(change):
                await _send(response, event)

    def _bookmark(self, kind: Kind) -> Event:
        """How far the watch is, though nothing may have happened to what it is for."""
        meta: Object = {"resourceVersion": str(self._store.version), "creationTimestamp": None}
        return {
            "type": "BOOKMARK",
            "object": {"kind": kind.name, "apiVersion": kind.version, "metadata": meta},
        }


async def _send(response: web.StreamResponse, event: Event) -> None:
    await response.write(json.dumps(event).encode() + b"\n")
