"""What the fake API server keeps, and the history of its changes (test process)."""

from __future__ import annotations

import copy
import datetime
import uuid
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.fakes.kubernetes.errors import already_exists, conflict, expired, not_found
from tests.fakes.kubernetes.kinds import Kind

Object = dict[str, Any]
Key = tuple[str, str]


def now(ahead: float = 0.0) -> str:
    """The time as Kubernetes writes it, in whole seconds."""
    time = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=ahead)
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True)
class Change:
    """One write: the object before and after it, None where there was none."""

    version: int
    kind: Kind
    old: Object | None
    new: Object | None

    @property
    def object(self) -> Object:
        """What there is now, or, of what has gone, what it was at the end."""
        thing = self.new or self.old
        assert thing is not None
        return thing


class Store:
    """Objects by kind, namespace and name, with one counter of versions for all of them.

    What it gives out must not be written to: whoever changes an object writes a copy. It is used
    by one thread.

    Attributes
    ----------
    version : int
        Of the latest write: ``metadata.resourceVersion``, and that of lists.
    compacted : int
        Changes up to this one are forgotten.
    listeners : list of callable
        Called with every change, at once.
    """

    def __init__(self) -> None:
        # Not from 1, so that nobody takes a version for a count.
        self.version = 1000
        self.compacted = self.version
        self.listeners: list[Callable[[Change], None]] = []
        self._objects: dict[Kind, dict[Key, Object]] = defaultdict(dict)
        self._history: list[Change] = []

    def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        return self._objects[kind].get((namespace if kind.namespaced else "", name))

    def need(self, kind: Kind, namespace: str, name: str) -> Object:
        """Get, or be refused with 404."""
        obj = self.get(kind, namespace, name)
        if obj is None:
            raise not_found(kind, name)
        return obj

    def items(self, kind: Kind, namespace: str = "") -> list[Object]:
        """Objects of a kind, by namespace and name; of all namespaces unless told."""
        there = self._objects[kind]
        return [there[key] for key in sorted(there) if namespace in ("", key[0])]

    def all(self) -> list[tuple[Kind, Object]]:
        return [(kind, obj) for kind, there in self._objects.items() for obj in there.values()]

    def since(self, version: int) -> list[Change]:
        """Changes after a version; 410 if they are forgotten."""
        if version < self.compacted:
            raise expired(f"too old resource version: {version} ({self.compacted})")
        return [change for change in self._history if change.version > version]

    def compact(self) -> None:
        """Forget all changes so far."""
        self._history.clear()
        self.version += 1
        self.compacted = self.version

    def create(self, kind: Kind, obj: Object) -> Object:
        """Keep a new object; it gets its version here, and a uid and a time if it has none."""
        meta = obj["metadata"]
        key = self._key(kind, obj)
        if key in self._objects[kind]:
            raise already_exists(kind, meta["name"])
        obj = copy.deepcopy(obj)
        meta = obj["metadata"]
        meta.setdefault("uid", str(uuid.uuid4()))
        meta.setdefault("creationTimestamp", now())
        return self._write(kind, key, None, obj)

    def update(self, kind: Kind, obj: Object, *, version: str | None = None) -> Object | None:
        """Write an object that is there; None if it went with its last finalizer.

        Parameters
        ----------
        kind : Kind
        obj : dict
        version : str, optional
            What it must have been made from; 409 if it has changed since.
        """
        key = self._key(kind, obj)
        old = self._objects[kind].get(key)
        if old is None:
            raise not_found(kind, key[1])
        if version and version != old["metadata"]["resourceVersion"]:
            raise conflict(kind, key[1])
        obj = copy.deepcopy(obj)
        obj["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"]
        if not obj["metadata"].get("finalizers"):
            obj["metadata"].pop("finalizers", None)
        if obj == old:
            return old  # as in a real one, what changes nothing is not written
        if _ends(obj):
            self._forget(kind, key, obj)
            return None
        return self._write(kind, key, old, obj)

    def modify(self, kind: Kind, obj: Object, change: Callable[[Object], None]) -> Object | None:
        """Change what has this name and uid, if it is still there."""
        old = self.get(kind, obj["metadata"].get("namespace", ""), obj["metadata"]["name"])
        if old is None or old["metadata"]["uid"] != obj["metadata"]["uid"]:
            return None
        new = copy.deepcopy(old)
        change(new)
        return self.update(kind, new)

    def remove(self, kind: Kind, obj: Object) -> None:
        """Take away an object, whose grace is over; one with finalizers stays until they are gone.

        Nothing happens if it has gone already.
        """

        def over(obj: Object) -> None:
            obj["metadata"].setdefault("deletionTimestamp", now())
            obj["metadata"]["deletionGracePeriodSeconds"] = 0

        self.modify(kind, obj, over)

    def _key(self, kind: Kind, obj: Object) -> Key:
        meta = obj["metadata"]
        return meta.get("namespace", "") if kind.namespaced else "", meta["name"]

    def _write(self, kind: Kind, key: Key, old: Object | None, new: Object) -> Object:
        self.version += 1
        new["metadata"]["resourceVersion"] = str(self.version)
        self._objects[kind][key] = new
        self._tell(Change(self.version, kind, old, new))
        return new

    def _forget(self, kind: Kind, key: Key, last: Object) -> None:
        del self._objects[kind][key]
        self.version += 1
        last["metadata"]["resourceVersion"] = str(self.version)
        self._tell(Change(self.version, kind, last, None))

    def _tell(self, change: Change) -> None:
        self._history.append(change)
        for listener in list(self.listeners):
            listener(change)


def _ends(obj: Object) -> bool:
    meta = obj["metadata"]
    return (
        "deletionTimestamp" in meta
        and not meta.get("finalizers")
        and not meta.get("deletionGracePeriodSeconds")
        # A namespace's own, which goes when it is empty.
        and not (obj.get("spec") or {}).get("finalizers")
    )
