"""Remove secrets from an object for display; pure (driver)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dask_flame.backends.environment import KNOWN
from dask_flame.backends.redact import HIDDEN, hide, plain, scrub
from dask_flame.backends.specs import RunnerSpec

#: Variables whose values dask-flame sets, whatever a template says.
_OURS = frozenset({"DASK_WORKER_NAME", "TMPDIR"})


def shown(item: Mapping[str, Any], spec: RunnerSpec) -> dict[str, Any]:
    """Return an object without secret values.

    Hidden are the contents of Secrets; the values of all variables except a few known ones, because
    a template or Dask's configuration may contain anything; and the values of secrets wherever a
    template has put them.

    Parameters
    ----------
    item : mapping
    spec : RunnerSpec
        The runner that the object is for.
    """
    seen: dict[str, Any] = plain(item)
    for name in ("data", "stringData"):
        if seen["kind"] == "Secret" and name in seen:
            seen[name] = hide(seen[name])
    known = _OURS | (KNOWN - {*spec.env, *spec.secrets})
    for container in _containers(seen):
        for variable in container.get("env") or ():
            if variable.get("value") and variable["name"] not in known:
                variable["value"] = HIDDEN
    clean: dict[str, Any] = scrub(seen, spec.secret_values)
    return clean


def _containers(item: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the containers of a pod, or of the pods of a Job."""
    spec = item.get("spec") or {}
    inside = ((spec.get("template") or {}).get("spec") or {}) if item["kind"] == "Job" else spec
    kinds = ("initContainers", "containers", "ephemeralContainers")
    return [container for kind in kinds for container in inside.get(kind) or ()]
