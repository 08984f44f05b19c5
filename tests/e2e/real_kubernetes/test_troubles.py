"""What goes wrong in a Kubernetes cluster is told in its words, and passes."""

from __future__ import annotations

import os
import time
from typing import Any

import dask
import pytest

from dask_flame import Pool, RunnerLost
from dask_flame.errors import BackendError, BootError, BootTimeout
from tests.e2e.real_kubernetes import setting
from tests.e2e.real_kubernetes.ground import NO_IMAGE, Ground
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process

_UP = 180
_NOWHERE = {"dask-flame/no-node-has": "this"}


def test_no_room(ground: Ground, cluster: Any) -> None:
    flame, client = cluster(node_selector=_NOWHERE, boot_timeout="6s", boot_attempts=1)
    future = client.submit(abs, -1)
    held = wait_for(lambda: [e for e in flame.events if e.kind == "held"], 30)
    assert "nodes are available: " in held[0].reason
    assert "node affinity/selector" in held[0].reason
    with pytest.raises(BootTimeout, match="nodes are available"):
        future.result(timeout=60)
    wait_for(lambda: not ground.pods(), 30, "its pod is gone")


def test_pods_that_wait_go_when_their_calls_are_cancelled(ground: Ground, cluster: Any) -> None:
    _, client = cluster(node_selector=_NOWHERE, idle_timeout="10m", max=ground.room)
    futures = client.map(abs, range(-ground.room, 0))
    wait_for(lambda: len(ground.pods()) == ground.room, 30)
    client.cancel(futures)
    wait_for(lambda: not ground.pods(), 15, "its pods are gone")


def test_an_image_that_cannot_be_pulled(ground: Ground, cluster: Any) -> None:
    flame, client = cluster(image=NO_IMAGE)
    with pytest.raises(BootError, match=r"(?s)Image.*no/such:1.*settings: image"):
        client.gather(client.map(abs, range(-2, 0)))
    # Each reason once, whatever the number of runners and attempts.
    kinds = [e.kind for e in flame.events if e.kind in ("held", "failed")]
    assert kinds.count("held") <= 2
    assert kinds.count("failed") <= 3
    assert len([e for e in flame.events if "settings: image" in e.reason]) == 1


def test_an_image_with_another_python(ground: Ground, cluster: Any) -> None:
    if not ground.other_image:
        pytest.skip(f"{setting.OTHER_IMAGE} names no image with another minor version of Python")
    pools = {"good": Pool(max=1), "other": Pool(max=1, image=ground.other_image)}
    _, client = cluster(max=None, pools=pools)
    with dask.annotate(pool="other"):
        future = client.submit(lambda: 1)
    with pytest.raises(BootError, match=r"has Python 3\.\d+\.\d+, and the driver has Python 3\."):
        future.result(timeout=_UP)
    assert client.submit(lambda: 2).result(timeout=_UP) == 2


def test_a_namespace_that_there_is_not(ground: Ground, cluster: Any) -> None:
    # Who may not look is told of the rights that are missing there.
    with pytest.raises(BackendError, match=r"dask-flame-nowhere"):
        cluster(namespace="dask-flame-nowhere")


def test_a_runner_that_cannot_start_says_what_it_printed(ground: Ground, cluster: Any) -> None:
    _, client = cluster(preload=["no_such_module_here"], boot_attempts=1)
    with pytest.raises(BootError, match=r"(?s)exit code 1.*no_such_module_here"):
        client.submit(abs, -1).result(timeout=_UP)


def test_a_quota(ground: Ground, cluster: Any) -> None:
    flame, client = cluster(max=4 * ground.room, boot_attempts=10)
    calls = range(4 * ground.room)
    futures = client.map(lambda i: time.sleep(1) or i, calls, pure=False)
    refused = wait_for(lambda: [e for e in flame.events if e.kind == "failed"], 60)
    assert any("exceeded quota" in e.reason for e in refused), refused
    # Those that there is room for do the rest.
    assert client.gather(futures) == list(calls)
    assert len([e for e in flame.events if e.kind == "failed"]) == 1


def test_a_fraction_of_a_cpu(ground: Ground, cluster: Any) -> None:
    _, client = cluster(max=1, cpus=0.25, memory="300 MiB")
    assert client.submit(os.getenv, "OMP_NUM_THREADS").result(timeout=_UP) == "1"
    (pod,) = ground.pods()
    asked = pod["spec"]["containers"][0]["resources"]
    assert asked["limits"] == asked["requests"] == {"cpu": "250m", "memory": "300Mi"}


def test_out_of_memory(ground: Ground, cluster: Any) -> None:
    def grow(number: int) -> None:
        kept = []
        for _ in range(number):
            kept.append(b"x" * 2**24)
            time.sleep(0.05)
        time.sleep(600)

    if ground.fake is None and not ground.contained:
        pytest.skip("nobody sees to it that pods have no more memory than they may")
    _, client = cluster(max=1, cpus=1, memory="400 MiB")
    with dask.annotate(rerun=False):
        future = client.submit(grow, 100 if ground.contained else 1)
    if ground.fake is not None:
        wait_for(lambda: any(client.processing().values()), 60)
        ground.fake.oom(ground.pods()[0])
    with pytest.raises(RunnerLost, match="out of memory"):
        future.result(timeout=_UP)


def test_a_watchdog_that_is_taken_away_is_made_anew(ground: Ground, cluster: Any) -> None:
    _, client = cluster(max=1)
    assert client.submit(abs, -1).result(timeout=_UP) == 1
    first = ground.watchdog()
    ground.ask.delete("Job", first["metadata"]["name"])
    wait_for(lambda: not ground.pods(), 90, "what it owned is gone")
    assert client.submit(abs, -2).result(timeout=_UP) == 2
    assert ground.watchdog()["metadata"]["uid"] != first["metadata"]["uid"]
