"""An object that would be sent, as it may be shown: without its secrets; pure (driver)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dask_flame.backends.base import RunnerSpec
from dask_flame.backends.environment import KNOWN
from dask_flame.backends.kubernetes.options import KubernetesOptions
from dask_flame.backends.redact import HIDDEN, hide, plain, scrub

#: Variables whose values are ours, whatever a template says.
_OURS = frozenset({"DASK_WORKER_NAME", "TMPDIR"})


def shown(item: Mapping[str, Any], spec: RunnerSpec, options: KubernetesOptions) -> dict[str, Any]:
    """An object without what is secret, or may be.

    That is what is in Secrets; the value of each variable that has one in clear, but for a few
    known ones, since a template or Dask's configuration may have put anything there; and the values
    of ``secrets``, wherever a template has put them.

    Parameters
    ----------
    item : mapping
    spec : RunnerSpec
        Of the runner that it is for.
    options : KubernetesOptions
        Of its pool.
    """
    seen: dict[str, Any] = plain(item)
    for name in ("data", "stringData"):
        if seen["kind"] == "Secret" and name in seen:
            seen[name] = hide(seen[name])
    known = _OURS | (KNOWN - {*spec.env})
    for container in _containers(seen):
        for variable in container.get("env") or ():
            if variable.get("value") and variable["name"] not in known:
                variable["value"] = HIDDEN
    secrets = [s for s in (options.secrets or {}).values() if isinstance(s, str)]
    clean: dict[str, Any] = scrub(seen, secrets)
    return clean


def _containers(item: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The containers of a pod, or of the pods that a Job makes."""
    spec = item.get("spec") or {}
    inside = ((spec.get("template") or {}).get("spec") or {}) if item["kind"] == "Job" else spec
    kinds = ("initContainers", "containers", "ephemeralContainers")
    return [container for kind in kinds for container in inside.get(kind) or ()]
