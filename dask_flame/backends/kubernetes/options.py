"""The options of a pool on Kubernetes, which describe the pods of its runners (driver)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from dask_flame.backends.kubernetes.pod_template import PREFIXES, read_template
from dask_flame.backends.options import BackendOptions, Option, option
from dask_flame.core.option_checks import size, word, wrong, yes_or_no
from dask_flame.core.options import names_of
from dask_flame.errors import PoolError

PodTemplate = Mapping[str, Any] | str | Path | Callable[[dict[str, Any]], Mapping[str, Any]]

#: Prefixes of the labels and annotations that Kubernetes and dask-flame set, and users may not.
OURS = (*PREFIXES, "kubernetes.io/", "k8s.io/", "app.kubernetes.io/managed-by")


def _texts(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise wrong(name, value, "a list of names")
    try:
        return tuple(word(name, item) for item in value)
    except PoolError:
        raise wrong(name, value, "a list of names") from None


# https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#syntax-and-character-set
_PART = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_KEY = re.compile(rf"([a-z0-9]([-a-z0-9.]{{0,251}}[a-z0-9])?/)?{_PART}")
_VALUE = re.compile(rf"({_PART})?")


def _pairs(name: str, value: Any, *, free: bool = False) -> dict[str, str]:
    """Check labels; with `free`, annotations, whose values are arbitrary text."""
    if not isinstance(value, Mapping):
        raise wrong(name, value, "a mapping of str to str")
    for key, text in value.items():
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            raise wrong(name, value, f"made of valid keys ({key!r})")
        if not isinstance(text, str) or not (free or _VALUE.fullmatch(text)):
            raise wrong(name, value, f"made of valid values ({key!r}: {text!r})")
    return dict(value)


def _own_pairs(name: str, value: Any) -> dict[str, str]:
    pairs = _pairs(name, value, free=name == "annotations")
    if taken := [key for key in pairs if key.startswith(OURS)]:
        raise wrong(name, value, f"free of what Kubernetes and dask-flame set ({taken[0]!r})")
    return pairs


def _tolerations(name: str, value: Any) -> tuple[Mapping[str, Any], ...]:
    known = ("key", "operator", "value", "effect", "tolerationSeconds")
    if (
        isinstance(value, str | Mapping)
        or not isinstance(value, Sequence)
        or not all(isinstance(t, Mapping) and t for t in value)
    ):
        raise wrong(name, value, "a list of tolerations")
    if odd := next((key for t in value for key in t if key not in known), None):
        there = ", ".join(known)
        raise wrong(name, value, f"made of tolerations ({odd!r} is none of {there})")
    return tuple(dict(t) for t in value)


class _Names:
    """Show only the names in a mapping, for an error."""

    def __init__(self, values: Mapping[Any, Any]) -> None:
        self._values = values

    def __repr__(self) -> str:
        return names_of(self._values)


def _volumes(name: str, value: Any) -> dict[str, Mapping[str, Any]]:
    if not isinstance(value, Mapping):
        raise wrong(name, value, "a mapping of mount paths to volumes")
    volumes: dict[str, Mapping[str, Any]] = {}
    names = _Names(value)  # sources may hold secrets
    for path, source in value.items():
        if not isinstance(path, str) or not path.startswith("/") or ":" in path:
            raise wrong(name, names, f"made of absolute mount paths ({path!r})")
        if isinstance(source, str) and source.strip():
            source = {"persistentVolumeClaim": {"claimName": source}}
        beside = {"readOnly", "subPath"}
        if not isinstance(source, Mapping) or len(set(source) - beside) != 1:
            raise wrong(name, names, f"made of claims' names or volume sources ({path!r})")
        volumes[path.rstrip("/") or "/"] = dict(source)
    return volumes


def _template(name: str, value: Any) -> PodTemplate:
    if isinstance(value, str | Path) and not _is_file(value):
        raise wrong(name, str(value), "a file that is there")
    if not (isinstance(value, Mapping | str | Path) or callable(value)):
        raise wrong(name, value, "a mapping, the path of a YAML file or a function")
    if not callable(value):
        read_template(name, value)
    template: PodTemplate = value
    return template


def _is_file(path: str | Path) -> bool:
    try:
        return Path(path).is_file()
    except OSError:  # the name is too long, or a parent folder is not accessible
        return False


#: Syntax of a namespace's name.
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


def check_namespace(name: str, value: Any) -> str:
    """Check the name of a namespace."""
    if not isinstance(value, str) or not _NAMESPACE.fullmatch(value):
        raise wrong(name, value, "the name of a namespace: lower-case letters, digits and -")
    return value


def check_context(name: str, value: Any) -> str:
    """Check the name of a kubeconfig context."""
    return word(name, value, "the name of a context: a name")


def _spot(name: str, value: Any) -> bool:
    try:
        return yes_or_no(name, value)
    except PoolError:
        raise wrong(name, value, 'True, False or "prefer"') from None


def _kinds(name: str, value: Any) -> Any:
    if not isinstance(value, Mapping) or not all(isinstance(v, Mapping) for v in value.values()):
        raise wrong(name, value, "a mapping of each kind to the labels of its nodes")
    return value


def check_template(name: str, value: Any) -> dict[str, Any]:
    """Check a template in the configuration, and return its contents."""
    if not isinstance(value, Mapping | str | Path) or not value:
        raise wrong(name, value, "a mapping, or the path of a YAML file")
    if isinstance(value, str | Path) and not _is_file(value):
        raise wrong(name, str(value), "a file that is there")
    return read_template(name, value)


@dataclass(frozen=True, init=False, repr=False)
class KubernetesOptions(BackendOptions):
    """Options of a pool whose runners are pods; None for an option that was not given.

    Parameters
    ----------
    image : str, optional
        The runner's image. By default ``flame.kubernetes.image``, else the image of the driver if
        it runs in a pod. It needs Python, dask-flame and all packages that calls import.
    gpu_kind : str or list of str, optional
        The kind of GPU, or several in order of preference. Each is a name in
        ``flame.kubernetes.gpu-kinds``, which defines how to select nodes with it, or else a value
        of the node label ``flame.kubernetes.gpu-label``, by default ``nvidia.com/gpu.product``.
    gpu_resource : str, optional
        The name of a GPU among a node's resources, ``"nvidia.com/gpu"`` by default:
        ``"amd.com/gpu"``, ``"nvidia.com/mig-1g.10gb"``, ….
    shm_size : size, optional
        Size of ``/dev/shm``, which counts as memory. By default, in pods with GPUs it may grow to
        their memory; in others it has the container runtime's size, usually 64 MB.
    node_selector : mapping of str to str, optional
        Required labels of the node.
    tolerations : sequence of mapping, optional
        Tolerated taints of the node, in the format of Kubernetes.
    spot : bool or {"prefer"}, optional
        Use only spot nodes, by the labels and taints of GKE, EKS, AKS and Karpenter. With
        ``"prefer"``, runners for which there are none may be on other nodes.
    priority_class, runtime_class, service_account : str, optional
        Names. The service account's token is not mounted.
    image_pull_secrets : sequence of str, optional
        Names of Secrets.
    volumes : mapping, optional
        By mount path: the name of a PersistentVolumeClaim, or any volume source in the format of
        Kubernetes, optionally with ``readOnly`` and ``subPath``.
    labels, annotations : mapping of str to str, optional
        Labels and annotations of the pod.
    read_only_root : bool, optional
        Whether the root file system is read-only. Then only ``/tmp``, the folder for temporary
        files, in which the runner starts, and `volumes` are writable. By default, the image and
        its user decide what is.
    pod_template : mapping, path or callable, optional
        A pod, or a part of one, to which the options are applied; the path of a YAML file with it;
        or a function that takes the complete pod and returns the one to send. It is applied on top
        of ``flame.kubernetes.pod-template``, the template of all pods.

    Raises
    ------
    PoolError
        An option is wrong; the message has its name and a line that works.
    """

    backend: ClassVar[str] = "kubernetes"
    makes: ClassVar[str] = "pods"
    merges: ClassVar[bool] = True
    settings: ClassVar[Mapping[str, Option]] = {
        "namespace": Option(check=word, example='"my-team"', nullable=True),
        "context": Option(check=word, example='"my-cluster"', nullable=True),
        "gpu-kinds": Option(
            check=_kinds,
            example='{"l4": {"node-selector": {"gpu": "l4"}}}',
            nullable=True,
            default={},
        ),
        "gpu-label": Option(check=word, example='"nvidia.com/gpu.product"'),
        "pod-template": Option(
            check=check_template, example='{"spec": {"hostNetwork": False}}', nullable=True
        ),
        "network-policy": Option(check=yes_or_no, example="False"),
    }

    image: str | None = option(word, '"ghcr.io/me/runner:1.0"', section="kubernetes", nullable=True)
    gpu_kind: str | None = option(word, '"NVIDIA-A100-SXM4-40GB"', preference=True)
    gpu_resource: str | None = option(word, '"nvidia.com/gpu"')
    shm_size: int | None = option(size, '"2 GiB"', in_bytes=True)
    node_selector: Mapping[str, str] | None = option(_pairs, '{"disk": "ssd"}')
    tolerations: tuple[Mapping[str, Any], ...] | None = option(
        _tolerations, '[{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}]'
    )
    spot: bool | None = option(
        _spot,
        "True",
        preference=True,
        orders={"prefer": (True, False)},
        words={True: "spot", False: "on demand"},
    )
    priority_class: str | None = option(word, '"low"')
    runtime_class: str | None = option(word, '"nvidia"')
    service_account: str | None = option(word, '"runner"')
    image_pull_secrets: tuple[str, ...] | None = option(_texts, '["registry"]')
    volumes: Mapping[str, Mapping[str, Any]] | None = option(
        _volumes, '{"/data": "my-claim"}', secret=True
    )
    labels: Mapping[str, str] | None = option(_own_pairs, '{"team": "vision"}')
    annotations: Mapping[str, str] | None = option(_own_pairs, '{"owner": "me@example.org"}')
    read_only_root: bool | None = option(yes_or_no, "True", section="kubernetes", nullable=True)
    pod_template: PodTemplate | None = option(
        _template, '{"spec": {"hostNetwork": False}}', secret=True
    )


#: The name under which pools look up this class.
Options = KubernetesOptions
