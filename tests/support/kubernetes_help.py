"""What the tests of the fake Kubernetes API server have in common."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from tests.fakes.kubernetes import FakeKubernetes
from tests.fakes.kubernetes.access import EVERYTHING
from tests.support.paths import ROOT, free_port
from tests.support.waiting import wait_for

Object = dict[str, Any]

TEAM = "/api/v1/namespaces/team"
JOBS = "/apis/batch/v1/namespaces/team/jobs"


@contextlib.contextmanager
def driver_outside(folder: Path) -> Iterator[dict[str, str]]:
    """Give the environment of a driver outside of a fake cluster, in which nothing may be left."""
    with FakeKubernetes(env={"PYTHONPATH": str(ROOT)}).in_thread() as fake:
        fake.grant("driver", EVERYTHING)
        yield {
            "KUBECONFIG": str(fake.kubeconfig(folder / "kubeconfig")),
            "DASK_FLAME__KUBERNETES__IMAGE": "ghcr.io/me/train:1.0",
            # All pods of the fake share this machine's ports.
            "DASK_FLAME__SCHEDULER__PORT": str(free_port()),
            "DASK_FLAME__SCHEDULER__DASHBOARD_PORT": str(free_port()),
        }
        wait_for(fake.at_rest, what=f"nothing is left: {fake.left()}")


class Caller(httpx.Client):
    """A plain HTTP client of a fake cluster."""

    def __init__(self, cluster: FakeKubernetes, user: str | None = "driver") -> None:
        headers = {"Authorization": f"Bearer {cluster.token(user)}"} if user else {}
        super().__init__(base_url=cluster.url, headers=headers, timeout=40)

    def ok(self, method: str, path: str, **more: Any) -> Any:
        response = self.request(method, path, **more)
        assert response.is_success, response.text
        return response.json()

    def no(self, code: int, method: str, path: str, **more: Any) -> Object:
        """The Status object of a request that is refused."""
        response = self.request(method, path, **more)
        assert response.status_code == code, response.text
        status: Object = response.json()
        assert status["kind"] == "Status"
        assert status["status"] == "Failure"
        assert status["code"] == code
        return status

    def make(self, obj: Object, **params: str) -> Object:
        """Create a pod, a Job, or another object of the namespace ``team``."""
        plural = (obj["kind"].lower() + "s").replace("ys", "ies")
        group = obj["apiVersion"]
        base = "/api/v1" if group == "v1" else f"/apis/{group}"
        path = f"{base}/namespaces/team/{plural}"
        made: Object = self.ok("POST", path, json=obj, params=params)
        return made

    def watch(self, path: str, **params: Any) -> Iterator[Object]:
        """Events of a watch until it ends."""
        with self.stream("GET", path, params={"watch": "true", **params}) as response:
            assert response.status_code == 200, response.read()
            for line in response.iter_lines():
                yield json.loads(line)


def pod(name: str = "one", code: str = "", **more: Any) -> Object:
    """A pod that runs a line of Python; `more` goes into its container, ``spec`` into its spec."""
    spec = more.pop("spec", {})
    meta = more.pop("metadata", {})
    command = {"command": ["python", "-c", code or "pass"]} if "command" not in more else {}
    container = {"name": "c", "image": "registry.test/runner:1", **command, **more}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, **meta},
        "spec": {"restartPolicy": "Never", "containers": [container], **spec},
    }


def job(name: str = "work", code: str = "", **spec: Any) -> Object:
    """A Job that runs a line of Python."""
    template = {"spec": pod(code=code)["spec"]}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {"template": template, **spec},
    }


def secret(name: str = "key", **data: str) -> Object:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data}


#: Sleeps until it is ended.
SLEEP = "import time; time.sleep(60)"


def seen(cluster: FakeKubernetes, name: str = "one", kind: str = "pod") -> Object:
    """An object as it is now; empty if it is gone."""
    found = [o for o in cluster.objects(kind) if o["metadata"]["name"] == name]
    return found[0] if found else {}


def reaches(cluster: FakeKubernetes, phase: str, name: str = "one") -> Object:
    """Wait until a pod is in a phase."""
    wait_for(
        lambda: seen(cluster, name).get("status", {}).get("phase") == phase,
        what=f"{name} {phase}: {seen(cluster, name).get('status')}",
    )
    return seen(cluster, name)


def gone(cluster: FakeKubernetes, name: str = "one", kind: str = "pod") -> None:
    """Wait until an object is gone."""
    wait_for(lambda: not seen(cluster, name, kind), what=f"{kind} {name} gone")


def state(pod: Object, which: str = "terminated") -> Object:
    """The state of a pod's first container."""
    statuses = pod["status"].get("containerStatuses")
    found: Object = statuses[0]["state"].get(which, {}) if statuses else {}
    return found


def condition(obj: Object, type: str) -> Object:
    found = [c for c in obj["status"].get("conditions", []) if c["type"] == type]
    return found[0] if found else {}


def events(cluster: FakeKubernetes, name: str = "one") -> dict[str, str]:
    """Messages of the Events about an object, by their reason: the last of each."""
    about = [e for e in cluster.objects("event") if e["involvedObject"]["name"] == name]
    about.sort(key=lambda event: int(event["metadata"]["resourceVersion"]))
    return {event["reason"]: event["message"] for event in about}
