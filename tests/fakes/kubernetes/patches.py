"""Patches laid over objects: merge (RFC 7386) and JSON patches (RFC 6902) (test process)."""

from __future__ import annotations

import copy
from typing import Any

from tests.fakes.kubernetes.errors import Refused, bad_request

MERGE = ("application/merge-patch+json", "application/strategic-merge-patch+json")
JSON = "application/json-patch+json"


def apply(obj: dict[str, Any], patch: Any, content_type: str) -> dict[str, Any]:
    """The object as a patch makes it; a strategic one is taken as one that merges."""
    if content_type in MERGE:
        if not isinstance(patch, dict):
            raise bad_request("error decoding patch: json: cannot unmarshal into a map")
        merged: dict[str, Any] = merge(obj, patch)
        return merged
    if content_type == JSON:
        return _operate(copy.deepcopy(obj), patch)
    raise Refused(
        415,
        "the body of the request was in an unknown format - accepted media types include: "
        f"{', '.join((JSON, *MERGE))}",
    )


def merge(base: Any, patch: Any) -> Any:
    """RFC 7386: mappings are merged, None takes away, all else takes the place."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(base) if isinstance(base, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), value)
    return merged


def _operate(obj: dict[str, Any], operations: list[dict[str, Any]]) -> dict[str, Any]:
    for operation in operations:
        *parents, last = [
            part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]
        ]
        try:
            place: Any = obj
            for part in parents:
                place = place[int(part) if isinstance(place, list) else part]
            _one(place, last, operation)
        except (KeyError, IndexError, ValueError, TypeError):
            raise Refused(
                422,
                "the server rejected our request due to an error in our request",
            ) from None
    return obj


def _one(place: Any, last: str, operation: dict[str, Any]) -> None:
    do = operation["op"]
    if isinstance(place, list):
        if do == "add":
            place.insert(len(place) if last == "-" else int(last), operation["value"])
            return
        key: Any = int(last)
    else:
        key = last
    if do == "test":
        if place[key] != operation["value"]:
            raise ValueError
    elif do == "remove":
        del place[key]
    elif do in ("add", "replace"):
        if do == "replace":
            place[key]
        place[key] = operation["value"]
    else:
        raise ValueError
