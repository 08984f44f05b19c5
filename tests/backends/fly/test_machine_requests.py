"""The requests that create machines."""

from __future__ import annotations

import base64
import json
import os
from typing import Any

import dask
import pytest

from dask_flame.backends import RunnerSpec, SchedulerSpec
from dask_flame.backends.fly import machine_requests
from dask_flame.backends.fly.machine_requests import Site
from dask_flame.backends.fly.metadata import Identity, machine_name, owner, owner_of
from dask_flame.backends.fly.options import FlyOptions
from dask_flame.backends.fly.own_machine import OwnMachine
from dask_flame.driver.launch import settings
from dask_flame.errors import PoolError

pytestmark = pytest.mark.unit

SITE = Site(identity=Identity("team-1", "me@laptop:7"), own=OwnMachine())
SECRET, TOKEN = "s3cret-0123", "fo1_0123456789"


def spec(**more: Any) -> RunnerSpec:
    base: dict[str, Any] = {
        "name": "r-1",
        "scheduler": "tls://[fdaa:0:18::3]:8786",
        "concurrency": 1,
        "boot_timeout": 60,
        "shutdown_timeout": 30,
        "env": {"MODE": "fast", "API_PASSWORD": SECRET},
        "secrets": {"KEY": SECRET},
        "security": {"tls_worker_key": "-----BEGIN PRIVATE KEY-----\nMIIE"},
    }
    return RunnerSpec(**{**base, **more})


def options(**more: Any) -> FlyOptions:
    return FlyOptions(**{"image": "me/runner:1", "region": "fra", **more})


def launch_config(body: Any) -> dict[str, Any]:
    (file,) = body["config"]["files"]
    assert file["guest_path"] == machine_requests.LAUNCH_FILE
    found: dict[str, Any] = json.loads(base64.b64decode(file["raw_value"]))
    return found


def test_a_runner() -> None:
    body = machine_requests.runner(spec(cpus=2, kind="fra"), options(), SITE)
    config = body["config"]
    assert body["name"] == "flame-team-1-r-1"
    assert body["region"] == "fra"
    assert config["image"] == "me/runner:1"
    assert config["guest"] == {"cpu_kind": "shared", "cpus": 2, "memory_mb": 1024}
    assert config["auto_destroy"] is True
    assert config["restart"] == {"policy": "no"}
    assert config["stop_config"] == {"signal": "SIGTERM", "timeout": "40s"}
    assert config["init"]["cmd"][-2:] == [
        "dask_flame.runner.from_file",
        machine_requests.LAUNCH_FILE,
    ]
    assert config["env"]["MODE"] == "fast"
    assert config["env"]["OMP_NUM_THREADS"] == "2"
    assert config["metadata"] == {
        "dask_flame_cluster": "team-1",
        "dask_flame_component": "runner",
        "dask_flame_owner": "me@laptop:7",
        "dask_flame_pool": "default",
        "dask_flame_runner": "r-1",
        "dask_flame_kind": "fra",
    }


def test_secrets_are_in_the_file_alone() -> None:
    body = machine_requests.runner(spec(), options(), SITE)
    found = launch_config(body)
    assert found["variables"] == {"API_PASSWORD": SECRET, "KEY": SECRET}
    config = {**body["config"], "files": []}
    assert SECRET not in json.dumps(config)
    assert "BEGIN" not in json.dumps(config)
    shown = machine_requests.shown(body, spec())
    assert SECRET not in json.dumps(shown)
    assert shown["config"]["files"][0]["raw_value"] == "(hidden)"
    assert shown["config"]["env"]["MODE"] == "(hidden)"


def test_no_machine_gets_the_token() -> None:
    with dask.config.set({"flame.fly.token": TOKEN}):
        config = settings()
        runner = machine_requests.runner(spec(config=config), options(), SITE)
        asked = SchedulerSpec(launch_config={"config": config})
        scheduler = machine_requests.scheduler(asked, options(), SITE, public=True)
    for body in (runner, scheduler):
        found = launch_config(body)
        assert "app" in found["config"]["flame"]["fly"]
        assert TOKEN not in json.dumps(found)


def test_a_machine_that_may_return_to_a_reserve_is_left_when_it_ends() -> None:
    kept = options(reserve=2)
    assert machine_requests.runner(spec(), kept, SITE)["config"]["auto_destroy"] is False
    body = machine_requests.reserve("reserve-1", spec(), kept, SITE, alive=1_000)
    assert body["skip_launch"] is True
    config = body["config"]
    assert config["auto_destroy"] is True
    assert config["files"] == []
    assert config["env"] == {}
    assert config["metadata"]["dask_flame_component"] == "reserve"
    assert config["metadata"]["dask_flame_alive"] == "1000"
    assert "dask_flame_runner" not in config["metadata"]
    assert SECRET not in json.dumps(body)


def test_machines_of_one_shape_can_take_each_others_place() -> None:
    shape = machine_requests.shape(spec(), options(reserve=1), SITE)
    assert machine_requests.shape(spec(name="r-2", secrets={}), options(reserve=3), SITE) == shape
    for other in (
        machine_requests.shape(spec(cpus=4), options(), SITE),
        machine_requests.shape(spec(pool="other"), options(), SITE),
        machine_requests.shape(spec(), options(region="ams"), SITE),
        machine_requests.shape(spec(), options(image="me/runner:2"), SITE),
    ):
        assert other != shape


def test_a_scheduler_and_its_public_port() -> None:
    asked = SchedulerSpec(launch_config={"grace": 10}, cpus=1, memory=2**31, port=8786)
    body = machine_requests.scheduler(asked, options(), SITE, public=False)
    assert "services" not in body["config"]
    assert body["config"]["guest"] == {"cpu_kind": "shared", "cpus": 1, "memory_mb": 2048}
    found = launch_config(body)
    assert found["address_variable"] == "FLY_PRIVATE_IP"
    assert found["also_at"] == ["127.0.0.1"]
    public = machine_requests.scheduler(asked, options(), SITE, public=True)
    (service,) = public["config"]["services"]
    assert service["internal_port"] == 8786
    # Without a handler, so that the connection is TLS from end to end.
    assert service["ports"] == [{"port": machine_requests.public_port("team-1")}]
    assert launch_config(public)["also_at"] == ["0.0.0.0"]
    assert machine_requests.public_port("team-1") != machine_requests.public_port("team-2")


def test_the_drivers_machine_gives_image_and_region() -> None:
    own = OwnMachine(address="fdaa::1", app="hub", region="ams", image="hub/image:1")
    body = machine_requests.runner(spec(), FlyOptions(), Site(identity=SITE.identity, own=own))
    assert (body["region"], body["config"]["image"]) == ("ams", "hub/image:1")
    with pytest.raises(
        PoolError, match=r"a machine needs an image: .* write image=.* flame\.fly\.image"
    ):
        machine_requests.runner(spec(), FlyOptions(), SITE)


def test_a_volume_and_long_timeouts() -> None:
    body = machine_requests.runner(
        spec(shutdown_timeout=3600), options(mounts={"/data": "vol_abc123"}), SITE
    )
    assert body["config"]["mounts"] == [{"volume": "vol_abc123", "path": "/data"}]
    assert body["config"]["stop_config"]["timeout"] == "300s"


def test_names_are_valid_and_unlike() -> None:
    long = machine_name("a" * 60, "r-1")
    assert len(long) <= 63
    assert long != machine_name("a" * 60, "r-2")
    assert machine_name("Über", "r-1") != machine_name("uber", "r-1")


def test_the_owner_is_told_and_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLY_MACHINE_ID", "3d8d9014b32d89")
    assert owner_of({"dask_flame_owner": owner()}) == ("fly", "3d8d9014b32d89", os.getpid())
    assert owner_of({}) == ("", "", 0)
