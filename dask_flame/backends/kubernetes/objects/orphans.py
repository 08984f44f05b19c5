"""Which of our objects nobody is there for any more; pure (command line)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

Object = Mapping[str, Any]

#: Stands for an owner of which nobody could say whether it is there.
UNKNOWN: Object = {"kind": "Unknown"}
#: Seconds between the grace of a driver that has not met its scheduler and the deadline of their
#: Job, see :mod:`dask_flame.backends.kubernetes.job_deadline`; and of these, those that are left
#: when the driver is taken for gone: one that lives is heard of every two seconds.
MARGIN = 5
_LEFT = 2


def why_orphan(
    obj: Object, *, owns: bool, owner: Callable[[str], Object | None], now: float = 0.0
) -> str:
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
    now : float
        Unix time, in seconds.
    """
    if "deletionTimestamp" in obj["metadata"]:
        return ""
    if owns and (end := finished(obj)):
        return f"it has {end}"
    if owns and forsaken(obj, now):
        return "its driver was gone before the two had met"
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


def deadline(job: Object) -> int | None:
    """Seconds that a Job may last whose driver has not met it; None of what has no such limit."""
    seconds = (job.get("spec") or {}).get("activeDeadlineSeconds")
    return None if seconds is None else int(seconds)


def forsaken(job: Object, now: float) -> bool:
    """Whether nothing was heard for its grace of a driver that has not met its scheduler."""
    seconds = deadline(job)
    if seconds is None:
        return False
    begun = (job.get("status") or {}).get("startTime") or job["metadata"]["creationTimestamp"]
    return now > datetime.fromisoformat(begun).timestamp() + seconds - _LEFT


def finished(obj: Object) -> str:
    """How a Job or a pod has ended: ``"finished"`` or ``"failed"``; empty where it has not."""
    status = obj.get("status") or {}
    words = {"Complete": "finished", "Failed": "failed", "Succeeded": "finished"}
    for condition in status.get("conditions") or ():
        if condition.get("status") == "True" and condition.get("type") in ("Complete", "Failed"):
            return words[condition["type"]]
    return words.get(status.get("phase") or "", "")
