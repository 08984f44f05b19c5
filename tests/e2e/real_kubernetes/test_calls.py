"""Calls run in pods, and pods are what was asked for.

What calls run is defined in the tests, so that it travels with them: no image has this module.
"""

from __future__ import annotations

import json
import logging
import os
import time
from typing import Any

import pytest
from dask.distributed import get_worker

import dask_flame
from dask_flame import Pool
from tests.e2e.real_kubernetes.ground import Ground, owner
from tests.e2e.real_kubernetes.world import GPU
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process

#: Seconds that a pod may take to be there, its image pulled.
_UP = 180


def test_calls_run_in_pods_and_nothing_stays(ground: Ground, cluster: Any) -> None:
    def whoami(seconds: float) -> tuple[str, str | None]:
        time.sleep(seconds)
        return get_worker().name, os.environ.get("TOKEN")

    flame, client = cluster(max=3, idle_timeout="2s", secrets={"TOKEN": "xyzzy"})
    assert ground.pods("") == []
    assert flame.scheduler.address.startswith("tls://")
    futures = client.map(whoami, [2.0] * 3, pure=False)
    assert sorted(client.gather(futures)) == [(f"runner-{n}", "xyzzy") for n in (1, 2, 3)]
    made = ground.pods()
    assert len(made) == 3
    watchdog = ground.watchdog()
    driver = owner(watchdog)
    assert driver["kind"] == "Pod"
    mine = ground.ask.get("Pod", driver["name"])
    assert mine is not None
    assert mine["metadata"]["uid"] == driver["uid"]
    for pod in made:
        assert pod["spec"]["containers"][0]["image"] == mine["spec"]["containers"][0]["image"]
        assert owner(pod)["uid"] == watchdog["metadata"]["uid"]
        assert "app" not in pod["metadata"]["labels"]
    private = ("xyzzy", "PRIVATE KEY", flame.security.tls_worker_key)
    text = json.dumps([*made, *ground.pods("watchdog"), watchdog])
    assert not any(secret in text for secret in private)
    steps = {step for boot in flame.boots for step, _ in boot.steps}
    assert steps >= {"accepted", "scheduled", "started", "registered"}
    wait_for(lambda: not ground.pods(), 60, "idle runners have gone")
    # Results that are still wanted went home, and there are new runners for new calls.
    assert client.gather(futures[0])[1] == "xyzzy"
    assert client.submit(whoami, 0, pure=False).result(timeout=_UP)[0] == "runner-4"
    flame.close()
    wait_for(ground.at_rest, 60)


def test_a_wave_is_one_burst(ground: Ground, cluster: Any) -> None:
    flame, client = cluster(max=ground.room)
    client.gather(client.map(lambda _: time.sleep(3), range(ground.room), pure=False))
    assert [len(e.runners) for e in flame.events if e.kind == "boot"] == [ground.room]
    (refused,) = [[e for e in flame.events if e.kind == "failed"]]
    assert refused == []


def test_calls_that_run_again_when_a_pod_is_deleted(ground: Ground, cluster: Any) -> None:
    def number(seconds: float) -> int:
        time.sleep(seconds)
        return int(get_worker().name.rpartition("-")[2])

    flame, client = cluster(max=1)
    future = client.submit(number, 5)
    wait_for(lambda: any(client.processing().values()), _UP, "it runs")
    ground.ask.delete("Pod", ground.pods()[0]["metadata"]["name"], grace=0)
    assert future.result(timeout=_UP) > 1
    lost = [e.reason for e in flame.events if e.kind in ("lost", "ended", "failed")]
    assert any("deleted by somebody else" in reason for reason in lost), lost


def test_pools_have_pods_of_their_own(ground: Ground, cluster: Any) -> None:
    def host() -> tuple[str, str]:
        return os.uname().nodename, os.environ.get("KIND", "")

    other = Pool(
        max=1,
        env={"KIND": "other"},
        cpus=1,
        memory="500 MiB",
        labels={"team": "science"},
        annotations={"note": "of the tests"},
        volumes={"/scratch": {"emptyDir": {"sizeLimit": "10Mi"}}},
        shm_size="32 MiB",
        pod_template={"spec": {"hostname": "trainer"}},
    )
    _, client = cluster(max=None, pools={"plain": Pool(max=1), "OTHER": other})
    with dask_flame.on("OTHER"):
        there = client.submit(host, pure=False)
    assert client.submit(host, pure=False).result(timeout=_UP)[1] == ""
    name, kind = there.result(timeout=_UP)
    assert kind == "other"
    assert name == "trainer" or not ground.contained
    found = {p["metadata"]["labels"]["dask-flame/pool"]: p for p in ground.pods()}
    pod = found["OTHER"]
    assert pod["spec"]["hostname"] == "trainer"
    assert pod["metadata"]["labels"]["team"] == "science"
    resources = pod["spec"]["containers"][0]["resources"]
    assert resources["requests"] == resources["limits"]
    assert resources["limits"]["cpu"] == "1"
    assert pod["status"]["qosClass"] == "Guaranteed"


def test_gpus(ground: Ground, cluster: Any) -> None:
    if not ground.gpus:
        pytest.skip(f"no node has {GPU}")
    flame, client = cluster(max=ground.gpus + 1, gpus=1, boot_timeout="2m")
    futures = client.map(lambda _: time.sleep(6), range(ground.gpus + 1), pure=False)
    held = wait_for(lambda: [e for e in flame.events if e.kind == "held"], _UP)
    assert f"Insufficient {GPU}" in held[0].reason
    # One of the others is free before long.
    client.gather(futures)
    limits = ground.pods()[0]["spec"]["containers"][0]["resources"]["limits"]
    assert limits[GPU] == "1"


def test_nobody_hears_of_the_end(
    ground: Ground, cluster: Any, caplog: pytest.LogCaptureFixture
) -> None:
    flame, client = cluster(max=1)
    assert client.submit(abs, -1).result(timeout=_UP) == 1
    client.close()
    flame.close()
    # The watchdog is the last to go.
    wait_for(ground.at_rest, 60)
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == []
