"""The kinds of object that the fake API server knows, and what it says of them (test process)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_ALL = (
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
)


@dataclass(frozen=True, eq=False)
class Kind:
    """One kind of object: where it is found and what may be done with it.

    There is one of each, so that they are told apart by identity, which is quick.
    """

    group: str
    name: str
    plural: str
    short: tuple[str, ...] = ()
    namespaced: bool = True
    subresources: tuple[str, ...] = ()
    verbs: tuple[str, ...] = _ALL

    @property
    def version(self) -> str:
        """What objects of it say as ``apiVersion``."""
        return f"{self.group}/v1" if self.group else "v1"

    @property
    def resource(self) -> str:
        """As errors name it: ``pods``, ``jobs.batch``."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def qualified(self) -> str:
        """As errors of validation name it: ``Pod``, ``Job.batch``."""
        return f"{self.name}.{self.group}" if self.group else self.name


#: Of subresources that are not a part of the object.
_VERBS = {"log": ["get"], "eviction": ["create"], "portforward": ["create", "get"]}

NAMESPACES = Kind("", "Namespace", "namespaces", ("ns",), False, ("status",))
NODES = Kind("", "Node", "nodes", ("no",), False, ("status",))
PODS = Kind("", "Pod", "pods", ("po",), True, ("status", "log", "eviction", "portforward"))
SERVICES = Kind("", "Service", "services", ("svc",), True, ("status",))
SECRETS = Kind("", "Secret", "secrets")
CONFIG_MAPS = Kind("", "ConfigMap", "configmaps", ("cm",))
EVENTS = Kind("", "Event", "events", ("ev",))
ACCOUNTS = Kind("", "ServiceAccount", "serviceaccounts", ("sa",))
QUOTAS = Kind("", "ResourceQuota", "resourcequotas", ("quota",), True, ("status",))
JOBS = Kind("batch", "Job", "jobs", (), True, ("status",))
POLICIES = Kind("networking.k8s.io", "NetworkPolicy", "networkpolicies", ("netpol",))
_RBAC = "rbac.authorization.k8s.io"
ROLES = Kind(_RBAC, "Role", "roles")
BINDINGS = Kind(_RBAC, "RoleBinding", "rolebindings")

_REVIEW = "authorization.k8s.io"
ACCESS_REVIEW = Kind(
    _REVIEW, "SelfSubjectAccessReview", "selfsubjectaccessreviews", (), False, (), ("create",)
)
RULES_REVIEW = Kind(
    _REVIEW, "SelfSubjectRulesReview", "selfsubjectrulesreviews", (), False, (), ("create",)
)

KINDS = (
    CONFIG_MAPS,
    EVENTS,
    NAMESPACES,
    NODES,
    PODS,
    QUOTAS,
    SECRETS,
    ACCOUNTS,
    SERVICES,
    ACCESS_REVIEW,
    RULES_REVIEW,
    JOBS,
    POLICIES,
    ROLES,
    BINDINGS,
)
REVIEWS = (ACCESS_REVIEW, RULES_REVIEW)
GROUPS = tuple(dict.fromkeys(kind.group for kind in KINDS if kind.group))
_BY_PLURAL = {(kind.group, kind.plural): kind for kind in KINDS}
_BY_NAME = {(kind.version, kind.name): kind for kind in KINDS}


def by_plural(group: str, plural: str) -> Kind | None:
    """The kind that a path names."""
    return _BY_PLURAL.get((group, plural))


def by_name(version: str, name: str) -> Kind | None:
    """The kind that an object, or an owner reference, says it is."""
    return _BY_NAME.get((version, name))


def named(name: str) -> Kind:
    """The kind with a name, a plural or a short name, as kubectl takes them."""
    for kind in KINDS:
        if name.lower() in (kind.name.lower(), kind.plural, kind.resource, *kind.short):
            return kind
    raise KeyError(name)


def versions() -> dict[str, Any]:
    """The answer to ``/api``."""
    return {
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": "127.0.0.1"}],
    }


def groups() -> dict[str, Any]:
    """The answer to ``/apis``."""
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [group(name) for name in GROUPS]}


def group(name: str) -> dict[str, Any]:
    """What ``/apis`` says of one group."""
    version = {"groupVersion": f"{name}/v1", "version": "v1"}
    return {"name": name, "versions": [version], "preferredVersion": version}


def resources(group: str) -> dict[str, Any]:
    """The answer to ``/api/v1`` and to ``/apis/<group>/v1``."""
    listed: list[dict[str, Any]] = []
    for kind in KINDS:
        if kind.group != group:
            continue
        entry: dict[str, Any] = {
            "name": kind.plural,
            "singularName": kind.name.lower(),
            "namespaced": kind.namespaced,
            "kind": kind.name,
            "verbs": list(kind.verbs),
        }
        if kind.short:
            entry["shortNames"] = list(kind.short)
        listed.append(entry)
        listed += [
            {
                "name": f"{kind.plural}/{sub}",
                "singularName": "",
                "namespaced": kind.namespaced,
                "kind": kind.name,
                "verbs": _VERBS.get(sub, ["get", "patch", "update"]),
            }
            for sub in kind.subresources
        ]
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": f"{group}/v1" if group else "v1",
        "resources": listed,
    }
