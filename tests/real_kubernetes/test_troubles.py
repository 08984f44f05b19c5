"""What goes wrong in a Kubernetes cluster is told in its words, and passes."""

from __future__ import annotations

import time
from typing import Any

import dask
import pytest
from conftest import wait_for

from dask_flame import RunnerLost
from dask_flame.errors import BootError, BootTimeout
from real_kubernetes.ground import NO_IMAGE, Ground

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


def test_a_pod_that_waits_goes_when_it_is_not_wanted_any_more(ground: Ground, cluster: Any) -> None:
    _, client = cluster(node_selector=_NOWHERE, idle_timeout="1s")
    future = client.submit(abs, -1)
    wait_for(ground.pods, 30)
    future.cancel()
    wait_for(lambda: not ground.pods(), 30, "its pod is gone")


def test_an_image_that_cannot_be_pulled(ground: Ground, cluster: Any) -> None:
    _, client = cluster(image=NO_IMAGE, boot_attempts=1)
    with pytest.raises(BootError, match=r"(?s)Image.*no/such:1.*governs it: image"):
        client.submit(abs, -1).result(timeout=120)


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


def test_a_keeper_that_is_taken_away_is_made_anew(ground: Ground, cluster: Any) -> None:
    _, client = cluster(max=1)
    assert client.submit(abs, -1).result(timeout=_UP) == 1
    first = ground.keeper()
    ground.ask.delete("Job", first["metadata"]["name"])
    wait_for(lambda: not ground.pods(), 90, "what it owned is gone")
    assert client.submit(abs, -2).result(timeout=_UP) == 2
    assert ground.keeper()["metadata"]["uid"] != first["metadata"]["uid"]
