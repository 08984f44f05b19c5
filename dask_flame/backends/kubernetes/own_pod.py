"""The driver's own pod, if it is in one, and the properties that other pods inherit (driver)."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dask_flame.backends.kubernetes.api.client import PODS, Api, KubernetesError


@dataclass(frozen=True)
class OwnPod:
    """The pod that the driver is in.

    Attributes
    ----------
    name, uid, address : str
    image : str
        Image of the container that the driver is most likely in.
    pull_secrets : tuple of str
        Names of the Secrets that its images are pulled with.
    user, group : int or None
        Ids that it runs as, if set.
    nodes : mapping
        The fields of its spec that select nodes.
    labels : mapping of str to str
        Labels that a NetworkPolicy can select it by; may be empty.
    """

    name: str
    uid: str
    address: str
    image: str
    pull_secrets: tuple[str, ...]
    user: int | None
    group: int | None
    nodes: Mapping[str, Any]
    labels: Mapping[str, str]

    @classmethod
    def none(cls) -> OwnPod:
        """Return the value for a driver outside of any pod."""
        return cls("", "", "", "", (), None, None, {}, {})

    @property
    def owner(self) -> dict[str, Any]:
        """The owner reference for objects to be deleted with this pod."""
        return {"apiVersion": "v1", "kind": "Pod", "name": self.name, "uid": self.uid}


async def own_pod(api: Api) -> OwnPod | None:
    """Return the driver's pod; None if it is in none, or may not read it.

    Also None if runners are in another namespace than the driver, because objects cannot be owned
    by a pod in another namespace.

    The name of a pod is its host name, unless that was changed: then set ``POD_NAME``.
    """
    if api.elsewhere:
        return None  # another pod may have the same name there
    name = os.environ.get("POD_NAME") or (
        socket.gethostname() if "KUBERNETES_SERVICE_HOST" in os.environ else ""
    )
    if not name:
        return None
    try:
        pod = await api.get(PODS, name)
    except KubernetesError as error:
        if error.code in (403, 404):
            return None
        raise
    address = (pod.get("status") or {}).get("podIP")
    return _read(pod, address) if address else None


def _read(pod: Mapping[str, Any], address: str) -> OwnPod:
    spec, metadata = pod["spec"], pod["metadata"]
    annotation = (metadata.get("annotations") or {}).get("kubectl.kubernetes.io/default-container")
    containers = spec["containers"]
    # The name of JupyterHub's notebook container; otherwise the first container.
    container = next(
        (c for c in containers if c["name"] in (annotation, "notebook", "driver")), containers[0]
    )
    context = {**(spec.get("securityContext") or {}), **(container.get("securityContext") or {})}
    return OwnPod(
        name=metadata["name"],
        uid=metadata["uid"],
        address=address,
        image=container["image"],
        pull_secrets=tuple(s["name"] for s in spec.get("imagePullSecrets") or ()),
        # If the driver runs as root, its runners do not.
        user=context.get("runAsUser") or None,
        group=context.get("runAsGroup") or context.get("fsGroup") or None,
        nodes={key: spec[key] for key in ("nodeSelector", "tolerations") if spec.get(key)},
        # With most network plug-ins, no selector matches a pod in its node's network.
        labels={} if spec.get("hostNetwork") else _telling(metadata.get("labels") or {}),
    )


#: Labels set by controllers, and not visible to policies everywhere: with Cilium, which gives pods
#: that differ only in these one identity, a selector with one of them would match no pod at all.
#: https://docs.cilium.io/en/stable/operations/performance/scalability/identity-relevant-labels/
_UNSEEN = re.compile(
    r"(pod-template-hash|pod-template-generation|controller-revision-hash|controller-uid"
    r"|(?!app\.).*kubernetes\.io/.*|.*k8s\.io/.*|io\.kubernetes.*|io\.cilium.*|annotation.*)"
)


def _telling(labels: Mapping[str, str]) -> dict[str, str]:
    """Return the labels of a pod that distinguish it from others."""
    return {key: value for key, value in labels.items() if not _UNSEEN.fullmatch(key)}
