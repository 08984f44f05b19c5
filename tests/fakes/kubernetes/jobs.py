"""The fake's Job controller: one pod for a Job, again if it fails (test process)."""

from __future__ import annotations

import asyncio
import copy
import time

from tests.fakes.kubernetes import conditions
from tests.fakes.kubernetes.api import Api
from tests.fakes.kubernetes.errors import Refused
from tests.fakes.kubernetes.kinds import JOBS, PODS
from tests.fakes.kubernetes.recorder import Recorder
from tests.fakes.kubernetes.store import Change, Object, now

TRACKING = "batch.kubernetes.io/job-tracking"
_ENDED = ("Succeeded", "Failed")
#: The condition that a Job ends with: type, reason and message.
Verdict = tuple[str, str, str]


class Jobs:
    """Runs Jobs of one completion, with one pod at a time.

    It knows ``backoffLimit``, ``activeDeadlineSeconds``, ``suspend`` and
    ``ttlSecondsAfterFinished``; not more than one completion at a time, indexes, policies for
    failures or success. A pod that is deleted before it has ended counts as failed. A Job that
    fails deletes its pods, and has failed when they have ended. Its deadline may be changed while
    it runs. Between two tries lies a fixed time, which does not double.

    Parameters
    ----------
    api : Api
    back_off : float
        Seconds before a pod is made again that failed or was refused.
    """

    def __init__(self, api: Api, *, back_off: float) -> None:
        self._api = api
        self._store = api.store
        self._events = Recorder(api.store, "job-controller")
        self._back_off = back_off
        self._wake = asyncio.Event()
        self._started: dict[str, float] = {}
        self._finished: dict[str, float] = {}
        self._failing: dict[str, Verdict] = {}  # until their pods have ended
        self._not_before: dict[str, float] = {}
        self._store.listeners.append(self._look)

    def _look(self, change: Change) -> None:
        if change.kind in (JOBS, PODS):
            self._wake.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while (due := self._all()) is not None:
                try:
                    await asyncio.wait_for(self._wake.wait(), max(due - time.monotonic(), 0.001))
                except TimeoutError:
                    continue
                self._wake.clear()

    def _all(self) -> float | None:
        """Look at all Jobs; when the next is to be looked at without anything having changed."""
        jobs = self._store.items(JOBS)
        running = {job["metadata"]["uid"] for job in jobs} - set(self._finished)
        owned: dict[str, list[Object]] = {}
        for pod in self._store.items(PODS):
            meta = pod["metadata"]
            # What else a Job owns, it is not the controller of.
            owners = meta.get("ownerReferences") or []
            owner = next((o["uid"] for o in owners if o.get("controller")), "")
            owned.setdefault(owner, []).append(pod)
            if owner not in running and TRACKING in (meta.get("finalizers") or []):
                self._store.modify(PODS, pod, _untrack)
        dues = [self._one(job, owned.get(job["metadata"]["uid"], [])) for job in jobs]
        return min((due for due in dues if due is not None), default=None)

    def _one(self, job: Object, pods: list[Object]) -> float | None:
        uid = job["metadata"]["uid"]
        if uid in self._finished:
            return self._late(job)
        status = copy.deepcopy(job["status"])
        for pod in pods:
            if TRACKING in (pod["metadata"].get("finalizers") or []):
                self._count(pod, status, uid)
        active = [p for p in pods if _active(p)]
        ready = sum(conditions.holds(p, "Ready") for p in active)
        deleted = "deletionTimestamp" in job["metadata"]
        due: float | None = None
        verdict = None if deleted else self._failing.get(uid) or self._verdict(job, status)
        if not deleted and verdict is None and not job["spec"]["suspend"]:
            status.setdefault("startTime", now())
            self._started.setdefault(uid, time.monotonic())
            if (limit := job["spec"].get("activeDeadlineSeconds")) is not None:
                due = self._started[uid] + limit
            not_before = self._not_before.get(uid, 0.0)
            if not active and time.monotonic() >= not_before:
                if (made := self._make(job)) is not None:
                    active.append(made)
                else:
                    self._not_before[uid] = not_before = time.monotonic() + self._back_off
            if not active:
                due = min(not_before, due or not_before)
        status |= {"active": len(active), "ready": ready, "uncountedTerminatedPods": {}}
        if not status["active"]:
            del status["active"]
        ended = verdict is not None and all(p["status"]["phase"] in _ENDED for p in pods)
        written = self._store.modify(JOBS, job, lambda obj: _write(obj, status, verdict, ended))
        if verdict is None or written is None:
            return due
        if uid not in self._failing:
            self._failing[uid] = verdict
            for pod in active:
                self._api.delete(PODS, pod["metadata"]["namespace"], pod["metadata"]["name"])
        if not ended:
            return None  # the end of a pod is told
        self._finish(written, verdict)
        return self._late(written)

    def _count(self, pod: Object, status: Object, uid: str) -> None:
        phase = pod["status"]["phase"]
        if phase not in _ENDED and "deletionTimestamp" not in pod["metadata"]:
            return
        which = "succeeded" if phase == "Succeeded" else "failed"
        status[which] = status.get(which, 0) + 1
        if which == "failed":
            self._not_before[uid] = time.monotonic() + self._back_off
        self._store.modify(PODS, pod, _untrack)

    def _verdict(self, job: Object, status: Object) -> Verdict | None:
        """What a Job ends with, once it does."""
        spec, uid = job["spec"], job["metadata"]["uid"]
        if status.get("succeeded", 0) >= 1:
            return "Complete", "CompletionsReached", "Reached expected number of succeeded pods"
        if status.get("failed", 0) > spec["backoffLimit"]:
            return "Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit"
        limit, started = spec.get("activeDeadlineSeconds"), self._started.get(uid)
        if None not in (limit, started) and time.monotonic() >= started + limit:
            return "Failed", "DeadlineExceeded", "Job was active longer than specified deadline"
        return None

    def _make(self, job: Object) -> Object | None:
        meta, template = job["metadata"], job["spec"]["template"]
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "generateName": f"{meta['name']}-",
                "labels": template["metadata"]["labels"],
                "annotations": template["metadata"].get("annotations") or {},
                "finalizers": [*(template["metadata"].get("finalizers") or []), TRACKING],
                "ownerReferences": [
                    {
                        "apiVersion": "batch/v1",
                        "kind": "Job",
                        "name": meta["name"],
                        "uid": meta["uid"],
                        "controller": True,
                        "blockOwnerDeletion": True,
                    }
                ],
            },
            "spec": template["spec"],
        }
        try:
            made = self._api.create(PODS, meta["namespace"], pod)
        except Refused as refused:
            text = f"Error creating: {refused.message}"
            self._events.say(job, "FailedCreate", text, warning=True)
            return None
        self._events.say(job, "SuccessfulCreate", f"Created pod: {made['metadata']['name']}")
        return made

    def _finish(self, job: Object, verdict: Verdict) -> None:
        self._finished[job["metadata"]["uid"]] = time.monotonic()
        type, reason, message = verdict
        if type == "Complete":
            self._events.say(job, "Completed", "Job completed")
        else:
            self._events.say(job, reason, message, warning=True)

    def _late(self, job: Object) -> float | None:
        """Delete a finished Job when its time is over; when that is."""
        seconds = job["spec"].get("ttlSecondsAfterFinished")
        if seconds is None or "deletionTimestamp" in job["metadata"]:
            return None
        due = self._finished[job["metadata"]["uid"]] + float(seconds)
        if time.monotonic() < due:
            return due
        meta = job["metadata"]
        options = {"propagationPolicy": "Foreground"}
        self._api.delete(JOBS, meta["namespace"], meta["name"], options)
        return None


def _active(pod: Object) -> bool:
    return pod["status"]["phase"] not in _ENDED and "deletionTimestamp" not in pod["metadata"]


def _untrack(pod: Object) -> None:
    pod["metadata"]["finalizers"] = [f for f in pod["metadata"]["finalizers"] if f != TRACKING]


def _write(job: Object, status: Object, verdict: Verdict | None, ended: bool) -> None:
    job["status"] = {**status, "conditions": job["status"].get("conditions", [])}
    if verdict is not None:
        type, reason, message = verdict
        early = "SuccessCriteriaMet" if type == "Complete" else "FailureTarget"
        conditions.put(job, early, True, reason, message)
        if ended:
            conditions.put(job, type, True, reason, message)
        if ended and type == "Complete":
            job["status"]["completionTime"] = now()
    if not job["status"]["conditions"]:
        del job["status"]["conditions"]
