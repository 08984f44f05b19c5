"""Find dask-flame's objects that no driver needs any more; pure (command line)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

Object = Mapping[str, Any]

#: Stands for an owner whose existence cannot be determined.
UNKNOWN: Object = {"kind": "Unknown"}
#: Seconds between the grace of a driver that has not reached its scheduler and the deadline of
#: their Job, see :mod:`dask_flame.backends.kubernetes.job_deadline`; and the seconds left before
#: the deadline when the driver is considered gone: a living one moves it every two seconds.
MARGIN = 5
_LEFT = 2


def why_orphan(
    obj: Object, *, owns: bool, owner: Callable[[str], Object | None], now: float = 0.0
) -> str:
    """Return why an object is an orphan; empty if it is none, or if that is unknown.

    Kubernetes deletes objects without an owner, and dask-flame's Jobs when they have finished. What
    remains are objects that it could not delete, or does not know to be owned.

    Parameters
    ----------
    obj : mapping
    owns : bool
        Whether it owns other objects, as a Job does: while it runs, it needs no owner.
    owner : callable
        Given the uid of an owner, return the owner; None if it is gone; :data:`UNKNOWN` if that
        cannot be determined.
    now : float
        Unix time, in seconds.
    """
    if "deletionTimestamp" in obj["metadata"]:
        return ""
    if owns and (end := finished(obj)):
        return f"it has {end}"
    if owns and expired_unmet(obj, now):
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
    """Return the maximum duration of a Job whose driver has not reached it; None without limit."""
    seconds = (job.get("spec") or {}).get("activeDeadlineSeconds")
    return None if seconds is None else int(seconds)


def expired_unmet(job: Object, now: float) -> bool:
    """Return whether a driver has not reached its scheduler, and was silent for its grace."""
    seconds = deadline(job)
    if seconds is None:
        return False
    begun = (job.get("status") or {}).get("startTime") or job["metadata"]["creationTimestamp"]
    return now > datetime.fromisoformat(begun).timestamp() + seconds - _LEFT


def finished(obj: Object) -> str:
    """Return how a Job or a pod ended, ``"finished"`` or ``"failed"``; empty if it has not."""
    status = obj.get("status") or {}
    words = {"Complete": "finished", "Failed": "failed", "Succeeded": "finished"}
    for condition in status.get("conditions") or ():
        if condition.get("status") == "True" and condition.get("type") in ("Complete", "Failed"):
            return words[condition["type"]]
    return words.get(status.get("phase") or "", "")
