"""Why a Job has no pod: asked of the API server, since a Job does not say it (driver)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dask_flame.backends.kubernetes.api.client import PODS, Api, KubernetesError

#: What is in a refusal, and what governs it then: of the scheduler's pod.
_GOVERNS = {
    "exceeded quota": "flame.scheduler.cpus and .memory, or the namespace's ResourceQuota",
    "violates PodSecurity": "flame.scheduler.pod-template, or the namespace's pod security",
}


@dataclass(frozen=True)
class Podless:
    """Why a Job has no pod.

    Attributes
    ----------
    why : str
    refused : bool
        Whether these are the words of the server, which takes no such pod.
    """

    why: str
    refused: bool

    @property
    def advised(self) -> str:
        """Why, with what governs it for the scheduler's pod."""
        signs = (what for sign, what in _GOVERNS.items() if self.refused and sign in self.why)
        return next((f"{self.why}; what governs it: {what}" for what in signs), self.why)


async def podless(api: Api, job: Mapping[str, Any]) -> Podless | None:
    """Why this Job, which is there, has no pod; None where it has one.

    Kubernetes tells only in an Event, which a driver has no right to read. But it may make pods:
    one such as the Job's is asked for as a trial (``dryRun``), for which quotas, pod security and
    webhooks answer as they do for the Job's own.

    Raises
    ------
    KubernetesError
        Nobody can tell now.
    """
    name = job["metadata"]["name"]
    there, _ = await api.list(PODS, f"batch.kubernetes.io/job-name={name}")
    if there:
        return None
    template = job["spec"]["template"]
    meta = {**template["metadata"], "name": f"{name[:57]}-trial"}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": template["spec"]}
    try:
        await api.create(PODS, pod, dry_run=True)
    except KubernetesError as error:
        if not error.code or error.passes:
            raise
        if error.code in (403, 422):
            return Podless(error.message, refused=True)
    asked = f"kubectl --namespace {api.namespace} describe job {name}"
    return Podless(
        f"no pod was made for it, which a quota or a webhook may refuse: {asked}", refused=False
    )
