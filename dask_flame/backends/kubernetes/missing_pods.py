"""Find out why a Job has no pod, or would have none: its status does not say it (driver)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dask_flame.backends.kubernetes.api.client import PODS, Api, KubernetesError
from dask_flame.core.text import with_advice

#: Part of the refusal of a pod that exceeds a quota.
OVER_QUOTA = "exceeded quota"
#: Part of the refusal of a misspelt field.
UNKNOWN_FIELD = "unknown field"
#: Templates that the scheduler's pod follows.
TEMPLATES = "flame.kubernetes.pod-template for all pods, flame.scheduler.pod-template for this one"
#: Parts of refusals, with the settings behind them for the scheduler's pod. The last is for those
#: of webhooks and policies.
_GOVERNS = {
    OVER_QUOTA: "flame.scheduler.cpus and .memory, or the namespace's ResourceQuota",
    "violates PodSecurity": f"{TEMPLATES}, or the namespace's pod security",
    "": TEMPLATES,
}


@dataclass(frozen=True)
class Podless:
    """The reason why a Job has no pod.

    Attributes
    ----------
    why : str
    refused : bool
        Whether `why` is the server's message, and it accepts no such pod.
    """

    why: str
    refused: bool

    @property
    def advised(self) -> str:
        """The reason, with the setting behind it for the scheduler's pod."""
        signs = (what for sign, what in _GOVERNS.items() if self.refused and sign in self.why)
        return next((with_advice(self.why, what) for what in signs), self.why)


async def podless(api: Api, job: Mapping[str, Any]) -> Podless | None:
    """Return why an existing Job has no pod; None if it has one.

    Kubernetes reports the reason only in an Event, which a driver may not read. It may create pods,
    however: a pod like the Job's is requested as a dry run, to which quotas, pod security and
    webhooks respond in the same way.

    Raises
    ------
    KubernetesError
        If the reason cannot be found out now.
    """
    name = job["metadata"]["name"]
    there, _ = await api.list(PODS, f"batch.kubernetes.io/job-name={name}")
    if there:
        return None
    if (error := await refusal_of_pod(api, job)) is not None:
        return Podless(error.message, refused=True)
    asked = f"kubectl --namespace {api.namespace} describe job {name}"
    return Podless(
        f"no pod was made for it, which a quota or a webhook may refuse: {asked}", refused=False
    )


async def refusal_of_pod(api: Api, job: Mapping[str, Any]) -> KubernetesError | None:
    """Return why the server would refuse a pod like that of a Job; None if it would accept it.

    The pod is requested as a dry run. The Job need not exist.

    Raises
    ------
    KubernetesError
        If the server cannot say so now.
    """
    template = job["spec"]["template"]
    meta = {**template["metadata"], "name": f"{job['metadata']['name'][:57]}-trial"}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": template["spec"]}
    try:
        await api.create(PODS, pod, dry_run=True)
    except KubernetesError as error:
        if not error.code or error.passes:
            raise
        # Another code may mean that a webhook knows no dry runs.
        if error.code in (403, 422) or UNKNOWN_FIELD in error.message:
            return error
    return None
