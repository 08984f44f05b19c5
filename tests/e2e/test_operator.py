"""Our plugins on the pods of dask-kubernetes' operator, whose part is played here."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import dask.config
import dask_kubernetes.operator
import pytest
from dask.distributed import Client
from distributed.client import Future

from dask_flame import report
from tests.fakes.kubernetes import FakeKubernetes
from tests.support.paths import ROOT, free_port
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process

PAGE = (ROOT / "docs" / "kubernetes.md").read_text()


class Operator:
    """Makes pods of a ``DaskCluster``, as dask-kubernetes' controller does, for KubeCluster.

    They are bare ones, not a Deployment's, which would start again what has ended; the scheduler's
    ports are free ones, as the machine may be used for more.
    """

    def __init__(self, fake: FakeKubernetes, cluster: dict[str, Any]) -> None:
        self.fake = fake
        self.name = cluster["metadata"]["name"]
        spec = cluster["spec"]
        self.port = free_port()
        scheduler = spec["scheduler"]["spec"]
        scheduler["containers"][0]["args"] += ["--port", str(self.port), "--dashboard-address", "0"]
        self._make("scheduler", f"{self.name}-scheduler", scheduler)
        for number in range(spec["worker"]["replicas"]):
            name = f"{self.name}-default-worker-{number}"
            worker = spec["worker"]["spec"]
            args = worker["containers"][0]["args"]
            worker["containers"][0]["args"] = ["0" if arg == "8788" else arg for arg in args]
            env = {"DASK_WORKER_NAME": name, "DASK_SCHEDULER_ADDRESS": self.scheduler_address}
            self._make("worker", name, worker, env)

    @property
    def scheduler_address(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    @property
    def phases(self) -> list[str]:
        return [pod["status"]["phase"] for pod in self.fake.objects("pods")]

    def _make(self, what: str, name: str, spec: Any, env: dict[str, str] | None = None) -> None:
        (container,) = spec["containers"]
        variables = [{"name": key, "value": value} for key, value in (env or {}).items()]
        container = {**container, "env": [*(container["env"] or []), *variables]}
        labels = {"dask.org/cluster-name": self.name, "dask.org/component": what}
        self.fake.create(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "namespace": "team", "labels": labels},
                "spec": {**spec, "containers": [container], "restartPolicy": "Never"},
            }
        )


@pytest.fixture
def documented(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], dict[str, Any]]]:
    """Runs the code of the documentation, on this operator; what it defines."""
    image = {
        "PYTHONPATH": str(ROOT),
        "DASK_FLAME__DISCONNECT_GRACE": "1s",
    }
    # The scheduler's pod is said to run before its Python has started.
    slow = dask.config.set({"distributed.comm.timeouts.connect": "60s"})
    with FakeKubernetes(env=image).in_thread() as fake, slow:
        monkeypatch.setattr(
            dask_kubernetes.operator,
            "KubeCluster",
            lambda custom_cluster_spec: Operator(fake, custom_cluster_spec),
        )

        def run() -> dict[str, Any]:
            section = PAGE.partition("## With dask-kubernetes' operator")[2].partition("\n## ")[0]
            (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
            defined: dict[str, Any] = {}
            exec(code, defined)
            return defined

        yield run


def losses(steps: int) -> int:
    for step in range(steps):
        report(step=step, loss=1 / (step + 1))
        time.sleep(0.01)
    return steps


def reported(dask_scheduler: Any) -> list[tuple[str, list[float]]]:
    store = dask_scheduler.plugins["flame-reports"].store
    return [(call.key, list(call.series["loss"].values)) for call in store.calls.values()]


def test_reports_arrive_and_the_lease_ends_what_the_client_has_left(
    documented: Callable[[], dict[str, Any]],
) -> None:
    defined = documented()
    client, operator = defined["client"], defined["cluster"]
    assert isinstance(client, Client)
    try:
        future: Future = client.submit(losses, 5, key="curve")
        assert future.result(timeout=60) == 5
        wait_for(lambda: client.run_on_scheduler(reported))
        ((key, values),) = client.run_on_scheduler(reported)
        assert key == "curve"
        assert values == [1 / (step + 1) for step in range(5)]
        assert operator.phases == ["Running"] * 2
    finally:
        client.close()
    wait_for(lambda: operator.phases == ["Succeeded"] * 2, within=60)
