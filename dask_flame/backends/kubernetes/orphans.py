"""Which of our objects nobody is there for any more; pure (command line)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Object = Mapping[str, Any]

#: Stands for an owner of which nobody could say whether it is there.
UNKNOWN: Object = {"kind": "Unknown"}


def why_orphan(obj: Object, *, owns: bool, owner: Callable[[str], Object | None]) -> str:
    """Why an object is an orphan; empty where it is none, or where that is not known.

    Kubernetes deletes what has lost its owner, and a Job of ours when it has finished: what this
    finds are objects that it does not know to be ours, or could not delete.

    Parameters
    ----------
    obj : mapping
    owns : bool
        Whether it owns others, as a Job does: then it is there for itself, while it runs.
    owner : callable
        Given an owner's uid, that owner as it is; None where it is gone; :data:`UNKNOWN` where
        nobody can tell.
    """
    if "deletionTimestamp" in obj["metadata"]:
        return ""
    if owns and (end := finished(obj)):
        return f"it has {end}"
    references = obj["metadata"].get("ownerReferences") or ()
    if not references:
        return "" if owns else "nothing owns it"
    reasons = []
    for reference in references:
        there = owner(reference["uid"])
        name = f"{reference['kind']} {reference['name']}"
        if there is None:
            reasons.append(f"its owner, {name}, is gone")
        elif there is not UNKNOWN and (end := finished(there)):
            reasons.append(f"its owner, {name}, has {end}")
        else:
            return ""
    return "; ".join(reasons)


def finished(obj: Object) -> str:
    """How a Job or a pod has ended: ``"finished"`` or ``"failed"``; empty where it has not."""
    status = obj.get("status") or {}
    words = {"Complete": "finished", "Failed": "failed", "Succeeded": "finished"}
    for condition in status.get("conditions") or ():
        if condition.get("status") == "True" and condition.get("type") in ("Complete", "Failed"):
            return words[condition["type"]]
    return words.get(status.get("phase") or "", "")
