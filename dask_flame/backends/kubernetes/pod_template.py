"""Templates of pods: read and check them; pure (driver)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dask_flame.core.option_checks import line
from dask_flame.errors import PoolError

#: Name of the runner's container, as in dask-kubernetes.
CONTAINER = "worker"
#: Prefixes of the labels and annotations that dask-flame sets on its objects.
PREFIXES = ("dask-flame/", "dask.org/")
#: Labels that it sets besides.
MANAGED = {"app.kubernetes.io/managed-by": "dask-flame"}

_EXAMPLE = '{"spec": {"nodeSelector": {"disk": "ssd"}}}'


def read_template(name: str, template: Any) -> dict[str, Any]:
    """Return a template that is a mapping, or a file with one.

    Parameters
    ----------
    name : str
        Name of the option or the setting, for errors.
    template : mapping, str or Path

    Raises
    ------
    PoolError
        It cannot be read, or is not a pod.
    """
    if isinstance(template, Mapping):
        given: Any = template
    else:
        import yaml

        try:
            given = yaml.safe_load(Path(template).read_text())
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise PoolError(f"{name}={str(template)!r} cannot be read: {error}") from None
    if not isinstance(given, Mapping) or not isinstance(given.get("spec", {}), Mapping):
        raise no_pod(name, f"it is a {type(given).__name__}")
    if given.get("kind", "Pod") != "Pod":
        raise no_pod(name, f"its kind is {given['kind']}")
    pod: dict[str, Any] = _copy(given)
    containers = pod.get("spec", {}).get("containers")
    if containers is not None:
        if not isinstance(containers, list) or not all(isinstance(c, dict) for c in containers):
            raise no_pod(name, "its containers are not a list of mappings")
        # The container without a name, or the only one, is the runner.
        if not any(c.get("name") == CONTAINER for c in containers):
            plain = [c for c in containers if "name" not in c] or containers[:1]
            if len(containers) == 1 or "name" not in plain[0]:
                plain[0]["name"] = CONTAINER
    check_metadata(name, pod.get("metadata") or {})
    return pod


def _copy(value: Any) -> Any:
    """Return a copy with dicts and lists only; None stays, because it removes a default."""
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list | tuple) else value


def check_metadata(name: str, metadata: Any) -> None:
    """Check that a template leaves dask-flame's labels and annotations alone.

    Raises
    ------
    PoolError
    """
    if not isinstance(metadata, Mapping):
        raise no_pod(name, f"its metadata are a {type(metadata).__name__}")
    for part, taken in (("labels", (*PREFIXES, *MANAGED)), ("annotations", PREFIXES)):
        values = metadata.get(part) or {}
        if not isinstance(values, Mapping):
            raise no_pod(name, f"its {part} are a {type(values).__name__}")
        for key, value in values.items():
            # YAML reads `"1"` without quotes as a number, which Kubernetes refuses.
            if value is not None and not isinstance(value, str):
                raise no_pod(name, f"the value {value!r} of {key!r} in its {part} is not text")
        if key := _first(values, taken):
            raise PoolError(
                f"{name} sets {key!r} in its {part}, which dask-flame sets itself; write "
                f"{line(name, _other(part))}"
            )


def _other(part: str) -> str:
    return f'{{"metadata": {{"{part}": {{"team": "vision"}}}}}}'


def _first(keys: Iterable[Any], prefixes: tuple[str, ...]) -> str:
    return next((str(key) for key in keys if str(key).startswith(prefixes)), "")


def no_pod(name: str, why: str) -> PoolError:
    """Return the error for a template that is not a pod."""
    return PoolError(f"{name} is not a pod: {why}; write {line(name, _EXAMPLE)}")


def for_a_job(template: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Return a template for pods of Jobs, which end only when each of their containers has ended.

    Therefore it has no other container than dask-flame's own.
    """
    if template is None or not template.get("spec", {}).get("containers"):
        return template
    spec = template["spec"]
    own = [c for c in spec["containers"] if c.get("name") == CONTAINER]
    return {**template, "spec": {**spec, "containers": own}}
