"""Events, as the parts of a cluster write them (test process)."""

from __future__ import annotations

import uuid

from tests.fakes.kubernetes.kinds import EVENTS, NAMESPACES, by_name
from tests.fakes.kubernetes.store import Object, Store, now


class Recorder:
    """Writes Events about objects; the same again only counts.

    Parameters
    ----------
    store : Store
    component : str
        Who says it: ``"kubelet"``, ``"default-scheduler"``, ``"job-controller"``.
    """

    def __init__(self, store: Store, component: str) -> None:
        self._store = store
        self._component = component
        self._said: dict[tuple[str, str, str], Object] = {}

    def say(
        self, about: Object, reason: str, message: str, *, warning: bool = False, node: str = ""
    ) -> None:
        """Write one Event, where the object's namespace is still there."""
        meta = about["metadata"]
        namespace = meta.get("namespace", "default")
        key = meta["uid"], reason, message
        if key in self._said and self._store.modify(EVENTS, self._said[key], _again):
            return
        if self._store.get(NAMESPACES, "", namespace) is None:
            return
        kind = by_name(about["apiVersion"], about["kind"])
        assert kind is not None
        time = now()
        self._said[key] = self._store.create(
            EVENTS,
            {
                "apiVersion": "v1",
                "kind": "Event",
                "metadata": {
                    "name": f"{meta['name']}.{uuid.uuid4().hex[:16]}",
                    "namespace": namespace,
                },
                "involvedObject": {
                    "apiVersion": about["apiVersion"],
                    "kind": about["kind"],
                    "name": meta["name"],
                    "namespace": namespace,
                    "uid": meta["uid"],
                    "resourceVersion": meta["resourceVersion"],
                },
                "reason": reason,
                "message": message,
                "type": "Warning" if warning else "Normal",
                "source": {"component": self._component, **({"host": node} if node else {})},
                "reportingComponent": self._component,
                "reportingInstance": node,
                "firstTimestamp": time,
                "lastTimestamp": time,
                "eventTime": None,
                "count": 1,
            },
        )


def _again(event: Object) -> None:
    event["count"] += 1
    event["lastTimestamp"] = now()
