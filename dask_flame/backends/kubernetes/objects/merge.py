"""Merge Kubernetes objects; pure (driver)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

#: Keys that identify the items of a list, by the list's name. As in Kubernetes' strategic merge
#: patch: https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/
_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "ephemeralContainers": "name",
    "env": "name",
    "volumes": "name",
    "imagePullSecrets": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "ports": "containerPort",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
    "resourceClaims": "name",
}
#: Lists whose items are replaced, not merged, because their fields exclude each other.
_WHOLE = frozenset({"env", "volumes"})
#: Lists that are concatenated.
_JOINED = frozenset({"tolerations", "envFrom", "ownerReferences", "readinessGates"})


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with `over` merged into it; neither is modified.

    Mappings are merged, and None removes a key. Lists whose items have a name (containers, mounts,
    ports, …) are merged item by item; variables and volumes are replaced as a whole. Tolerations
    and similar lists are concatenated. Any other list, and any other value, is replaced.

    Examples
    --------
    >>> merge({"env": [{"name": "A", "value": "1"}]}, {"env": [{"name": "A", "value": "2"}]})
    {'env': [{'name': 'A', 'value': '2'}]}
    """
    merged = {key: copy.deepcopy(value) for key, value in base.items()}
    for key, value in over.items():
        there = merged.get(key)
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(there, Mapping):
            merged[key] = merge(there, value)
        elif isinstance(value, Mapping):
            merged[key] = merge({}, value)
        elif isinstance(value, list | tuple) and isinstance(there, list):
            merged[key] = _lists(key, there, list(value))
        else:
            merged[key] = copy.deepcopy(list(value) if isinstance(value, tuple) else value)
    return merged


def _lists(name: str, base: list[Any], over: list[Any]) -> list[Any]:
    if name in _JOINED:
        return base + [copy.deepcopy(item) for item in over if item not in base]
    key = _KEYS.get(name)
    if key is None or not all(isinstance(item, Mapping) and key in item for item in base + over):
        return copy.deepcopy(over)
    merged = {item[key]: item for item in base}
    for item in over:
        before = {} if name in _WHOLE else merged.get(item[key], {})
        merged[item[key]] = merge(before, item)
    return list(merged.values())
