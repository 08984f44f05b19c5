"""What is deleted because its owner, or its namespace, is (test process)."""

from __future__ import annotations

import asyncio
import contextlib

from tests.fakes.kubernetes.api import FOREGROUND, ORPHAN, Api
from tests.fakes.kubernetes.errors import Refused
from tests.fakes.kubernetes.kinds import NAMESPACES, Kind, by_name
from tests.fakes.kubernetes.store import Change, Object


class Garbage:
    """Deletes in the background what no owner is left of, as the garbage collector does.

    Owners are looked for by their uid, in the namespace of what they own, or in none. An owner of a
    kind that the server does not have counts as there.

    Parameters
    ----------
    api : Api
    """

    def __init__(self, api: Api) -> None:
        self._api = api
        self._store = api.store
        self._wake = asyncio.Event()
        self._store.listeners.append(self._look)

    def _look(self, change: Change) -> None:
        meta = change.object["metadata"]
        if change.new is None or "deletionTimestamp" in meta or meta.get("ownerReferences"):
            self._wake.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._wake.wait()
            # What is deleted in one go has gone before its dependents are looked at.
            await asyncio.sleep(0)
            self._wake.clear()
            everything = self._store.all()
            uids = {obj["metadata"]["uid"] for _, obj in everything}
            for kind, obj in everything:
                if self._store.get(*_key(kind, obj)) is obj:
                    self._one(kind, obj, uids)

    def _one(self, kind: Kind, obj: Object, uids: set[str]) -> None:
        meta = obj["metadata"]
        if kind == NAMESPACES and "deletionTimestamp" in meta:
            self._empty(obj)
            return
        finalizers = meta.get("finalizers") or []
        if "deletionTimestamp" in meta and ORPHAN in finalizers:
            for other, dependent in self._dependents(obj):
                self._store.modify(other, dependent, lambda o: _disown(o, meta["uid"]))
            self._store.modify(kind, obj, lambda o: _drop(o, ORPHAN))
        elif "deletionTimestamp" in meta and FOREGROUND in finalizers:
            blocking = False
            for other, dependent in self._dependents(obj):
                blocking |= _blocks(dependent, meta["uid"])
                self._delete(other, dependent, "Foreground")
            if not blocking:
                self._store.modify(kind, obj, lambda o: _drop(o, FOREGROUND))
        if "deletionTimestamp" not in meta and (owners := meta.get("ownerReferences")):
            there = [
                owner
                for owner in owners
                if owner["uid"] in uids or by_name(owner["apiVersion"], owner["kind"]) is None
            ]
            if not there:
                self._delete(kind, obj, "Background")

    def _dependents(self, owner: Object) -> list[tuple[Kind, Object]]:
        uid = owner["metadata"]["uid"]
        return [
            (kind, obj)
            for kind, obj in self._store.all()
            if any(o["uid"] == uid for o in obj["metadata"].get("ownerReferences") or [])
        ]

    def _empty(self, namespace: Object) -> None:
        """Delete what is in a namespace, and, when nothing is, the namespace."""
        name = namespace["metadata"]["name"]
        inside = [(k, o) for k, o in self._store.all() if o["metadata"].get("namespace") == name]
        for kind, obj in inside:
            self._delete(kind, obj, "Background")
        if not any(o["metadata"].get("namespace") == name for _, o in self._store.all()):
            self._store.modify(NAMESPACES, namespace, lambda o: o["spec"].pop("finalizers", None))

    def _delete(self, kind: Kind, obj: Object, policy: str) -> None:
        if "deletionTimestamp" in obj["metadata"]:
            return
        meta = obj["metadata"]
        options = {"propagationPolicy": policy, "preconditions": {"uid": meta["uid"]}}
        # It may have gone, or be another one by now.
        with contextlib.suppress(Refused):
            self._api.delete(kind, meta.get("namespace", ""), meta["name"], options)


def _key(kind: Kind, obj: Object) -> tuple[Kind, str, str]:
    return kind, obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


def _blocks(obj: Object, uid: str) -> bool:
    return any(
        owner["uid"] == uid and owner.get("blockOwnerDeletion")
        for owner in obj["metadata"]["ownerReferences"]
    )


def _disown(obj: Object, uid: str) -> None:
    obj["metadata"]["ownerReferences"] = [
        owner for owner in obj["metadata"]["ownerReferences"] if owner["uid"] != uid
    ]


def _drop(obj: Object, finalizer: str) -> None:
    obj["metadata"]["finalizers"] = [
        one for one in obj["metadata"].get("finalizers") or [] if one != finalizer
    ]
