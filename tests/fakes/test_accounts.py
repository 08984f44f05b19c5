"""Service accounts of the fake Kubernetes cluster: their rights, and what their pods are told."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("aiohttp")

from tests.fakes.kubernetes import FakeKubernetes
from tests.support.kubernetes_help import TEAM, Caller, pod, reaches
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process

RBAC = "rbac.authorization.k8s.io"
ROLES = f"/apis/{RBAC}/v1/namespaces/team"
ACCOUNT = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "me"}}
ROLE = {"metadata": {"name": "r"}, "rules": []}
BINDING = {
    "metadata": {"name": "b"},
    "roleRef": {"apiGroup": RBAC, "kind": "Role", "name": "r"},
    "subjects": [{"kind": "ServiceAccount", "name": "me"}],
}
ASK = """
import httpx, os, yaml
known = yaml.safe_load(open(os.environ["KUBECONFIG"]))
base = known["clusters"][0]["cluster"]["server"] + "/api/v1/namespaces"
headers = {"Authorization": "Bearer " + known["users"][0]["user"]["token"]}
for namespace in ("team", "default"):
    print(httpx.get(f"{base}/{namespace}/pods", headers=headers).status_code)
print(known["contexts"][0]["context"]["namespace"], os.environ["POD_NAME"])
"""


@pytest.fixture
def cluster() -> Iterator[FakeKubernetes]:
    with FakeKubernetes().in_thread() as cluster:
        yield cluster


def bind(api: Caller, *verbs: str) -> None:
    api.ok("POST", f"{TEAM}/serviceaccounts", json=ACCOUNT)
    rule = {"apiGroups": [""], "resources": ["pods"], "verbs": list(verbs)}
    api.ok("POST", f"{ROLES}/roles", json={**ROLE, "rules": [rule]})
    api.ok("POST", f"{ROLES}/rolebindings", json=BINDING)


def test_an_account_may_do_what_is_bound_to_it(cluster: FakeKubernetes) -> None:
    user = "system:serviceaccount:team:me"
    with Caller(cluster) as api:
        bind(api, "list")
        with Caller(cluster, user) as me:
            assert me.ok("GET", f"{TEAM}/pods")["items"] == []
            status = me.no(403, "GET", "/api/v1/namespaces/default/pods")
            assert f'User "{user}" cannot list resource "pods"' in status["message"]
            me.no(403, "GET", f"{TEAM}/secrets")
            api.ok("DELETE", f"{ROLES}/rolebindings/b")
            me.no(403, "GET", f"{TEAM}/pods")
            api.ok("DELETE", f"{TEAM}/serviceaccounts/me")
            me.no(401, "GET", f"{TEAM}/pods")


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"serviceAccountName": "me"}, "200\n403\nteam one\n"),
        ({"serviceAccountName": "me", "automountServiceAccountToken": False}, "KeyError"),
        ({}, "KeyError"),
    ],
)
def test_a_pod_has_the_token_of_its_account(
    cluster: FakeKubernetes, spec: dict[str, Any], says: str
) -> None:
    with Caller(cluster) as api:
        bind(api, "list")
        api.make(pod(code=ASK, spec=spec))
        reaches(cluster, "Failed" if "Error" in says else "Succeeded")
        assert says in api.get(f"{TEAM}/pods/one/log").text


def test_a_namespace_takes_its_accounts_along(cluster: FakeKubernetes) -> None:
    with Caller(cluster) as api:
        bind(api, "list")
        api.ok("DELETE", "/api/v1/namespaces/team")

    def there() -> bool:
        with contextlib.suppress(KeyError):
            return bool(cluster.token("system:serviceaccount:team:me"))
        return False

    # As on a real one, what is in a namespace goes after it was deleted.
    wait_for(lambda: not there())
