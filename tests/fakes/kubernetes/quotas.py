"""What a ResourceQuota leaves room for (test process)."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from functools import partial
from typing import Any

from tests.fakes.kubernetes import quantities
from tests.fakes.kubernetes.errors import forbidden
from tests.fakes.kubernetes.kinds import PODS, QUOTAS, Kind
from tests.fakes.kubernetes.quantities import Amounts
from tests.fakes.kubernetes.store import Store

Object = dict[str, Any]

_COMPUTE = ("cpu", "memory", "ephemeral-storage")


def usage(kind: Kind, obj: Object) -> Amounts:
    """What one object takes of every amount that a quota may limit."""
    used: Amounts = {f"count/{kind.resource}": Decimal(1)}
    if not kind.group:
        used[kind.plural] = Decimal(1)
    if kind != PODS:
        return used
    if obj.get("status", {}).get("phase") in ("Succeeded", "Failed"):
        del used["pods"]  # a pod that has ended counts only as an object
        return used
    requests = quantities.asked(obj["spec"])
    used |= {f"requests.{name}": amount for name, amount in requests.items()}
    used |= {name: amount for name, amount in requests.items() if name in _COMPUTE}
    limits = quantities.asked(obj["spec"], "limits")
    return used | {f"limits.{name}": amount for name, amount in limits.items()}


def admit(store: Store, kind: Kind, obj: Object) -> None:
    """Refuse, with 403, an object for which a quota of its namespace has no room."""
    name, namespace = obj["metadata"]["name"], obj["metadata"]["namespace"]
    wanted = usage(kind, obj)
    for quota in store.items(QUOTAS, namespace):
        hard = quantities.amounts(quota["spec"].get("hard"))
        if kind == PODS:
            _must_say(kind, name, obj, quota["metadata"]["name"], hard)
        requested = {key: wanted[key] for key in sorted(hard) if key in wanted}
        used = count(store, namespace)
        over = [
            key for key, more in requested.items() if used.get(key, Decimal(0)) + more > hard[key]
        ]
        if over:
            said = [
                ",".join(f"{k}={quantities.write(amounts.get(k, Decimal(0)), k)}" for k in over)
                for amounts in (requested, used, hard)
            ]
            raise forbidden(
                kind,
                name,
                f"exceeded quota: {quota['metadata']['name']}, requested: {said[0]}, "
                f"used: {said[1]}, limited: {said[2]}",
            )


def _must_say(kind: Kind, name: str, pod: Object, quota: str, hard: Amounts) -> None:
    """Where compute resources are limited, every container has to say what it takes of them."""
    missing: dict[str, list[str]] = {}
    for key in sorted(hard):
        where, _, resource = key.rpartition(".")
        where, resource = (where, resource) if where else ("requests", key)
        if resource not in _COMPUTE or where not in ("requests", "limits"):
            continue
        for container in pod["spec"]["containers"]:
            if resource not in (container.get("resources", {}).get(where) or {}):
                missing.setdefault(key, []).append(container["name"])
    if missing:
        said = "; ".join(f"{key} for: {','.join(names)}" for key, names in missing.items())
        raise forbidden(kind, name, f"failed quota: {quota}: must specify {said}")


def count(store: Store, namespace: str) -> Amounts:
    """What all objects of a namespace take together."""
    return quantities.add(
        *(
            usage(kind, obj)
            for kind, obj in store.all()
            if obj["metadata"].get("namespace") == namespace
        )
    )


class Quotas:
    """Writes what is used into the status of quotas, whenever something has changed.

    Parameters
    ----------
    store : Store
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._wake = asyncio.Event()
        store.listeners.append(lambda change: self._wake.set())

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            for quota in list(self._store.items(QUOTAS)):
                hard = quota["spec"].get("hard") or {}
                used = count(self._store, quota["metadata"]["namespace"])
                status = {
                    "hard": dict(hard),
                    "used": {k: quantities.write(used.get(k, Decimal(0)), k) for k in hard},
                }
                self._store.modify(QUOTAS, quota, partial(dict.update, status=status))
