"""Service accounts: what they may do, and how their pods find the server (test process)."""

from __future__ import annotations

import yaml

from tests.fakes.kubernetes.access import Access
from tests.fakes.kubernetes.kinds import ACCOUNTS, BINDINGS, ROLES
from tests.fakes.kubernetes.store import Change, Object, Store


def user_of(namespace: str, account: str) -> str:
    """Whom a service account is, where it is asked who it is."""
    return f"system:serviceaccount:{namespace}:{account}"


class Accounts:
    """Makes a user of each service account, with the rules that are bound to it.

    ClusterRoles, groups and users are not looked at, and there is no account ``default`` unless one
    is made. Whoever may make a Role may write anything into it.

    Parameters
    ----------
    store : Store
    access : Access
    """

    def __init__(self, store: Store, access: Access) -> None:
        self._store = store
        self._access = access
        self._known: set[str] = set()
        store.listeners.append(self._look)

    def _look(self, change: Change) -> None:
        if change.kind not in (ACCOUNTS, ROLES, BINDINGS):
            return
        there = {_user(account) for account in self._store.items(ACCOUNTS)}
        for user in self._known - there:
            self._access.revoke(user)
        for user in there:
            self._access.grant(user, self._rules(user))
        self._known = there

    def _rules(self, user: str) -> list[Object]:
        found: list[Object] = []
        for binding in self._store.items(BINDINGS):
            namespace = binding["metadata"]["namespace"]
            subjects = binding.get("subjects") or []
            if not any(_subject(subject, namespace) == user for subject in subjects):
                continue
            role = self._store.get(ROLES, namespace, binding["roleRef"]["name"])
            for rule in (role or {}).get("rules") or []:
                found.append({**rule, "namespaces": [namespace]})
        return found


def _user(account: Object) -> str:
    return user_of(account["metadata"]["namespace"], account["metadata"]["name"])


def _subject(subject: Object, namespace: str) -> str:
    if subject.get("kind") != "ServiceAccount":
        return ""
    return user_of(subject.get("namespace") or namespace, subject["name"])


def kubeconfig(store: Store, access: Access, pod: Object, server: str) -> str | None:
    """What stands in for the mounted token of a pod's service account; None where there is none."""
    namespace, name = pod["metadata"]["namespace"], pod["spec"]["serviceAccountName"]
    account = store.get(ACCOUNTS, namespace, name)
    mounted = pod["spec"].get("automountServiceAccountToken")
    if account is None or mounted is False:
        return None
    if mounted is None and account.get("automountServiceAccountToken") is False:
        return None
    return config(server, access.token(user_of(namespace, name)), namespace, name)


def config(server: str, token: str, namespace: str, user: str) -> str:
    """A kubeconfig."""
    context = {"cluster": "fake", "user": user, "namespace": namespace}
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "fake", "cluster": {"server": server}}],
            "users": [{"name": user, "user": {"token": token}}],
            "contexts": [{"name": "fake", "context": context}],
            "current-context": "fake",
        }
    )
