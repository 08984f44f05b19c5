"""The context of a cluster's objects, their names and labels; pure (driver)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dask_flame.backends.kubernetes.options import KubernetesOptions
from dask_flame.backends.kubernetes.pod_template import MANAGED as MANAGED

#: The annotation of a pod that notifies a driver that its cluster has been stopped.
STOP = "dask-flame/stopped"

#: The annotation of a scheduler's pod with the id and the place of the driver that took it over.
DRIVER = "dask-flame/driver"
#: The annotation of a scheduler's pod with the user and the host that the cluster was made on.
MADE_BY = "dask-flame/made-by"

_USER = 1000


@dataclass(frozen=True, kw_only=True)
class ObjectContext:
    """Common properties of a cluster's pods.

    Attributes
    ----------
    cluster : str
        The cluster's name.
    namespace : str
    image : str or None
        Default image of pods.
    owner : mapping or None
        The owner reference of all objects: Kubernetes deletes them with their owner.
    watchdog : int
        Number of watchdog Jobs so far, including the present one.
    nodes : mapping
        The fields of the driver's pod that select nodes.
    pull_secrets : sequence of str
        Names of Secrets to pull `image` with.
    user, group : int
        Default ids for containers.
    gpu_kinds : mapping
        For each kind: ``node-selector``, ``tolerations`` and ``resource``.
    gpu_label : str
        Label of nodes with their kind of GPU, for other kinds.
    template : mapping or None
        The template of all pods, see :func:`.pod_template.read_template`.
    defaults : mapping
        Options of all pools that do not give them, beside `image` and `template`.
    """

    cluster: str
    namespace: str
    image: str | None = None
    owner: Mapping[str, Any] | None = None
    watchdog: int = 0
    nodes: Mapping[str, Any] = field(default_factory=dict)
    pull_secrets: Sequence[str] = ()
    user: int = _USER
    group: int = _USER
    gpu_kinds: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    gpu_label: str = "nvidia.com/gpu.product"
    template: Mapping[str, Any] | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def complete(self, options: Mapping[str, Any]) -> KubernetesOptions:
        """Return the options of a runner: its pool's, else those of the configuration."""
        return KubernetesOptions(**{**self.defaults, **options})


#: Annotation of a runner's pod with the runner's kind, see :attr:`RunnerSpec.kind`.
KIND = "dask-flame/kind"


def object_name(*parts: str) -> str:
    """Return a valid, unique name for an object.

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
    """Return the labels of an object; `more` are dask-flame's own."""
    return {
        **MANAGED,
        "dask.org/cluster-name": site.cluster,
        "dask.org/component": component,
        **{f"dask-flame/{key}": value for key, value in more.items()},
    }


def metadata(site: ObjectContext, name: str, component: str, **more: str) -> dict[str, Any]:
    """Return the metadata of an object; `more` are dask-flame's own labels.

    Parameters
    ----------
    site : ObjectContext
    name : str
    component : str
        Value of the label ``dask.org/component``.
    **more : str
        Labels ``dask-flame/<key>``.
    """
    made: dict[str, Any] = {
        "name": name,
        "namespace": site.namespace,
        "labels": labels(site, component, **more),
    }
    if site.owner is not None:
        made["ownerReferences"] = [dict(site.owner)]
    return made
