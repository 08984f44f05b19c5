"""Pools of several kinds of pod, on a cluster whose nodes have none of the first kind."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import pytest

from dask_flame import FlameCluster, Pool, PoolError
from dask_flame.backends.kubernetes.api.client import PODS, Api
from dask_flame.errors import BootError
from tests.backends.kubernetes.calls import until
from tests.backends.kubernetes.test_backend import Start, cluster, kubernetes, pods
from tests.driver.hosts.test_remote import RIGHTS
from tests.fakes.kubernetes import FakeKubernetes
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process

__all__ = ["cluster", "kubernetes"]

PLAIN = {"name": "plain", "cpu": 64, "memory": "256Gi"}
SPOT = "karpenter.sh/capacity-type"


def gpu_node(kind: str, gpus: int) -> dict[str, Any]:
    """A node that nothing else goes to, as clouds make them."""
    return {
        "name": f"node-{kind.lower()}",
        "cpu": 16,
        "memory": "64Gi",
        "nvidia.com/gpu": gpus,
        "labels": {"nvidia.com/gpu.product": kind},
        "taints": [{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}],
    }


@pytest.fixture
def _soon() -> Iterator[None]:
    with dask.config.set({"flame.capacity-wait": "0.5s", "flame.capacity-retry": "2s"}):
        yield


def kinds(flame: FlameCluster) -> Counter[str]:
    return Counter(m.kind for m in flame.runners.values() if m.phase.value == "ready")


def nodes(fake: FakeKubernetes) -> dict[str, str]:
    """The node of each runner's pod, by the kind that it bears."""
    return {
        p["metadata"]["annotations"]["dask-flame/kind"]: p["spec"].get("nodeName", "")
        for p in pods(fake)
    }


def said(flame: FlameCluster, kind: str) -> list[str]:
    return [event.reason for event in flame.events if event.kind == kind]


@pytest.mark.usefixtures("_soon")
def test_the_next_kind_is_asked_for_and_the_first_one_again_later(
    kubernetes: Start, cluster: Any, tmp_path: Path
) -> None:
    fake = kubernetes(nodes=[PLAIN, gpu_node("A100", 4)])
    price = {"H100": 4.0, "A100": 2.2}
    flame, client = cluster(max=4, gpus=1, gpu_kind=["H100", "A100"], price=price)
    first = client.map(until, [str(tmp_path / "go")] * 2, pure=False)
    wait_for(lambda: kinds(flame) == {"A100": 2}, what=f"two of A100: {flame.events}")
    wait_for(lambda: nodes(fake) == {"A100": "node-a100"}, what="the pods of H100 are gone")
    (none, *_) = said(flame, "ended")
    assert re.match(r"H100 has none: .*; A100 is asked for instead", none)
    boots = "\n".join(said(flame, "boot"))
    assert "2 of H100" in boots
    nobody = r"of A100; H100 has none: Unschedulable: 0/2 nodes are available: .*affinity/selector"
    assert re.search(nobody, boots)
    assert boots.count("has none: ") == 1
    assert said(flame, "failed") == []

    fake.add_node(gpu_node("H100", 1))
    choice = flame.fleets.fleets["default"].kinds
    wait_for(lambda: choice.left(time.monotonic()) == "H100", what="time to try it again")
    more = client.map(until, [str(tmp_path / "go")] * 2, pure=False)
    wait_for(lambda: kinds(flame) == {"A100": 3, "H100": 1}, what=f"one of H100: {flame.events}")
    assert nodes(fake)["H100"] == "node-h100"
    assert "1 of H100 to see if there are any again, 1 of A100" in said(flame, "boot")[-1]
    assert "(3 of A100, 1 of H100)" in repr(flame)
    (tmp_path / "go").touch()
    assert len(set(client.gather([*first, *more]))) == 4
    cost = flame.cost()["default"]
    assert {part.kind for part in cost.kinds} == {"H100", "A100"}
    assert cost.amount == pytest.approx(sum(part.amount or 0 for part in cost.kinds))
    hours = {part.kind: part.runner_seconds / 3600 for part in cost.kinds}
    assert cost.amount == pytest.approx(sum(price[kind] * hours[kind] for kind in hours))
    assert re.search(r"\n    A100: .* of runners, \$", repr(flame.cost()))


@pytest.mark.usefixtures("_soon")
def test_spot_is_preferred_where_there_is_any(
    kubernetes: Start, cluster: Any, tmp_path: Path
) -> None:
    cheap = {"name": "cheap", "cpu": 1, "memory": "8Gi", "labels": {SPOT: "spot"}}
    cheap["taints"] = [{"key": SPOT, "value": "spot", "effect": "NoSchedule"}]
    fake = kubernetes(nodes=[PLAIN, cheap])
    flame, client = cluster(max=2, cpus=1, spot="prefer")
    futures = client.map(until, [str(tmp_path / "go")] * 2, pure=False)
    wait_for(lambda: kinds(flame) == {"spot": 1, "on demand": 1}, what=f"{flame.events}")
    wait_for(lambda: nodes(fake) == {"spot": "cheap", "on demand": "plain"})
    (tmp_path / "go").touch()
    assert len(set(client.gather(futures))) == 2
    assert said(flame, "failed") == []
    # What is lost is replaced by the same order of preference: its place is free again.
    (lost,) = [name for name, m in flame.runners.items() if m.kind == "spot"]
    (pod,) = [p for p in pods(fake) if p["metadata"]["labels"]["dask-flame/runner"] == lost]
    (tmp_path / "go").unlink()
    held = client.map(until, [str(tmp_path / "go")] * 2, pure=False)
    wait_for(lambda: sum(m.busy for m in flame.runners.values()) == 2)
    fake.kill(pod)
    wait_for(lambda: lost not in flame.runners and kinds(flame) == {"spot": 1, "on demand": 1})
    (tmp_path / "go").touch()
    client.gather(held)


def test_what_holds_a_pod_up_on_its_node_is_no_lack_of_capacity(
    kubernetes: Start, cluster: Any
) -> None:
    with dask.config.set({"flame.capacity-wait": "0.3s"}):
        kubernetes(nodes=[PLAIN, gpu_node("H100", 1)], pull_delay=2.0)
        flame, client = cluster(max=1, gpus=1, gpu_kind=["H100", "A100"])
        assert client.submit(abs, -1).result(timeout=60) == 1
    assert kinds(flame) == {"H100": 1}
    assert len(said(flame, "boot")) == 1


def test_a_pool_of_one_kind_waits(kubernetes: Start, cluster: Any) -> None:
    pools = {
        "one": Pool(max=1, gpus=1, gpu_kind="H100"),
        "two": Pool(max=1, gpus=1, gpu_kind=["H100", "A100"], on_boot_failure="wait"),
    }
    with dask.config.set({"flame.capacity-wait": "0.3s"}):
        fake = kubernetes(nodes=[PLAIN])
        flame, client = cluster(max=None, pools=pools)
        waits = client.submit(abs, -1)
        wait_for(lambda: "Unschedulable" in repr(flame.events))
        # What comes later in the other pool is given up before it.
        with dask.annotate(pool="two"):
            other = client.submit(abs, -2)
        wait_for(lambda: "A100 is asked for instead" in repr(flame.events))
        assert "one-1" in flame.runners
        fake.add_node(gpu_node("H100", 1))
        assert waits.result(timeout=60) == 1
        assert not other.done()
    assert [m.name for m in flame.runners.values() if m.kind == "H100" and m.worked] == ["one-1"]


def test_a_pod_that_gets_its_node_at_the_last_moment_is_kept(
    kubernetes: Start, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = kubernetes(nodes=[PLAIN, gpu_node("A100", 1)])
    delete = Api.delete
    tried: list[str] = []

    async def late(self: Api, kind: Any, name: str, **more: Any) -> bool:
        if kind is PODS and more.get("version") is not None and not tried:
            tried.append(name)
            fake.add_node(gpu_node("H100", 1))
            wait_for(lambda: nodes(fake).get("H100") == "node-h100")
        return await delete(self, kind, name, **more)

    monkeypatch.setattr(Api, "delete", late)
    with dask.config.set({"flame.capacity-wait": "0.3s"}):
        flame, client = cluster(max=1, gpus=1, gpu_kind=["H100", "A100"])
        assert client.submit(abs, -1).result(timeout=60) == 1
    assert tried
    assert kinds(flame) == {"H100": 1}
    assert len(said(flame, "boot")) == 1


def test_a_pod_without_a_node_is_late_for_the_settings_of_that(
    kubernetes: Start, cluster: Any
) -> None:
    kubernetes(nodes=[PLAIN])
    _, client = cluster(max=1, gpus=1, gpu_kind="H100", boot_attempts=1, boot_timeout="3s")
    with pytest.raises(BootError, match=r"Unsched.*; relevant settings: cpus, mem") as caught:
        client.submit(abs, -1).result(timeout=60)
    assert "preload" not in str(caught.value)


@pytest.mark.usefixtures("_soon")
@pytest.mark.parametrize("scheduler", ["driver", "pod"])
def test_pods_that_wait_follow_a_new_order_of_preference(
    kubernetes: Start, cluster: Any, scheduler: str
) -> None:
    fake = kubernetes(nodes=[PLAIN, gpu_node("A100", 1)])
    fake.grant("driver", RIGHTS)
    flame, client = cluster(max=1, gpus=1, gpu_kind="H100", boot_timeout="10m", scheduler=scheduler)
    call = client.submit(abs, -1)
    wait_for(lambda: "Unschedulable" in repr(flame.events))
    flame.resize(gpu_kind=["H100", "A100"])
    assert call.result(timeout=60) == 1
    (none,) = said(flame, "ended")
    assert re.match(r"H100 has none: .*; A100 is asked for instead", none)
    assert kinds(flame) == {"A100": 1}


def test_pods_that_wait_are_kept_once_there_is_no_other_kind(
    kubernetes: Start, cluster: Any
) -> None:
    with dask.config.set({"flame.capacity-wait": "3s"}):
        fake = kubernetes(nodes=[PLAIN])
        options: dict[str, Any] = {"max": 1, "gpus": 1, "gpu_kind": ["H100", "A100"]}
        flame, client = cluster(**options, boot_timeout="10m")
        waiting = flame.backend._pods.runners
        call = client.submit(abs, -1)
        wait_for(lambda: any(r.capacity.limited for r in waiting.values()))
        flame.resize(gpu_kind="H100")
        assert not any(r.capacity.limited for r in waiting.values())
        assert list(waiting) == ["runner-1"]
        fake.add_node(gpu_node("H100", 1))
        assert call.result(timeout=60) == 1
    assert said(flame, "ended") == []


@pytest.mark.usefixtures("_soon")
def test_where_there_is_none_of_any_kind_calls_fail_with_all_reasons(
    kubernetes: Start, cluster: Any
) -> None:
    kubernetes(nodes=[PLAIN])
    flame, client = cluster(max=2, gpus=1, gpu_kind=["H100", "A100"], boot_attempts=1)
    with pytest.raises(BootError, match=r"H100 has none: Unsched.*A100 has none: Unsch") as caught:
        client.submit(abs, -1).result(timeout=60)
    # The settings behind it, once, and not those of other failures.
    assert str(caught.value).lower().count("relevant settings") == 1
    assert "relevant settings: cpus, memory, gpus, gpu_kind, spot, node_selector and tol" in str(
        caught.value
    )
    assert "flame.capacity-wait" in str(caught.value)
    assert "preload" not in str(caught.value)
    assert not [text for text in said(flame, "boot") if "settings" in text]
    wait_for(lambda: not flame.runners)


def test_a_wait_that_a_boot_does_not_reach_is_refused(kubernetes: Start) -> None:
    kubernetes()
    options: dict[str, Any] = {"backend": "kubernetes", "gpu_kind": ["H100", "A100"], "gpus": 1}
    with dask.config.set({"flame.capacity-wait": "5m"}):
        with pytest.raises(PoolError, match=r'boot_timeout=120 s.*write boot_timeout="600s"'):
            FlameCluster(**options)
        FlameCluster(**options, boot_timeout="600s").close()
