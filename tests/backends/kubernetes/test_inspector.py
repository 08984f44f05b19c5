"""``dask flame --backend kubernetes``: real commands, on an API server with real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dask
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from dask_flame import BootError
from dask_flame.backends.kubernetes import inspector
from dask_flame.backends.kubernetes.api.permissions import rules
from dask_flame.backends.kubernetes.inspector import NEEDED
from dask_flame.backends.kubernetes.objects.orphans import (
    UNKNOWN,
    expired_unmet,
    finished,
    why_orphan,
)
from dask_flame.cli.commands import flame
from tests.backends.kubernetes import test_backend as test_kubernetes
from tests.backends.kubernetes.calls import talk_for, whoami
from tests.backends.kubernetes.test_backend import Start, pods
from tests.fakes.kubernetes import FakeKubernetes
from tests.fakes.kubernetes.access import EVERYTHING
from tests.support.kubernetes_help import SLEEP, job, pod, reaches, secret, seen
from tests.support.paths import ROOT
from tests.support.waiting import wait_for

kubernetes = test_kubernetes.kubernetes
cluster = test_kubernetes.cluster

Said = Callable[..., str]

OURS = {"app.kubernetes.io/managed-by": "dask-flame", "dask.org/cluster-name": "lost-1a2b3c"}


@pytest.fixture
def admin(tmp_path: Path) -> Callable[..., str]:
    """Gives somebody rights in a cluster, and writes a kubeconfig for them."""

    def admit(fake: FakeKubernetes, rights: Any = EVERYTHING) -> str:
        fake.grant("admin", rights)
        return fake.kubeconfig(tmp_path / "admin", user="admin")

    return admit


def typed(kubeconfig: str, *words: str) -> str:
    """Type a command that succeeds, with Kubernetes as Dask's configuration says; what it shows."""
    command = [sys.executable, "-m", "dask", "flame", *words]
    env = {**os.environ, "KUBECONFIG": kubeconfig, "DASK_FLAME__BACKEND": "kubernetes"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, env=env, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


def said(kubeconfig: str, *words: str, notes: str = "", status: int = 0) -> str:
    """The same without a process of its own, which takes a second to import Dask."""
    command = [words[0], "--backend", "kubernetes", *words[1:]]
    done = CliRunner().invoke(flame, command, env={"KUBECONFIG": kubeconfig})
    assert done.exit_code == status, done.output
    assert notes in done.stderr
    assert bool(notes) == bool(done.stderr), done.stderr
    return done.stdout


def listed(kubeconfig: str, **more: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(said(kubeconfig, "ps", "-o", "json", **more))
    return found


def stopped(fake: FakeKubernetes) -> None:
    """Look at what `dask flame stop` leaves: no object from now on, and soon nothing.

    The driver deletes a pod without a grace once its container has ended. Such a pod may be gone
    before its node has cleaned up after it, as in a real cluster.
    """
    assert [line for line in fake.left() if not line.startswith(("process ", "folder of "))] == []
    wait_for(fake.at_rest, what=f"nothing is left: {fake.left()}")


@pytest.mark.process
def test_a_live_cluster_is_listed_read_and_stopped(
    kubernetes: Start, cluster: Any, admin: Any
) -> None:
    fake = kubernetes(nodes=[{"cpu": 8, "memory": "64Gi", "nvidia.com/gpu": 4, "name": "big"}])
    config = admin(fake)
    assert said(config, "ps") == "no clusters\n"
    with dask.config.set({"flame.prints.show": False}):  # the commands write to the same terminal
        flame, client = cluster(max=2, gpus=2, name="mine")
    assert client.submit(whoami, pure=False).result(timeout=60)[0] == "runner-1"
    calls = client.map(talk_for, [600, 601, 602])
    wait_for(lambda: sum(m.busy for m in flame.runners.values()) == 2)
    (seen,) = listed(config)
    assert seen["name"] == "mine"
    assert seen["id"].startswith("mine-")
    assert (seen["state"], seen["driver"]) == ("live", "pod jupyter-me")
    assert [(r["name"], r["state"], r["where"], r["gpus"]) for r in seen["runners"]] == [
        ("runner-1", "Running", "big", 2),
        ("runner-2", "Running", "big", 2),
    ]
    table = typed(config, "ps", "--runners", "--context", "fake", "-n", "team")
    assert " 2 Running  4     pod jupyter-me" in table
    assert said(config, "ps", "-n", "default") == "no clusters\n"
    wait_for(lambda: said(config, "logs", "mine", "runner-2") == "here I am\n")
    both = {"[runner-1] here I am", "[runner-2] here I am"}
    wait_for(lambda: both <= set(said(config, "logs", "mine").splitlines()))
    told = typed(config, "stop", "mine")
    assert "its driver, pod jupyter-me, may live on, and was told" in told
    stopped(fake)
    for call in calls:
        with pytest.raises(BootError, match="stopped with `dask flame stop`"):
            call.result(timeout=60)
    with pytest.raises(BootError, match="stopped with `dask flame stop`"):
        client.submit(whoami, pure=False).result(timeout=60)
    stopped(fake)


@pytest.mark.process
def test_an_idle_cluster_is_stopped_for_good(kubernetes: Start, cluster: Any, admin: Any) -> None:
    fake = kubernetes()
    config = admin(fake)
    flame, client = cluster(max=1, idle_timeout="0.1s", name="idle")
    assert client.submit(whoami, pure=False).result(timeout=60)[0] == "runner-1"
    wait_for(lambda: not pods(fake) and not flame.runners)
    assert listed(config)[0]["runners"] == []
    assert "was told" in said(config, "stop", "idle")
    with pytest.raises(BootError, match="stopped with `dask flame stop`"):
        client.submit(whoami, pure=False).result(timeout=60)
    stopped(fake)


@pytest.mark.process
def test_with_the_rights_of_a_driver_it_says_what_it_cannot_see(
    kubernetes: Start, cluster: Any, admin: Any
) -> None:
    fake = kubernetes()
    config = admin(fake, test_kubernetes.ROLE["rules"])
    flame, client = cluster(max=1, name="narrow", idle_timeout="60s")
    client.submit(whoami, pure=False).result(timeout=60)
    note = 'note: jobs cannot be seen: jobs.batch is forbidden: User "admin"'
    (seen,) = listed(config, notes=note, status=1)
    assert (seen["state"], len(seen["runners"])) == ("live", 1)
    not_all = "Error: this is not all: jobs could not be looked at\n"
    assert "RUNNERS" in said(config, "ps", notes=not_all, status=1)
    assert said(config, "logs", "narrow", "runner-1", notes=note) == ""
    not_all = "Error: this is not all: jobs, networkpolicies, secrets, services could not be"
    shown = said(config, "sweep", "--dry-run", notes=not_all, status=1)
    assert shown == "nothing to sweep\n"
    flame.close()
    wait_for(fake.at_rest)


@pytest.mark.process
def test_a_namespace_that_is_not_there_is_named(kubernetes: Start, admin: Any) -> None:
    config = admin(kubernetes())
    command = ["ps", "--backend", "kubernetes", "--namespace", "nope"]
    done = CliRunner().invoke(flame, command, env={"KUBECONFIG": config})
    assert done.exit_code == 1
    assert "there is no namespace 'nope' in this cluster; `kubectl get namespaces`" in done.stderr


def planted(fake: FakeKubernetes) -> dict[str, str]:
    """Objects of a cluster that nobody is there for, and of others; by kind, those to go."""
    plain = {"metadata": {"labels": OURS, "namespace": "team"}}

    def make(obj: dict[str, Any], *, owner: Any = None, labels: Any = OURS) -> dict[str, Any]:
        meta: dict[str, Any] = {**obj["metadata"], **plain["metadata"], "labels": labels}
        if owner is not None:
            version, kind, name = owner["apiVersion"], owner["kind"], owner["metadata"]["name"]
            uid = owner["metadata"]["uid"]
            meta["ownerReferences"] = [
                {"apiVersion": version, "kind": kind, "name": name, "uid": uid}
            ]
        return fake.create({**obj, "metadata": meta})

    quiet = {"spec": {"terminationGracePeriodSeconds": 1}}
    over = make(pod("over"), labels={})
    live = make(job("live", code=SLEEP))
    other = make(job("other", code=SLEEP), labels={})
    assert reaches(fake, "Succeeded", "over")
    make(secret("alone", A="b"))
    make(secret("of-one-that-is-over", A="b"), owner=over)
    make(pod("alone", code=SLEEP, **quiet))
    # The controller does not see to it: it is as if it had too much to do.
    make(job("unmet", activeDeadlineSeconds=1, suspend=True))
    make(job("begins", activeDeadlineSeconds=3600, suspend=True))
    make({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "alone"}, **_SERVICE})
    make({**_POLICY, "metadata": {"name": "alone"}})
    # Nobody's business: owned, of other things, or not known to be of a cluster.
    make(secret("owned", A="b"), owner=live)
    make(secret("others", A="b"), labels={"app.kubernetes.io/managed-by": "Helm"})
    make(secret("helm", A="b"), owner=other, labels={})
    make(secret("by-hand", A="b"), labels={"app.kubernetes.io/managed-by": "dask-flame"})
    return {
        "secret alone": "nothing owns it",
        "secret of-one-that-is-over": "its owner, Pod over, has finished",
        "pod alone": "nothing owns it",
        "job unmet": "its driver was gone before the two had met",
        "service alone": "nothing owns it",
        "networkpolicy alone": "nothing owns it",
    }


_SERVICE = {"spec": {"selector": {"a": "b"}, "ports": [{"port": 80}]}}
_POLICY = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
}


def names(fake: FakeKubernetes) -> set[str]:
    kinds = ("secret", "pod", "service", "networkpolicy", "job")
    return {
        f"{kind} {obj['metadata']['name']}"
        for kind in kinds
        for obj in fake.objects(kind)
        if "batch.kubernetes.io/job-name" not in obj["metadata"].get("labels", {})
    }


@pytest.mark.process
def test_orphans_are_swept_and_nothing_else(
    kubernetes: Start, cluster: Any, admin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspector, "_BY_ITSELF", 0.1)  # of these, none would
    fake = kubernetes(namespaces={"team": {}})
    config = admin(fake)
    _, client = cluster(max=1, name="alive", idle_timeout="1h")
    assert client.submit(whoami, pure=False).result(timeout=60)
    go = planted(fake)
    before = names(fake)
    shown = said(config, "sweep", "--dry-run", "-o", "json")
    assert {orphan["what"]: orphan["why"] for orphan in json.loads(shown)} == go
    assert names(fake) == before
    assert typed(config, "sweep", "--yes").endswith("\nended\n")
    assert names(fake) == before - set(go)
    assert client.submit(whoami, pure=False).result(timeout=60)[0] == "runner-1"
    # A Job of ours owns itself; it ends with all that it owns when it is told to.
    assert {"job live", "job begins", "secret owned"} <= names(fake)
    assert "lost-1a2b3c: stopped; its driver, outside" in said(config, "stop", "lost")
    assert not {"job live", "job begins", "secret owned"} & names(fake)
    assert {"job other", "secret helm", "secret others", "secret by-hand"} <= names(fake)
    fake.delete(seen(fake, "other", "job"))


@pytest.mark.process
def test_what_may_not_be_deleted_is_said(kubernetes: Start, admin: Any) -> None:
    fake = kubernetes(namespaces={"team": {}})
    config = admin(fake, [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list"]}])
    made = {**secret("alone", A="b"), "metadata": {"name": "alone", "namespace": "team"}}
    made["metadata"]["labels"] = OURS
    fake.create(made)
    done = CliRunner().invoke(
        flame, ["sweep", "--backend", "kubernetes", "--yes"], env={"KUBECONFIG": config}
    )
    assert done.exit_code == 1
    assert "secret alone cannot be deleted: secrets" in done.stderr
    assert "still there: secret alone" in done.stderr


@pytest.mark.process
def test_places_that_there_are_not(tmp_path: Path, kubernetes: Start, admin: Any) -> None:
    config = admin(kubernetes())
    ask = ["ps", "--backend", "kubernetes"]
    done = CliRunner().invoke(flame, [*ask, "--context", "moon"], env={"KUBECONFIG": config})
    assert done.exit_code == 1
    assert "moon" in done.stderr
    none = {"KUBECONFIG": str(tmp_path / "none"), "HOME": str(tmp_path)}
    done = CliRunner().invoke(flame, ask, env=none)
    assert "the Kubernetes API cannot be used" in done.stderr


@pytest.mark.unit
def test_the_role_for_it_is_what_it_asks_for() -> None:
    text = (ROOT / "deploy/kubernetes/inspector.yaml").read_text()
    role, binding = yaml.safe_load_all(text)
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    rights = [(kind, part, verb) for kind, part, verbs in NEEDED for verb in verbs]
    assert yaml.safe_load(rules(rights))["rules"] == role["rules"]


@pytest.mark.process
def test_that_role_is_enough(kubernetes: Start, cluster: Any, admin: Any) -> None:
    fake = kubernetes()
    text = (ROOT / "deploy/kubernetes/inspector.yaml").read_text()
    role, _ = yaml.safe_load_all(text)
    config = admin(fake, role["rules"])
    _, client = cluster(max=1, name="role")
    client.submit(whoami, pure=False).result(timeout=60)
    said(config, "logs", "role")
    assert said(config, "sweep", "--dry-run") == "nothing to sweep\n"
    assert "was told" in said(config, "stop", "role")
    stopped(fake)


REFERENCE = st.builds(
    lambda kind, uid: {"kind": kind, "name": f"n-{uid}", "uid": uid},
    st.sampled_from(["Pod", "Job", "Lease"]),
    st.sampled_from("abcd"),
)
RUNS: dict[str, Any] = {"status": {"phase": "Running"}}
OVER: dict[str, Any] = {"status": {"conditions": [{"type": "Failed", "status": "True"}]}}
OWNER = st.sampled_from([None, UNKNOWN, RUNS, OVER])


@pytest.mark.unit
@given(
    references=st.lists(REFERENCE, max_size=3),
    owners=st.fixed_dictionaries(dict.fromkeys("abcd", OWNER)),
    owns=st.booleans(),
    ending=st.booleans(),
)
def test_what_has_an_owner_that_may_be_there_is_no_orphan(
    references: list[Any], owners: dict[str, Any], owns: bool, ending: bool
) -> None:
    meta = {"ownerReferences": references, **({"deletionTimestamp": "now"} if ending else {})}
    why = why_orphan({"metadata": meta}, owns=owns, owner=owners.get)
    alive = any(owners[ref["uid"]] in (UNKNOWN, RUNS) for ref in references)
    assert bool(why) == (not ending and not alive and bool(references or not owns))


def begun(ago: float, deadline: int | None, **status: Any) -> dict[str, Any]:
    """A Job of ours that began so many seconds before 1000."""
    born = datetime.fromtimestamp(1000 - ago, tz=UTC).isoformat()
    spec = {} if deadline is None else {"activeDeadlineSeconds": deadline}
    return {"metadata": {"creationTimestamp": born}, "spec": spec, "status": status}


@pytest.mark.unit
def test_a_job_whose_driver_is_not_heard_of_is_one() -> None:
    def why(job: dict[str, Any]) -> str:
        return why_orphan(job, owns=True, owner={}.get, now=1000)

    assert why(begun(99, None)) == ""
    assert why(begun(9, 12)) == ""
    assert why(begun(11, 12)) == "its driver was gone before the two had met"
    # What counts is when it has started.
    later = datetime.fromtimestamp(995, tz=UTC).isoformat()
    assert why(begun(99, 12, startTime=later)) == ""
    assert not expired_unmet(begun(99, None), 1000)


@pytest.mark.unit
def test_a_job_of_ours_that_is_over_is_one() -> None:
    complete = {"metadata": {}, "status": {"conditions": [{"type": "Complete", "status": "True"}]}}
    assert why_orphan(complete, owns=True, owner={}.get) == "it has finished"
    suspended = {"metadata": {}, "status": {"conditions": [{"type": "Failed", "status": "False"}]}}
    assert why_orphan(suspended, owns=True, owner={}.get) == ""
    assert finished({"status": {"phase": "Succeeded"}}) == "finished"
