"""The Pod Security Standard "restricted", in its own words (test process).

As in k8s.io/pod-security-admission/policy: the checks of "restricted", and of "baseline" those for
host namespaces, privileged containers, host paths and host ports.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

Spec = dict[str, Any]

ENFORCE = "pod-security.kubernetes.io/enforce"

_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}


def violations(spec: Spec) -> str:
    """Why a pod is not "restricted", as the API server says it; empty if it is."""
    found = [*_host(spec), *_privileged(spec), *_restricted(spec)]
    return ", ".join(f"{reason} ({detail})" if detail else reason for reason, detail in found)


def _containers(spec: Spec) -> list[Spec]:
    return [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]


def _context(container: Spec) -> Spec:
    return container.get("securityContext") or {}


def _quoted(names: list[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _those(names: list[str]) -> str:
    return f"container{'s' if len(names) > 1 else ''} {_quoted(names)}"


def _names(spec: Spec, wrong: Callable[[Spec], bool]) -> list[str]:
    return [container["name"] for container in _containers(spec) if wrong(container)]


def _host(spec: Spec) -> Iterator[tuple[str, str]]:
    shared = [f"{name}=true" for name in ("hostNetwork", "hostPID", "hostIPC") if spec.get(name)]
    if shared:
        yield "host namespaces", ", ".join(shared)
    paths = [v["name"] for v in spec.get("volumes") or [] if "hostPath" in v]
    if paths:
        yield "hostPath volumes", f"volume{'s' if len(paths) > 1 else ''} {_quoted(paths)}"


def _privileged(spec: Spec) -> Iterator[tuple[str, str]]:
    names = _names(spec, lambda c: bool(_context(c).get("privileged")))
    if names:
        yield "privileged", f"{_those(names)} must not set securityContext.privileged=true"


def _restricted(spec: Spec) -> Iterator[tuple[str, str]]:
    names = _names(spec, lambda c: _context(c).get("allowPrivilegeEscalation") is not False)
    if names:
        yield (
            "allowPrivilegeEscalation != false",
            f"{_those(names)} must set securityContext.allowPrivilegeEscalation=false",
        )
    yield from _capabilities(spec)
    odd = [v["name"] for v in spec.get("volumes") or [] if not _VOLUMES & set(v)]
    if odd:
        yield "restricted volume types", f"volumes {_quoted(odd)} have restricted types"
    yield from _everywhere(
        spec,
        "runAsNonRoot != true",
        "runAsNonRoot",
        lambda value: value is True,
        lambda values: "securityContext.runAsNonRoot=false",
        "securityContext.runAsNonRoot=true",
    )
    if (spec.get("securityContext") or {}).get("runAsUser") == 0:
        yield "runAsUser=0", "pod must not set runAsUser=0"
    yield from _everywhere(
        spec,
        "seccompProfile",
        "seccompProfile",
        lambda value: value.get("type") in ("RuntimeDefault", "Localhost"),
        lambda values: f"securityContext.seccompProfile.type to {_quoted(values)}",
        'securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost"',
    )


def _capabilities(spec: Spec) -> Iterator[tuple[str, str]]:
    def of(container: Spec, what: str) -> list[str]:
        return (_context(container).get("capabilities") or {}).get(what) or []

    details = []
    if names := _names(spec, lambda c: "ALL" not in of(c, "drop")):
        details.append(f'{_those(names)} must set securityContext.capabilities.drop=["ALL"]')
    if names := _names(spec, lambda c: bool(set(of(c, "add")) - {"NET_BIND_SERVICE"})):
        added = {name for c in _containers(spec) for name in of(c, "add")} - {"NET_BIND_SERVICE"}
        details.append(
            f"{_those(names)} must not include {_quoted(sorted(added))} in "
            "securityContext.capabilities.add"
        )
    if details:
        yield "unrestricted capabilities", "; ".join(details)


def _everywhere(
    spec: Spec,
    reason: str,
    field: str,
    good: Callable[[Any], bool],
    wrong: Callable[[list[str]], str],
    right: str,
) -> Iterator[tuple[str, str]]:
    """What the pod may say for its containers, and each container for itself."""
    of_pod = (spec.get("securityContext") or {}).get(field)
    setters = ["pod"] if of_pod is not None and not good(of_pod) else []
    said = [(c["name"], _context(c).get(field)) for c in _containers(spec)]
    if bad := [name for name, value in said if value is not None and not good(value)]:
        setters.append(_those(bad))
    if setters:
        values = [v for v in [of_pod, *(value for _, value in said)] if v is not None]
        types = {v["type"] for v in values if isinstance(v, dict) and not good(v)}
        yield reason, f"{' and '.join(setters)} must not set {wrong(sorted(types))}"
        return
    if of_pod is None and (silent := [name for name, value in said if value is None]):
        yield reason, f"pod or {_those(silent)} must set {right}"
