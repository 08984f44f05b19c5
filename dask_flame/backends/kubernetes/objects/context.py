"""Where a cluster's objects go, and what they are called; pure (driver)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dask_flame.backends.kubernetes.options import PodTemplate

#: Labels of all that a cluster makes.
MANAGED = {"app.kubernetes.io/managed-by": "dask-flame"}
#: The annotation of a pod by which a driver is told that its cluster has been stopped.
STOP = "dask-flame/stopped"
#: What the driver then says of it.
STOPPED = "the cluster was stopped with `dask flame stop`"

_USER = 1000


@dataclass(frozen=True, kw_only=True)
class ObjectContext:
    """Where a cluster's pods go, and what they have in common.

    Attributes
    ----------
    cluster : str
        The cluster's name.
    namespace : str
    image : str or None
        Of pods that name none.
    owner : mapping or None
        The owner reference of all that is made: what Kubernetes deletes it with.
    keeper : int
        How many keepers there have been, with the one that is there.
    nodes : mapping
        The fields of the driver's pod that say which nodes it may be on.
    pull_secrets : sequence of str
        Names of Secrets to pull `image` with.
    user, group : int
        Whom containers run as, where neither an option nor the template says so.
    gpu_kinds : mapping
        By kind: ``node-selector``, ``tolerations`` and ``resource``.
    gpu_label : str
        The node label that says which GPU a node has, for other kinds.
    template : mapping, path or None
        What runners' pods are laid over where their pool has no template of its own.
    """

    cluster: str
    namespace: str
    image: str | None = None
    owner: Mapping[str, Any] | None = None
    keeper: int = 0
    nodes: Mapping[str, Any] = field(default_factory=dict)
    pull_secrets: Sequence[str] = ()
    user: int = _USER
    group: int = _USER
    gpu_kinds: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    gpu_label: str = "nvidia.com/gpu.product"
    template: PodTemplate | None = None


def object_name(*parts: str) -> str:
    """A name for an object, such as Kubernetes takes: another one for other parts.

    Examples
    --------
    >>> object_name("my-cluster", "runner-1")
    'flame-my-cluster-runner-1'
    """
    plain = "-".join(("flame", *parts))
    lower = re.sub(r"[^a-z0-9-]+", "-", plain.lower()).strip("-")
    if lower == plain and len(plain) <= 63:
        return plain
    return f"{lower[:52].rstrip('-')}-{hashlib.sha256(plain.encode()).hexdigest()[:10]}"


def labels(site: ObjectContext, component: str, **more: str) -> dict[str, str]:
    """The labels of an object of a cluster; `more` are dask-flame's own."""
    return {
        **MANAGED,
        "dask.org/cluster-name": site.cluster,
        "dask.org/component": component,
        **{f"dask-flame/{key}": value for key, value in more.items()},
    }


def metadata(site: ObjectContext, name: str, component: str, **more: str) -> dict[str, Any]:
    """The metadata of an object; `more` are dask-flame's own labels."""
    made: dict[str, Any] = {
        "name": name,
        "namespace": site.namespace,
        "labels": labels(site, component, **more),
    }
    if site.owner is not None:
        made["ownerReferences"] = [dict(site.owner)]
    return made
