"""Check the driver's permissions before the first pod (driver)."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Iterable

import yaml

from dask_flame.backends.kubernetes.api.client import (
    JOBS,
    PODS,
    POLICIES,
    SECRETS,
    SERVICES,
    Api,
    KubernetesError,
    ResourceKind,
)
from dask_flame.errors import BackendError

Right = tuple[ResourceKind, str, str]

#: Permissions for a driver in the cluster: kinds, subresources, verbs.
NEEDED: tuple[tuple[ResourceKind, str, tuple[str, ...]], ...] = (
    (PODS, "", ("create", "delete", "get", "list", "watch")),
    (PODS, "log", ("get",)),
    (SECRETS, "", ("create",)),
    (JOBS, "", ("create", "delete", "get")),
    (POLICIES, "", ("create",)),
)


#: Additional ones for a driver outside of the cluster. Port forwarding uses GET: both verbs.
NEEDED_APART: tuple[tuple[ResourceKind, str, tuple[str, ...]], ...] = (
    (PODS, "portforward", ("create", "get")),
    # To move and remove the deadline of the scheduler's Job.
    (JOBS, "", ("patch",)),
)


#: Additional ones if the scheduler has a Service.
NEEDED_SERVICE: tuple[tuple[ResourceKind, str, tuple[str, ...]], ...] = (
    (SERVICES, "", ("create", "get")),
)


async def check(
    api: Api, *, apart: bool, service: bool = False, but: Collection[ResourceKind] = ()
) -> None:
    """Check each permission with the server.

    Parameters
    ----------
    api : Api
    apart : bool
        Whether the driver is outside of the cluster.
    service : bool
        Whether the scheduler has a Service.
    but : collection of ResourceKind
        Kinds that are not created, so that no permission is needed.

    Raises
    ------
    BackendError
        With the missing rules of a Role.
    """
    needed = (*NEEDED, *(NEEDED_APART if apart else ()))
    if apart and service:
        needed += NEEDED_SERVICE
    rights = [(kind, part, verb) for kind, part, verbs in needed for verb in verbs]
    rights = [right for right in rights if right[0] not in but]
    # Wait for all of them, so that none continues after an error.
    asked = (api.allowed(verb, kind, part) for kind, part, verb in rights)
    answers = await asyncio.gather(*asked, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, KubernetesError) and answer.code:
            return  # permissions cannot be queried; missing ones lead to refusals later
        if isinstance(answer, BaseException):
            raise answer
    missing = [right for right, may in zip(rights, answers, strict=True) if not may]
    if missing:
        raise BackendError(
            f"the namespace {api.namespace!r} does not allow this driver all that runners need; "
            f"ask for a Role with these rules, bound to the service account of the driver's pod, "
            f"or to the user or group of your kubeconfig:\n"
            f"{rules(missing)}"
        )


def rules(rights: Iterable[Right]) -> str:
    """Return the rules of a Role, as YAML.

    Examples
    --------
    >>> print(rules([(PODS, "", "create"), (PODS, "log", "get")]))
    rules:
    - apiGroups: [""]
      resources: ["pods"]
      verbs: ["create"]
    - apiGroups: [""]
      resources: ["pods/log"]
      verbs: ["get"]
    """
    verbs: dict[tuple[str, str], list[str]] = defaultdict(list)
    for kind, part, verb in rights:
        group = kind.version.rpartition("/")[0]
        verbs[group, f"{kind.plural}/{part}".rstrip("/")].append(verb)
    lines = ["rules:"]
    for (group, resource), may in verbs.items():
        for start, key, values in (
            ("- ", "apiGroups", [group]),
            ("  ", "resources", [resource]),
            ("  ", "verbs", may),
        ):
            listed = yaml.safe_dump(values, default_style='"', default_flow_style=True, width=999)
            lines.append(f"{start}{key}: {listed.strip()}")
    return "\n".join(lines)
