"""What a runner's pod is to be like: the options of a pool that only Kubernetes knows (driver)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from dask_flame.core.option_checks import EXAMPLES, size, word, wrong, yes_or_no
from dask_flame.core.text import exact_memory
from dask_flame.errors import PoolError

PodTemplate = Mapping[str, Any] | str | Path | Callable[[dict[str, Any]], Mapping[str, Any]]

#: Labels and annotations that say whose a pod is; a user's own may not begin so.
OURS = ("dask-flame/", "dask.org/", "kubernetes.io/", "k8s.io/")


@dataclass(frozen=True, init=False)
class PodOptions:
    """Options of a pool whose runners are pods. What is None was not given.

    Parameters
    ----------
    image : str, optional
        The runner's image. By default the driver's own, where the driver is in a pod, else
        ``flame.kubernetes.image``. It needs Python, dask-flame and what calls import.
    gpu_kind : str, optional
        Which GPU: a name in ``flame.kubernetes.gpu-kinds``, which says how nodes with it are
        chosen, or else the value of the node label ``flame.kubernetes.gpu-label``, by default
        ``nvidia.com/gpu.product``.
    gpu_resource : str, optional
        What a GPU is called among a node's resources, ``"nvidia.com/gpu"`` by default:
        ``"amd.com/gpu"``, ``"nvidia.com/mig-1g.10gb"``, ….
    shm_size : size, optional
        Size of ``/dev/shm``, which counts as memory. Pods with GPUs have one that may grow to
        their memory by default; others have the container runtime's, mostly 64 MB.
    node_selector : mapping of str to str, optional
        Labels that the node must have.
    tolerations : sequence of mapping, optional
        Taints that the node may have, as Kubernetes writes them.
    spot : bool, optional
        Only nodes that may be taken away, by the labels and taints of GKE, EKS, AKS and Karpenter.
    priority_class, runtime_class, service_account : str, optional
        Names. The service account's token is not mounted.
    image_pull_secrets : sequence of str, optional
        Names of Secrets.
    volumes : mapping, optional
        By mount path: the name of a PersistentVolumeClaim, or any volume source as Kubernetes
        writes it, with ``readOnly`` and ``subPath`` beside it.
    secrets : mapping, optional
        Environment variables that are kept in a Secret of the cluster's: by name, the value, or
        ``{"name": …, "key": …}`` of a Secret that is there already.
    labels, annotations : mapping of str to str, optional
        For the pod.
    pod_template : mapping, path or callable, optional
        A pod, or a part of one, that the options are laid over; the path of a YAML file with it;
        or a function that is given the pod as built and returns the one to send.

    Raises
    ------
    PoolError
        Naming the option, and a line that works. Values of `secrets` are not shown.
    """

    image: str | None
    gpu_kind: str | None
    gpu_resource: str | None
    shm_size: int | None
    node_selector: Mapping[str, str] | None
    tolerations: tuple[Mapping[str, Any], ...] | None
    spot: bool | None
    priority_class: str | None
    runtime_class: str | None
    service_account: str | None
    image_pull_secrets: tuple[str, ...] | None
    volumes: Mapping[str, Mapping[str, Any]] | None
    secrets: Mapping[str, str | Mapping[str, str]] | None
    labels: Mapping[str, str] | None
    annotations: Mapping[str, str] | None
    pod_template: PodTemplate | None

    def __init__(self, **given: Any) -> None:
        for f in fields(self):
            value = given.pop(f.name, None)
            object.__setattr__(
                self, f.name, None if value is None else _CHECKS[f.name](f.name, value)
            )
        assert not given, f"unknown: {', '.join(given)}"

    @property
    def given(self) -> dict[str, Any]:
        """The options that were given, by name."""
        return {f.name: v for f in fields(self) if (v := getattr(self, f.name)) is not None}

    @property
    def shown(self) -> dict[str, str]:
        """The same as they may be shown to anybody."""
        shown = {
            name: names_of(value) if name in _MAY_HOLD_SECRETS else repr(value)
            for name, value in self.given.items()
        }
        if self.shm_size is not None and (size := exact_memory(self.shm_size)):
            shown["shm_size"] = repr(size)
        return shown

    def __repr__(self) -> str:
        return f"PodOptions({', '.join(f'{name}={v}' for name, v in self.shown.items())})"


#: Options whose values are nobody's business.
_MAY_HOLD_SECRETS = frozenset({"secrets", "volumes", "pod_template"})


def names_of(values: object) -> str:
    """What there is in a mapping, and not the values, which may be secrets.

    Examples
    --------
    >>> names_of({"HF_TOKEN": "hf_1234", "LANG": "C"})
    '{HF_TOKEN: …, LANG: …}'
    """
    if isinstance(values, Mapping):
        return "{" + ", ".join(f"{name}: …" for name in values) + "}"
    return repr(str(values)) if isinstance(values, str | Path) else "…"


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
    """Labels; with `free`, annotations, whose values are any text."""
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
    known = {"key", "operator", "value", "effect", "tolerationSeconds"}
    if (
        isinstance(value, str | Mapping)
        or not isinstance(value, Sequence)
        or not all(isinstance(t, Mapping) and t and set(t) <= known for t in value)
    ):
        raise wrong(name, value, "a list of tolerations")
    return tuple(dict(t) for t in value)


class _Names:
    """What an error shows of a mapping: its names."""

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


_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _secrets(name: str, value: Any) -> dict[str, str | Mapping[str, str]]:
    def fits(item: Any) -> bool:
        if isinstance(item, Mapping):
            return set(item) == {"name", "key"} and all(isinstance(v, str) for v in item.values())
        return isinstance(item, str)

    if not isinstance(value, Mapping) or not all(
        isinstance(key, str) and _VARIABLE.fullmatch(key) and fits(item)
        for key, item in value.items()
    ):
        # The values are secrets: the error must not show them.
        raise PoolError(
            "secrets is not a mapping of environment variables to values, or to "
            f'{{"name": …, "key": …}} of a Secret; write secrets={EXAMPLES["secrets"]}'
        )
    return dict(value)


def _template(name: str, value: Any) -> PodTemplate:
    if isinstance(value, str | Path) and not _is_file(value):
        raise wrong(name, str(value), "a file that is there")
    if not (isinstance(value, Mapping | str | Path) or callable(value)):
        raise wrong(name, value, "a mapping, the path of a YAML file or a function")
    template: PodTemplate = value
    return template


def _is_file(path: str | Path) -> bool:
    try:
        return Path(path).is_file()
    except OSError:  # its name is too long, or a folder on the way is closed to us
        return False


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "image": word,
    "gpu_kind": word,
    "gpu_resource": word,
    "shm_size": size,
    "node_selector": _pairs,
    "tolerations": _tolerations,
    "spot": yes_or_no,
    "priority_class": word,
    "runtime_class": word,
    "service_account": word,
    "image_pull_secrets": _texts,
    "volumes": _volumes,
    "secrets": _secrets,
    "labels": _own_pairs,
    "annotations": _own_pairs,
    "pod_template": _template,
}

#: The names of all options.
POD_OPTIONS = frozenset(_CHECKS)
