"""Checks of requests and answers against the public specification, where it is (test process)."""

from __future__ import annotations

import copy
import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: Beside the repository; not part of it.
PATH = Path(__file__).parents[4] / "shared" / "data" / "fly-machines-openapi.json"
_SCHEMAS = "#/components/schemas/"


class Violation(Exception):
    """A request or an answer is not as the specification says."""


class Specification:
    """The Machines API as the specification of 2024 describes it.

    The specification lets every object have fields that it does not name; here a request with such
    a field is a violation, since it is most probably a typing error. Paths that are newer than the
    specification, as ``suspend``, are not checked.

    Parameters
    ----------
    document : mapping
    """

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._operations: list[tuple[str, re.Pattern[str], Mapping[str, Any]]] = []
        for path, methods in document["paths"].items():
            pattern = re.compile("/v1" + re.sub(r"\{\w+\}", "[^/]+", path))
            for method, operation in methods.items():
                self._operations.append((method.upper(), pattern, operation))
        self._schemas: dict[bool, dict[str, Any]] = {
            strict: {
                name: _changed(schema, strict)
                for name, schema in document["components"]["schemas"].items()
            }
            for strict in (False, True)
        }

    def operation(self, method: str, path: str) -> Mapping[str, Any] | None:
        """Return what the specification says of a path and method; None if it knows neither."""
        for its_method, pattern, operation in self._operations:
            if its_method == method and pattern.fullmatch(path):
                return operation
        return None

    def check_request(self, method: str, path: str, query: Mapping[str, str], body: Any) -> None:
        """Raise Violation unless the request is as the specification says."""
        operation = self.operation(method, path)
        if operation is None:
            return
        for parameter in operation.get("parameters", []):
            if parameter["in"] == "query":
                self._parameter(parameter, query.get(parameter["name"]))
        known = {p["name"] for p in operation.get("parameters", []) if p["in"] == "query"}
        for name in query:
            # The filters of a list are newer than the specification's list of parameters.
            if name not in known and not name.startswith("metadata."):
                raise Violation(f"{method} {path} has no parameter {name!r}")
        wanted = operation.get("requestBody", {}).get("content", {}).get("application/json")
        if wanted is not None:
            self._check(f"{method} {path}", {} if body is None else body, wanted["schema"], True)

    def check_answer(self, method: str, path: str, status: int, body: Any) -> None:
        """Raise Violation unless the answer is as the specification says."""
        operation = self.operation(method, path)
        if operation is None:
            return
        said = operation["responses"].get(str(status))
        if said is None and 200 <= status < 300:
            raise Violation(f"{method} {path} does not answer {status}")
        wanted = (said or {}).get("content", {}).get("application/json")
        # The specification has the output of `exec` as a text; the API answers an object.
        if wanted is not None and not path.endswith("/exec"):
            self._check(f"answer to {method} {path}", body, wanted["schema"], False)

    @staticmethod
    def _parameter(parameter: Mapping[str, Any], value: str | None) -> None:
        name, schema = parameter["name"], parameter["schema"]
        if value is None:
            if parameter.get("required"):
                raise Violation(f"the parameter {name!r} is missing")
        elif schema["type"] == "integer" and not re.fullmatch(r"-?\d+", value):
            raise Violation(f"the parameter {name!r} is no integer: {value!r}")
        elif schema["type"] == "boolean" and value not in ("true", "false"):
            raise Violation(f"the parameter {name!r} is neither true nor false: {value!r}")

    def _check(self, what: str, value: Any, schema: Mapping[str, Any], strict: bool) -> None:
        import jsonschema

        whole = {**_changed(schema, strict), "components": {"schemas": self._schemas[strict]}}
        for error in jsonschema.Draft4Validator(whole).iter_errors(value):
            # The value may be a secret: only its place is told, and the keyword that it breaks.
            keys = ""
            if error.validator == "additionalProperties":
                keys = (
                    f": it has no {sorted(set(error.instance) - set(error.schema['properties']))}"
                )
            raise Violation(
                f"{what}: {'.'.join(map(str, error.absolute_path)) or 'the body'} breaks "
                f"{error.validator!r} of the specification{keys}"
            )


def _changed(schema: Any, strict: bool) -> Any:
    """Return a schema whose objects take no other fields than those it names, if so."""
    if isinstance(schema, list):
        return [_changed(item, strict) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    # The specification wraps a reference to add a description to it.
    if "allOf" in schema and len(schema["allOf"]) == 1:
        return _changed(schema["allOf"][0], strict)
    changed = {
        key: {name: _changed(item, strict) for name, item in value.items()}
        if key == "properties"
        else _changed(value, strict)
        for key, value in schema.items()
    }
    if strict and "properties" in schema:
        changed.setdefault("additionalProperties", False)
    return changed


@functools.cache
def _load(path: Path) -> Specification:
    return Specification(copy.deepcopy(json.loads(path.read_text())))


def find() -> Specification | None:
    """Return the specification; None if it, or jsonschema, is not on this machine."""
    try:
        import jsonschema  # noqa: F401
    except ImportError:
        return None
    return _load(PATH) if PATH.is_file() else None
