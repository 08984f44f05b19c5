"""The fake's scheduler: which node a pod goes to, and why to none (test process)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from tests.fakes.kubernetes import conditions, quantities
from tests.fakes.kubernetes.kinds import NODES, PODS
from tests.fakes.kubernetes.recorder import Recorder
from tests.fakes.kubernetes.selectors import one_of
from tests.fakes.kubernetes.store import Change, Object, Store

_UNRESOLVABLE = "Preemption is not helpful for scheduling"
_NO_VICTIMS = "No preemption victims found for incoming pod"
_ENDED = ("Succeeded", "Failed")
_MAX_PODS = "110"


def node(given: Mapping[str, Any], index: int) -> Object:
    """A Node from what it has: amounts, and perhaps ``name``, ``labels`` and ``taints``."""
    amounts = {
        "pods": _MAX_PODS,
        **{k: str(v) for k, v in given.items() if k not in ("name", "labels", "taints")},
    }
    name = given.get("name", f"node-{index}")
    labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {**labels, **given.get("labels", {})}},
        "spec": {"taints": [dict(taint) for taint in given.get("taints", [])]},
        "status": {
            "allocatable": amounts,
            "capacity": amounts,
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
        },
    }


class Scheduler:
    """Binds pods to nodes that have room, in the order in which they came.

    It knows nodes' amounts, labels, required node affinities, taints and ``unschedulable``; not
    preferences, spreading, affinities between pods, ports, volumes or preemption. Of the nodes
    that fit, it takes the first.

    Parameters
    ----------
    store : Store
    delay : float
        Seconds from a pod's creation to its binding.
    """

    def __init__(self, store: Store, *, delay: float) -> None:
        self.delay = delay
        self.held = False
        self._store = store
        self._events = Recorder(store, "default-scheduler")
        self._wake = asyncio.Event()
        #: By uid, when a pod may be bound.
        self._due: dict[str, float] = {}
        store.listeners.append(self._look)

    def wake(self) -> None:
        self._wake.set()

    def _look(self, change: Change) -> None:
        if change.kind == NODES:
            self.wake()
        elif change.kind == PODS:
            pod = change.object
            if change.old is None:
                self._due[pod["metadata"]["uid"]] = asyncio.get_running_loop().time() + self.delay
                self.wake()
            elif change.new is None or pod["status"]["phase"] in _ENDED:
                self._due.pop(pod["metadata"]["uid"], None)
                self.wake()

    async def run(self) -> None:
        """Look at the pods without a node whenever something has changed; until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while not self.held and (wait := self._pass()) is not None:
                try:
                    await asyncio.wait_for(self._wake.wait(), max(wait, 0.001))
                except TimeoutError:
                    continue
                self._wake.clear()

    def _pass(self) -> float | None:
        """Bind what can be bound; seconds until the next is due, None if none is."""
        now = asyncio.get_running_loop().time()
        waiting = [
            pod
            for pod in self._store.items(PODS)
            if not pod["spec"].get("nodeName")
            and "deletionTimestamp" not in pod["metadata"]
            and pod["status"]["phase"] == "Pending"
            and not pod["spec"].get("schedulingGates")
        ]
        waiting.sort(key=lambda pod: int(pod["metadata"]["resourceVersion"]))
        waiting.sort(key=lambda pod: self._due.get(pod["metadata"]["uid"], 0))
        later = []
        nodes = list(self._store.items(NODES))
        used = self._used() if waiting else {}
        for pod in waiting:
            due = self._due.get(pod["metadata"]["uid"], 0.0)
            if due > now:
                later.append(due - now)
            else:
                self._place(pod, nodes, used)
        return min(later) if later else None

    def _used(self) -> dict[str, quantities.Amounts]:
        used: dict[str, quantities.Amounts] = {}
        for pod in self._store.items(PODS):
            name = pod["spec"].get("nodeName")
            if name and pod["status"]["phase"] not in _ENDED:
                used[name] = quantities.add(used.get(name, {}), _asks(pod))
        return used

    def _place(self, pod: Object, nodes: list[Object], used: dict[str, quantities.Amounts]) -> None:
        reasons: Counter[str] = Counter()
        hopeless = 0
        for candidate in nodes:
            name = candidate["metadata"]["name"]
            why, unresolvable = _unfit(pod, candidate, used.get(name, {}))
            if not why:
                used[name] = quantities.add(used.get(name, {}), _asks(pod))
                self._bind(pod, name)
                return
            reasons.update(why)
            hopeless += unresolvable
        self._leave(pod, len(nodes), reasons, hopeless)

    def _bind(self, pod: Object, name: str) -> None:
        def bind(obj: Object) -> None:
            obj["spec"]["nodeName"] = name
            conditions.put(obj, "PodScheduled", True)

        self._due.pop(pod["metadata"]["uid"], None)
        meta = pod["metadata"]
        text = f"Successfully assigned {meta['namespace']}/{meta['name']} to {name}"
        self._events.say(pod, "Scheduled", text)
        self._store.modify(PODS, pod, bind)

    def _leave(self, pod: Object, total: int, reasons: Counter[str], hopeless: int) -> None:
        message = "no nodes available to schedule pods"
        if total:
            ends = [(hopeless, _UNRESOLVABLE), (total - hopeless, _NO_VICTIMS)]
            preemption = ", ".join(sorted(f"{count} {text}" for count, text in ends if count))
            said = ", ".join(sorted(f"{count} {text}" for text, count in reasons.items()))
            message = (
                f"0/{total} nodes are available: {said}. preemption: 0/{total} nodes are "
                f"available: {preemption}."
            )
        before = pod["status"].get("conditions", [])
        if any(c.get("message") == message for c in before):
            return  # it is told once, not at every look
        self._events.say(pod, "FailedScheduling", message, warning=True)
        self._store.modify(
            PODS,
            pod,
            lambda obj: conditions.put(obj, "PodScheduled", False, "Unschedulable", message),
        )


def _asks(pod: Object) -> quantities.Amounts:
    return {**quantities.asked(pod["spec"]), "pods": Decimal(1)}


def _unfit(pod: Object, node: Object, used: quantities.Amounts) -> tuple[list[str], bool]:
    """Why a pod cannot go to a node, and whether taking other pods away would not help.

    The filters in the scheduler's own order: the first that fails says why.
    """
    spec = pod["spec"]
    if node["spec"].get("unschedulable"):
        return ["node(s) were unschedulable"], True
    tolerations = spec.get("tolerations") or []
    for taint in node["spec"].get("taints") or []:
        if taint.get("effect") in ("NoSchedule", "NoExecute") and not any(
            _tolerates(toleration, taint) for toleration in tolerations
        ):
            said = f"{{{taint['key']}: {taint.get('value', '')}}}"
            return [f"node(s) had untolerated taint {said}"], True
    if not _wanted(spec, node):
        return ["node(s) didn't match Pod's node affinity/selector"], True
    has = quantities.amounts(node["status"]["allocatable"])
    why, unresolvable = [], False
    for name, amount in _asks(pod).items():
        room = has.get(name, Decimal(0))
        if amount and amount + used.get(name, Decimal(0)) > room:
            why.append("Too many pods" if name == "pods" else f"Insufficient {name}")
            unresolvable |= amount > room
    return why, unresolvable


def _tolerates(toleration: Mapping[str, Any], taint: Mapping[str, Any]) -> bool:
    if toleration.get("effect") not in (None, "", taint.get("effect")):
        return False
    if toleration.get("key") not in (None, "", taint["key"]):
        return False
    exists = toleration.get("operator") == "Exists"
    return exists or toleration.get("value", "") == taint.get("value", "")


def _wanted(spec: Object, node: Object) -> bool:
    labels = node["metadata"].get("labels") or {}
    chosen = (spec.get("nodeSelector") or {}).items()
    if not all(labels.get(key) == value for key, value in chosen):
        return False
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    terms: Iterable[Any] = (
        affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    ).get("nodeSelectorTerms", [])
    terms = list(terms)
    return not terms or any(
        all(
            one_of(labels, e["key"], e["operator"], e.get("values") or [])
            for e in term.get("matchExpressions") or []
        )
        and all(
            one_of(
                {"metadata.name": node["metadata"]["name"]}, e["key"], e["operator"], e["values"]
            )
            for e in term.get("matchFields") or []
        )
        for term in terms
    )
