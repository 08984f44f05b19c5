"""Describe a cluster by its objects; pure (command line)."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from datetime import datetime

from dask_flame.backends.inspector import ClusterListing, RunnerListing
from dask_flame.backends.kubernetes.objects.context import KIND, MADE_BY, STOP
from dask_flame.backends.kubernetes.objects.orphans import Object, deadline, expired_unmet, finished

CLUSTER, COMPONENT = "dask.org/cluster-name", "dask.org/component"


def label(obj: Object, name: str) -> str:
    """Return a label of an object; empty if it does not have the label."""
    return str((obj["metadata"].get("labels") or {}).get(name, ""))


def seen(id: str, jobs: Sequence[Object], pods: Sequence[Object]) -> ClusterListing:
    """Describe a cluster, using those of these objects that belong to it.

    Parameters
    ----------
    id : str
        The cluster's id.
    jobs, pods : sequence of mapping
    """
    mine = [job for job in jobs if label(job, CLUSTER) == id]
    others = [pod for pod in pods if label(pod, CLUSTER) == id]
    runners = [_runner(pod) for pod in others if label(pod, COMPONENT) == "worker"]
    runners.sort(key=lambda runner: (runner.pool, len(runner.name), runner.name))
    drivers = [f"{ref['kind'].lower()} {ref['name']}" for job in mine for ref in _owners(job)]
    return ClusterListing(
        id=id,
        name=id.rpartition("-")[0] or id,
        state=_state(mine, others),
        driver=drivers[-1] if drivers else ("outside of the cluster" if mine else "?"),
        started=min(_born(obj) for obj in [*mine, *others]),
        runners=tuple(runners),
        made_by=next((by for pod in others if (by := _annotation(pod, MADE_BY))), ""),
    )


def _state(jobs: Sequence[Object], pods: Sequence[Object]) -> str:
    ending = [obj for obj in (*jobs, *pods) if "deletionTimestamp" in obj["metadata"]]
    if living := [obj for obj in jobs if obj not in ending and not finished(obj)]:
        if all(expired_unmet(job, time.time()) for job in living):
            return "orphaned"
        told = any(STOP in (pod["metadata"].get("annotations") or {}) for pod in pods)
        unmet = all(deadline(job) is not None for job in living)
        return "stopped" if told else "starting" if unmet else "live"
    if ending or jobs:
        return "ending"
    # Without permission to see Jobs, the pods' owners show that there is one.
    return "live" if any(_owners(pod) for pod in pods) else "orphaned"


def _runner(pod: Object) -> RunnerListing:
    state = str((pod.get("status") or {}).get("phase") or "Unknown")
    return RunnerListing(
        name=label(pod, "dask-flame/runner"),
        pool=label(pod, "dask-flame/pool"),
        state="Terminating" if "deletionTimestamp" in pod["metadata"] else state,
        started=_born(pod),
        where=str(pod["spec"].get("nodeName") or ""),
        gpus=_gpus(pod),
        kind=_annotation(pod, KIND),
    )


def _annotation(obj: Object, name: str) -> str:
    return str((obj["metadata"].get("annotations") or {}).get(name, ""))


def _gpus(pod: Object) -> float:
    """Return the number of GPUs that a pod requests, of any vendor."""
    limits = [
        (container.get("resources") or {}).get("limits") or {}
        for container in pod["spec"].get("containers") or ()
    ]
    return sum(
        float(amount)
        for limit in limits
        for name, amount in limit.items()
        if "/" in name and re.search("gpu|/mig-", name)
    )


def _owners(obj: Object) -> Sequence[Object]:
    owners: Sequence[Object] = obj["metadata"].get("ownerReferences") or ()
    return owners


def _born(obj: Object) -> float:
    return datetime.fromisoformat(obj["metadata"]["creationTimestamp"]).timestamp()
