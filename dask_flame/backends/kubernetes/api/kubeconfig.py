"""Find the namespace and the contexts in a kubeconfig, or in a pod (driver)."""

from __future__ import annotations

import contextlib
import os
import shlex
from pathlib import Path
from typing import Any

import yaml

from dask_flame.backends.kubernetes.api.errors import KubernetesError

#: Files in a pod with a service account.
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


def find_namespace(auth: Any, given: str | None, context: str | None) -> str:
    """Return the namespace to use.

    Parameters
    ----------
    auth : kr8s.KubeAuth
    given, context : str, optional
        A namespace, and a context of the kubeconfig, to be used instead of the default.

    Raises
    ------
    LookupError
        If there is no such context.
    """
    if context and auth.active_context != context:
        raise LookupError(context)
    if given:
        return given
    if context:
        # kr8s uses the namespace of the current context.
        return str(auth.kubeconfig.get_context(context).get("namespace") or "default")
    if not auth.active_context and (ACCOUNT / "namespace").is_file():
        # kr8s uses "default" instead: https://github.com/kr8s-org/kr8s/issues/532
        return (ACCOUNT / "namespace").read_text().strip()
    return str(auth.namespace)


def is_elsewhere(auth: Any, given: str | None, context: str | None) -> bool:
    """Return whether a given namespace or context differs from the default."""
    if context and context != auth.kubeconfig.current_context:
        return True
    return bool(given) and given != find_namespace(auth, None, context)


def contexts() -> list[str]:
    """Return the names of the kubeconfig's contexts, as far as they can be read."""
    names: list[str] = []
    for path in os.environ.get("KUBECONFIG", "~/.kube/config").split(os.pathsep):
        with contextlib.suppress(OSError, ValueError, yaml.YAMLError, TypeError, LookupError):
            text = Path(path).expanduser().read_text()
            names += [item["name"] for item in yaml.safe_load(text)["contexts"]]
    return names


def advice(error: KubernetesError, context: str) -> str:
    """Return the line to type for an error of the server; empty if there is none."""
    where = f"kubectl --context {shlex.quote(context)}" if context else "kubectl"
    if error.code == 401:
        return f"; type: {where} auth whoami"
    return f"; type: {where} cluster-info" if error.reason == "Unreachable" else ""


def no_context(context: str, known: list[str]) -> str:
    """Return the message about a context that is not in the kubeconfig."""
    there = f"there are {', '.join(map(repr, known))}" if known else "there is none"
    return f"the kubeconfig has no context {context!r}: {there}"


def no_cluster(why: str) -> str:
    """Return the message about a cluster that cannot be found, from the words of kr8s."""
    if contexts() or ACCOUNT.exists():
        return why
    places = os.environ.get("KUBECONFIG") or "~/.kube/config"
    return (
        f"{why}: there is no kubeconfig with a context in {places}, and this process is in no pod "
        "with a service account; type: export KUBECONFIG=FILE, and then: kubectl get pods"
    )
