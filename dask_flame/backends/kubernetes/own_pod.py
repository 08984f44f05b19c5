"""Where the driver is: its own pod, if it is in one, and what of it others take over (driver)."""

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
        Of the container that the driver is most likely in.
    pull_secrets : tuple of str
        Names of the Secrets that its images are pulled with.
    user, group : int or None
        Whom it runs as, where it says so.
    nodes : mapping
        The fields of a pod that say which nodes it may be on.
    labels : mapping of str to str
        Those that a NetworkPolicy may tell it by; empty where none does.
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
        """Of a driver that is in no pod."""
        return cls("", "", "", "", (), None, None, {}, {})

    @property
    def owner(self) -> dict[str, Any]:
        """The owner reference of what is to go with this pod."""
        return {"apiVersion": "v1", "kind": "Pod", "name": self.name, "uid": self.uid}


async def own_pod(api: Api) -> OwnPod | None:
    """The driver's pod; None where it is in none, or may not look.

    None as well where runners are to be in another namespace than the driver: what is there cannot
    be owned by a pod that is not.

    A pod knows its name as its host's; ``POD_NAME`` says it where that was changed.
    """
    if api.elsewhere:
        return None  # another pod may have its name there
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
    # JupyterHub's notebook container is called so; else it is the first that is no helper.
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
        # A root driver's runners are not root.
        user=context.get("runAsUser") or None,
        group=context.get("runAsGroup") or context.get("fsGroup") or None,
        nodes={key: spec[key] for key in ("nodeSelector", "tolerations") if spec.get(key)},
        # No selector matches a pod that has its node's network, with most network plug-ins.
        labels={} if spec.get("hostNetwork") else _telling(metadata.get("labels") or {}),
    )


#: Labels that controllers set, and that policies do not see everywhere: a selector with one of them
#: would match no pod at all with Cilium, which gives pods that differ in these only one identity.
#: https://docs.cilium.io/en/stable/operations/performance/scalability/identity-relevant-labels/
_UNSEEN = re.compile(
    r"(pod-template-hash|pod-template-generation|controller-revision-hash|controller-uid"
    r"|(?!app\.).*kubernetes\.io/.*|.*k8s\.io/.*|io\.kubernetes.*|io\.cilium.*|annotation.*)"
)


def _telling(labels: Mapping[str, str]) -> dict[str, str]:
    """The labels of a pod by which it may be told from others."""
    return {key: value for key, value in labels.items() if not _UNSEEN.fullmatch(key)}
