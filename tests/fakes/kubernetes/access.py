"""Who may do what: role-based access by token, and the reviews of it (test process)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.fakes.kubernetes.errors import Refused, forbidden
from tests.fakes.kubernetes.kinds import ACCESS_REVIEW, REVIEWS, Kind, by_plural

Rules = Iterable[Mapping[str, Any]]

#: Of who has all rights.
EVERYTHING: Rules = (
    {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]},
    {"nonResourceURLs": ["*"], "verbs": ["*"]},
)
_DISCOVERY = ("/api", "/apis", "/version", "/healthz", "/livez", "/readyz", "/openapi")
_PUBLIC = ("/version", "/healthz", "/livez", "/readyz")
ANONYMOUS = "system:anonymous"


@dataclass(frozen=True)
class Rule:
    """One rule of a Role; with no namespaces, of a ClusterRole that is bound everywhere."""

    groups: tuple[str, ...]
    resources: tuple[str, ...]
    verbs: tuple[str, ...]
    names: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    namespaces: tuple[str, ...] | None = None

    @classmethod
    def read(cls, rule: Mapping[str, Any]) -> Rule:
        """A rule as Kubernetes writes it, with ``namespaces`` beside it where it is a Role's."""
        known = {"apiGroups", "resources", "verbs", "resourceNames", "nonResourceURLs"}
        if unknown := set(rule) - known - {"namespaces"}:
            raise ValueError(f"no part of a rule: {', '.join(sorted(unknown))}")
        namespaces = rule.get("namespaces")
        return cls(
            tuple(rule.get("apiGroups", ())),
            tuple(rule.get("resources", ())),
            tuple(rule["verbs"]),
            tuple(rule.get("resourceNames", ())),
            tuple(rule.get("nonResourceURLs", ())),
            None if namespaces is None else tuple(namespaces),
        )

    def covers(
        self, verb: str, group: str, resource: str, subresource: str, namespace: str, name: str
    ) -> bool:
        full = f"{resource}/{subresource}" if subresource else resource
        return (
            _in(verb, self.verbs)
            and _in(group, self.groups)
            and (_in(full, self.resources) or f"*/{subresource}" in self.resources)
            and (not self.names or name in self.names)
            and (self.namespaces is None or namespace in self.namespaces)
        )

    def covers_path(self, verb: str, path: str) -> bool:
        return _in(verb, self.verbs) and any(
            path == known or (known.endswith("*") and path.startswith(known[:-1]))
            for known in self.paths
        )


def _in(what: str, names: Sequence[str]) -> bool:
    return what in names or "*" in names


class Access:
    """Users, their tokens and their rules.

    Parameters
    ----------
    users : mapping
        By name, rules as in a Role, with ``namespaces`` beside those that do not hold everywhere.

    Attributes
    ----------
    ready : bool
        Whether the Roles there are have been read: until then nobody may do anything.
    """

    def __init__(self, users: Mapping[str, Rules]) -> None:
        self.ready = True
        self._rules: dict[str, tuple[Rule, ...]] = {}
        for name, rules in users.items():
            self.grant(name, rules)

    def grant(self, user: str, rules: Rules) -> None:
        """Let a user do this, and nothing else any more."""
        self._rules[user] = tuple(Rule.read(rule) for rule in rules)

    def revoke(self, user: str) -> None:
        """Know a user no more."""
        self._rules.pop(user, None)

    def token(self, user: str) -> str:
        if user not in self._rules:
            raise KeyError(f"no user {user!r}; there are {', '.join(self._rules)}")
        return f"token-of-{user}"

    def user(self, header: str | None) -> str:
        """Who sends a request with this header; 401 if the token is nobody's."""
        if header is None:
            return ANONYMOUS
        name = header.removeprefix("Bearer ").removeprefix("token-of-")
        if header != f"Bearer token-of-{name}" or name not in self._rules:
            raise Refused(401, "Unauthorized")
        return name

    def allowed(
        self,
        user: str,
        verb: str,
        group: str,
        resource: str,
        *,
        subresource: str = "",
        namespace: str = "",
        name: str = "",
    ) -> bool:
        if user != ANONYMOUS and any(k.group == group and k.plural == resource for k in REVIEWS):
            return True
        return self.ready and any(
            rule.covers(verb, group, resource, subresource, namespace, name)
            for rule in self._rules.get(user, ())
        )

    def check(
        self, user: str, verb: str, kind: Kind, namespace: str, name: str, subresource: str
    ) -> None:
        """Refuse, with 403, what the user may not do."""
        if self.allowed(
            user,
            verb,
            kind.group,
            kind.plural,
            subresource=subresource,
            namespace=namespace,
            name=name,
        ):
            return
        resource = f"{kind.plural}/{subresource}" if subresource else kind.plural
        scope = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
        raise forbidden(
            kind,
            name,
            f'User "{user}" cannot {verb} resource "{resource}" in API group "{kind.group}" '
            f"{scope}",
        )

    def check_path(self, user: str, verb: str, path: str) -> None:
        """Refuse, with 403, a path that belongs to no resource."""
        open_to_user = _DISCOVERY if user != ANONYMOUS else _PUBLIC
        if any(path == known or path.startswith(f"{known}/") for known in open_to_user):
            return
        if not any(rule.covers_path(verb, path) for rule in self._rules.get(user, ())):
            raise Refused(403, f'forbidden: User "{user}" cannot {verb} path "{path}"')

    def review(self, user: str, kind: Kind, obj: dict[str, Any]) -> dict[str, Any]:
        """Answer a SelfSubjectAccessReview or a SelfSubjectRulesReview."""
        spec = obj.get("spec") or {}
        status = self._answer(user, spec) if kind == ACCESS_REVIEW else self._list(user, spec)
        return {
            "kind": kind.name,
            "apiVersion": kind.version,
            "metadata": {},
            "spec": spec,
            "status": status,
        }

    def _answer(self, user: str, spec: dict[str, Any]) -> dict[str, Any]:
        if asked := spec.get("resourceAttributes"):
            group, resource = asked.get("group", ""), asked.get("resource", "")
            kind = by_plural(group, resource)
            namespace = asked.get("namespace", "") if kind is None or kind.namespaced else ""
            yes = self.allowed(
                user,
                asked.get("verb", ""),
                group,
                resource,
                subresource=asked.get("subresource", ""),
                namespace=namespace,
                name=asked.get("name", ""),
            )
        else:
            asked = spec.get("nonResourceAttributes") or {}
            try:
                self.check_path(user, asked.get("verb", ""), asked.get("path", ""))
                yes = True
            except Refused:
                yes = False
        return {"allowed": True, "reason": "RBAC: allowed"} if yes else {"allowed": False}

    def _list(self, user: str, spec: dict[str, Any]) -> dict[str, Any]:
        rules = [
            rule
            for rule in self._rules[user]
            if rule.namespaces is None or spec.get("namespace") in rule.namespaces
        ]
        return {
            "resourceRules": [
                {"verbs": list(rule.verbs)}
                | {"apiGroups": list(rule.groups), "resources": list(rule.resources)}
                | ({"resourceNames": list(rule.names)} if rule.names else {})
                for rule in rules
                if rule.resources
            ],
            "nonResourceRules": [
                {"verbs": list(rule.verbs), "nonResourceURLs": list(rule.paths)}
                for rule in rules
                if rule.paths
            ],
            "incomplete": False,
        }
