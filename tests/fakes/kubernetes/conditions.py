"""The conditions in a status (test process)."""

from __future__ import annotations

from typing import Any

from tests.fakes.kubernetes.store import now


def put(obj: dict[str, Any], type: str, status: bool, reason: str = "", message: str = "") -> None:
    """Write a condition; the time of its transition stays where it is as it was."""
    conditions = obj["status"].setdefault("conditions", [])
    there = next((c for c in conditions if c["type"] == type), None)
    fresh: dict[str, Any] = {"type": type, "status": "True" if status else "False"}
    same = there is not None and there["status"] == fresh["status"]
    fresh["lastTransitionTime"] = there["lastTransitionTime"] if there and same else now()
    fresh |= {"reason": reason} if reason else {}
    fresh |= {"message": message} if message else {}
    if there is None:
        conditions.append(fresh)
    else:
        there.clear()
        there.update(fresh)


def holds(obj: dict[str, Any], type: str) -> bool:
    """Whether a condition is there and true."""
    conditions = obj.get("status", {}).get("conditions", [])
    return any(c["type"] == type and c["status"] == "True" for c in conditions)
