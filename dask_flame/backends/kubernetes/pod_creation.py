"""The objects that a runner needs, and refusals of them (driver)."""

from __future__ import annotations

from typing import Any

from dask_flame.backends.environment import usual_environment
from dask_flame.backends.kubernetes.api.client import KubernetesError
from dask_flame.backends.kubernetes.missing_pods import OVER_QUOTA as OVER_QUOTA
from dask_flame.backends.kubernetes.missing_pods import UNKNOWN_FIELD
from dask_flame.backends.kubernetes.objects import manifests
from dask_flame.backends.kubernetes.objects.context import ObjectContext
from dask_flame.backends.kubernetes.objects.resources import variables
from dask_flame.backends.kubernetes.options import KubernetesOptions
from dask_flame.backends.specs import RunnerSpec
from dask_flame.core.text import with_advice


def runner_objects(
    spec: RunnerSpec, options: KubernetesOptions, site: ObjectContext
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the Secret that a runner needs, and its pod."""
    config = spec.launch_config(local=False)
    # All runners of a pool share one Secret. The name of each is a variable of its pod.
    shared = {name: value for name, value in config.items() if name != "name"}
    secret = manifests.secret(site, shared, variables(spec))
    launch_secret = secret["metadata"]["name"]
    return secret, manifests.pod(spec, options, site, usual_environment(spec), launch_secret)


def refusal(error: Exception) -> str:
    """Return the server's message, with the setting behind the refusal."""
    text = str(error)
    if (
        isinstance(error, KubernetesError)
        and error.code in _OF_CONTENTS
        and "cannot create resource" not in text
    ):
        what = next((what for sign, what in _GOVERNS.items() if sign in text), _OTHERS)
        return with_advice(text, what)
    return text


#: Codes of refusals for the contents of a pod.
_OF_CONTENTS = frozenset({400, 403, 422})
#: Parts of refusals, with the settings behind them; and the settings behind those of webhooks and
#: policies, and of the API server's own checks.
_GOVERNS = {
    OVER_QUOTA: "cpus, memory, gpus and max; or the namespace's ResourceQuota",
    "violates PodSecurity": "pod_template, volumes and the namespace's pod security",
    "must specify": "cpus and memory, which the namespace's quota wants to be told",
    UNKNOWN_FIELD: "pod_template and flame.kubernetes.pod-template, one of which has this field",
    "service account": "service_account",
    "PriorityClass": "priority_class",
    "RuntimeClass": "runtime_class",
}
_OTHERS = (
    "labels, annotations, pod_template and the other options of the pool; for all pods, those of "
    "the scheduler and the watchdog as well, flame.kubernetes.pod-template"
)
