"""Checks objects against the schemas of Kubernetes, each of which is read once."""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any


def validate(item: Mapping[str, Any], version: str) -> None:
    """Raise unless an object is valid, without unknown fields, in this version of Kubernetes."""
    _utils().validate(item, version, strict=True)


@functools.cache
def _utils() -> ModuleType:
    if "jsonschema" not in sys.modules:
        # It compiles a grammar of IRIs when it is imported, which takes seconds. No schema of
        # Kubernetes has an IRI.
        sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]
        try:
            import jsonschema  # noqa: F401
        finally:
            del sys.modules["rfc3987_syntax"]
    from kubernetes_validate import utils

    utils.schema_contents = functools.cache(utils.schema_contents)
    utils.all_versions = functools.cache(utils.all_versions)
    return utils
