"""``dask flame --backend fly``: real commands, on a fake Fly with real processes."""

from __future__ import annotations

import getpass
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import dask
import pytest
from click.testing import CliRunner
from distributed import Client

from dask_flame import BootError, FlameCluster
from dask_flame.backends.fly import FlyBackend, inspector
from dask_flame.backends.fly.metadata import (
    ALIVE,
    CLUSTER,
    COMPONENT,
    OWNER,
    POOL,
    PROCESS,
    began,
    computer,
)
from dask_flame.cli.commands import flame
from tests.backends.fly.calls import talk
from tests.fakes.fly import FakeFly
from tests.support.fly_help import Caller
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process

Start = Callable[..., tuple[FlameCluster, Client]]
ME = f"{getpass.getuser()}@{socket.gethostname()}"


@pytest.fixture
def cluster(fly: FakeFly) -> Iterator[Start]:
    """Start a cluster on the fake, and close it at the end."""
    made: list[Any] = []

    def make(**options: Any) -> tuple[FlameCluster, Client]:
        options = {"backend": FlyBackend, "dashboard_address": None, "max": 2, **options}
        with dask.config.set({"flame.prints.show": False}):
            made.append(FlameCluster(**options))
            made.append(Client(made[-1]))
        return made[-2], made[-1]

    yield make
    for thing in reversed(made):
        thing.close()


@pytest.fixture
def api(fly: FakeFly) -> Iterator[Caller]:
    with Caller(fly) as api:
        yield api


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The backend is known by its name, whether its entry point is installed or not."""
    from dask_flame.backends import registry

    found = registry.find_backend
    monkeypatch.setattr(
        registry, "find_backend", lambda name: FlyBackend if name == "fly" else found(name)
    )


def said(*words: str, notes: str = "", code: int = 0) -> str:
    """Type a command and return what it shows."""
    done = CliRunner().invoke(flame, [words[0], "--backend", "fly", *words[1:]])
    assert done.exit_code == code, done.output
    if code:
        return done.output
    assert notes in done.stderr
    assert bool(notes) == bool(done.stderr), done.stderr
    return done.stdout


def listed() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(said("ps", "-o", "json"))
    return found


def ended_process() -> int:
    """Return the id of a process that is gone."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return process.pid


def metadata(cluster: str, owner: str, component: str = "runner", **more: str) -> dict[str, str]:
    found = {CLUSTER: cluster, COMPONENT: component, OWNER: owner, POOL: "default", **more}
    number = int(owner.rpartition(":")[2])
    if owner.startswith(f"{ME}:"):
        found.setdefault(PROCESS, f"{computer()}:{number}:{began(number) or '1.0'}")
    return found


def test_a_live_cluster_is_listed_read_and_stopped(fly: FakeFly, cluster: Start) -> None:
    assert said("ps") == "no clusters\n"
    mine, client = cluster(name="mine")
    calls = client.map(talk, [600, 601, 602])
    wait_for(lambda: sum(runner.busy for runner in mine.runners.values()) == 2)
    (seen,) = listed()
    assert (seen["name"], seen["state"], seen["driver"]) == ("mine", "live", f"{ME}:{os.getpid()}")
    assert [(r["name"], r["pool"], r["state"]) for r in seen["runners"]] == [
        ("runner-1", "default", "started"),
        ("runner-2", "default", "started"),
    ]
    ids = {m["id"] for m in fly.machines()}
    assert {r["where"] for r in seen["runners"]} == {f"ams {id}" for id in ids}
    assert all(abs(r["started"] - time.time()) < 300 for r in seen["runners"])
    table = said("ps", "--runners", "--app", "flame")
    assert "2 started" in table
    wait_for(lambda: said("logs", "mine", "runner-2") == "here I am\n")
    both = {"[runner-1] here I am", "[runner-2] here I am"}
    wait_for(lambda: both <= set(said("logs", "mine").splitlines()))
    assert said("sweep", "--dry-run") == "nothing to sweep\n"
    assert "may live on, and was told" in said("stop", "mine")
    wait_for(lambda: fly.left() == [])
    for call in calls:
        with pytest.raises(BootError, match="stopped with `dask flame stop`"):
            call.result(timeout=60)
    with pytest.raises(BootError, match="stopped with `dask flame stop`"):
        client.submit(talk, 0, pure=False).result(timeout=60)
    assert said("ps") == "no clusters\n"


def test_the_reserve_is_listed_and_stopped_with_its_cluster(fly: FakeFly, cluster: Start) -> None:
    _, client = cluster(name="mine", reserve=2)
    wait_for(lambda: [r["state"] for r in listed()[0]["runners"]] == ["reserve, created"] * 2)
    (seen,) = listed()
    assert seen["state"] == "live"
    assert all("-reserve-" in runner["name"] for runner in seen["runners"])
    assert said("sweep", "--dry-run") == "nothing to sweep\n"
    assert "was told" in said("stop", "mine")
    wait_for(lambda: fly.left() == [])
    with pytest.raises(BootError, match="stopped with `dask flame stop`"):
        client.submit(talk, 0, pure=False).result(timeout=60)


def test_what_a_dead_driver_left_is_swept(
    fly: FakeFly, api: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspector, "_BY_ITSELF", 0.1)  # of these, none would
    fly.unlimited()
    dead, alive = f"{ME}:{ended_process()}", f"{ME}:{os.getpid()}"
    runs = api.started("runs", metadata=metadata("lost-1a2b3c", dead))
    fly.stick()
    stuck = api.make("stuck", metadata=metadata("lost-1a2b3c", dead))
    reserve = metadata("lost-1a2b3c", dead, "reserve", **{ALIVE: f"{time.time():.0f}"})
    kept = api.make("kept", skip_launch=True, metadata=reserve)
    living = api.started("living", metadata=metadata("mine-1a2b3c", alive))
    other = api.started("other")  # of no cluster
    shown = json.loads(said("sweep", "--dry-run", "-o", "json"))
    assert {found["what"] for found in shown} == {
        f"machine {runs} (runs)",
        f"machine {stuck} (stuck)",
        f"machine {kept} (kept)",
    }
    assert all(found["why"] == f"its driver, {dead}, has ended" for found in shown)
    states = {found["id"]: found["state"] for found in listed()}
    assert states == {"lost-1a2b3c": "orphaned", "mine-1a2b3c": "live"}
    assert said("sweep", "--yes").endswith("ended\n")
    assert {m["id"] for m in fly.machines()} == {living, other}
    for machine in (living, other):
        api.ok("DELETE", f"/machines/{machine}", params={"force": "true"})
        api.reaches(machine, "destroyed")


def test_a_cluster_without_a_driver_is_stopped(fly: FakeFly, api: Caller) -> None:
    fly.unlimited()
    lost = metadata("lost-1a2b3c", f"{ME}:{ended_process()}")
    for name in ("one", "two"):
        api.started(name, metadata=lost)
    assert "ended; its driver was gone" in said("stop", "lost")
    assert fly.left() == []


def test_machines_of_elsewhere_are_swept_when_nobody_speaks_for_them(
    fly: FakeFly, api: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspector, "_BY_ITSELF", 0.1)  # of these, none would
    monkeypatch.setattr(inspector, "_NOTICE", 0.1)  # there is no driver
    fly.unlimited()
    # The clock of the API is wrong by a day, and nothing depends on it.
    fly.skew(-86_400)
    elsewhere, late = "you@elsewhere:7", f"{time.time() - 3630:.0f}"
    api.started("runs", metadata=metadata("far-1a2b3c", elsewhere))
    kept = metadata("silent-1a2b3c", elsewhere, "reserve", **{ALIVE: late})
    api.make("silent", skip_launch=True, metadata=kept)
    fresh = metadata("far-1a2b3c", elsewhere, "reserve", **{ALIVE: f"{time.time():.0f}"})
    api.make("fresh", skip_launch=True, metadata=fresh)
    (found,) = json.loads(said("sweep", "--dry-run", "-o", "json"))
    assert "(silent)" in found["what"]
    assert "has not said for 60m that it lives" in found["why"]
    # Two hours later, by the same clock, the machine that ended is abandoned.
    ended = api.started("ended", metadata=metadata("far-9f9f9f", elsewhere))
    api.ok("POST", f"/machines/{ended}/stop", json={"signal": "SIGKILL"})
    api.reaches(ended, "stopped")
    fly.skew(-86_400 + 7200)
    why = {o["what"]: o["why"] for o in json.loads(said("sweep", "--dry-run", "-o", "json"))}
    assert why.pop(f"machine {ended} (ended)").startswith("it has been stopped for 2h")
    assert len(why) == 1
    said("sweep", "--yes")
    assert {m["name"] for m in fly.machines()} == {"runs", "fresh"}
    assert "may live on, and was told" in said("stop", "far-1a2b3c")
    assert fly.left() == []


def test_what_refuses_to_end_is_said(fly: FakeFly, api: Caller) -> None:
    fly.unlimited()
    lost = metadata("lost-1a2b3c", f"{ME}:{ended_process()}")
    machine = api.started("one", metadata=lost)
    lease = api.ok("POST", f"/machines/{machine}/lease", json={"ttl": 600})
    shown = said("stop", "lost", "--timeout", "1", code=1)
    assert f"not all of lost-1a2b3c is gone after 1 s: machine {machine}" in shown
    api.ok("DELETE", f"/machines/{machine}/lease", headers={
        "fly-machine-lease-nonce": lease["nonce"]
    })  # fmt: skip
    assert "ended; its driver was gone" in said("stop", "lost")


def test_output_that_cannot_be_had_is_said(fly: FakeFly, api: Caller) -> None:
    fly.unlimited()
    api.started("one", metadata=metadata("mine-1a2b3c", f"{ME}:{os.getpid()}"))
    with dask.config.set({"flame.fly.logs-api": "http://127.0.0.1:9"}):
        assert said("logs", "mine", notes="note: one shows nothing: no answer from") == ""
    said("stop", "mine")


def test_options_and_troubles_are_said(fly: FakeFly, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "on Fly write --app" in said("ps", "--namespace", "team", code=1)
    assert "type: fly apps create other" in said("ps", "--app", "other", code=1)
    assert "the name of an app" in said("ps", "--app", "NO APP", code=1)
    fly.revoke()
    shown = said("ps", code=1)
    assert "fly tokens create deploy -a flame" in shown
    assert fly.token not in shown
    fly.grant(fly.token)
    monkeypatch.delenv("FLY_API_TOKEN")
    assert "there is no token for Fly" in said("ps", code=1)


def test_app_is_an_option_of_fly_alone() -> None:
    for backend in ("local", "kubernetes"):
        done = CliRunner().invoke(flame, ["ps", "--backend", backend, "--app", "flame"])
        assert done.exit_code == 1
        assert "--app is an option of Fly; leave it out, or add --backend fly" in done.output
