"""Machines of the fake Fly: their states, processes, files and ends."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.importorskip("aiohttp")

from tests.fakes.fly import FakeFly
from tests.support.fly_help import SLEEP, Caller, body
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def fly() -> Iterator[FakeFly]:
    with FakeFly(speed=40, secrets={"PASSWORD": "swordfish"}) as fly:
        fly.unlimited()
        yield fly


@pytest.fixture
def api(fly: FakeFly) -> Iterator[Caller]:
    with Caller(fly) as api:
        yield api


def code(text: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(text), *arguments]


def exit_event(machine: dict[str, Any]) -> dict[str, Any]:
    """The latest exit of a machine."""
    found = next(event for event in machine["events"] if event["type"] == "exit")
    event: dict[str, Any] = found["request"]["exit_event"]
    return event


def test_a_machine_goes_through_its_states(fly: FakeFly, api: Caller) -> None:
    made = api.ok("POST", "/machines", json=body("one", metadata={"flame": "a"}))
    assert made["state"] == "created"
    assert made["private_ip"].startswith("fdaa:")
    machine, instance = made["id"], made["instance_id"]
    api.ok("GET", f"/machines/{machine}/wait", params={"state": "started", "timeout": 30})
    assert len(fly.pids) == 1
    api.ok("POST", f"/machines/{machine}/stop")
    query = {"state": "stopped", "instance_id": instance, "timeout": 30}
    api.ok("GET", f"/machines/{machine}/wait", params=query)
    assert fly.pids == []
    assert exit_event(api.ok("GET", f"/machines/{machine}"))["requested_stop"] is True
    assert api.ok("POST", f"/machines/{machine}/start")["previous_state"] == "stopped"
    api.reaches(machine, "started")
    api.ok("DELETE", f"/machines/{machine}", params={"force": "true"})
    api.reaches(machine, "destroyed")
    assert api.ok("GET", "/machines") == []
    (gone,) = api.ok("GET", "/machines", params={"include_deleted": "true"})
    types = [event["type"] for event in reversed(gone["events"])]
    assert types == [
        "launch", "start", "stop", "exit", "start", "start", "destroy", "exit", "destroy",
    ]  # fmt: skip
    assert fly.left() == []


@pytest.mark.parametrize("path", ["suspend", "stop"])
def test_a_machine_at_rest_starts_again(api: Caller, path: str) -> None:
    counts = """
        import itertools, os, pathlib, sys, time
        for n in itertools.count():
            pathlib.Path(sys.argv[1] + ".new").write_text(str(n))
            os.replace(sys.argv[1] + ".new", sys.argv[1])
            time.sleep(0.01)
    """
    volume = api.ok("POST", "/volumes", json={"name": "data", "size_gb": 1})["id"]
    machine = api.started(
        command=code(counts, "/data/count"), mounts=[{"volume": volume, "path": "/data"}]
    )

    def count() -> int:
        said = api.ok("POST", f"/machines/{machine}/exec", json={"command": ["cat", "/data/count"]})
        return int(said["stdout"] or 0)

    wait_for(lambda: count() > 20)
    api.ok("POST", f"/machines/{machine}/{path}")
    api.reaches(machine, "suspended", "stopped")
    before = api.ok("POST", f"/machines/{machine}/start")["previous_state"]
    api.reaches(machine, "started")
    # A suspended process goes on where it was; a stopped one begins anew.
    if path == "suspend":
        assert before == "suspended"
        assert count() >= 20
    else:
        assert before == "stopped"
    wait_for(lambda: count() > 0)


def test_a_large_machine_cannot_be_suspended(api: Caller) -> None:
    guest = {"cpu_kind": "performance", "cpus": 2, "memory_mb": 4096}
    machine = api.started(guest=guest)
    response = api.post(f"/machines/{machine}/suspend")
    assert (response.status_code, "2048" in response.text) == (412, True)


def test_the_end_of_the_process_ends_the_machine(fly: FakeFly, api: Caller) -> None:
    ends = code("raise SystemExit(7)")
    stays = api.make("stays", command=ends)
    goes = api.make("goes", command=ends, auto_destroy=True)
    api.reaches(stays, "stopped")
    api.reaches(goes, "destroyed")
    for machine in (stays, goes):
        event = exit_event(api.ok("GET", f"/machines/{machine}"))
        assert (event["exit_code"], event["requested_stop"]) == (7, False)
    assert fly.left() == [f"machine stays ({stays}): stopped"]


def test_restarts_as_its_policy_says(api: Caller) -> None:
    fails = code("raise SystemExit(1)")
    again = api.make(command=fails, restart={"policy": "on-failure", "max_retries": 2})
    api.reaches(again, "stopped")
    wait_for(lambda: api.state(again) == "stopped")

    def exits() -> int:
        events = api.ok("GET", f"/machines/{again}/events")
        return sum(event["type"] == "exit" for event in events)

    assert wait_for(lambda: exits() == 3)
    assert api.state(again) == "stopped"


def test_stop_signals_and_kills_after_the_timeout(fly: FakeFly, api: Caller) -> None:
    stubborn = """
        import signal, time
        signal.signal(signal.SIGTERM, lambda *_: print("no", flush=True))
        print("up", flush=True)
        while True:
            time.sleep(1)
    """
    machine = api.started("stubborn", command=code(stubborn))
    wait_for(lambda: "up" in fly.log("stubborn"))
    api.ok("POST", f"/machines/{machine}/stop", json={"signal": "SIGTERM", "timeout": "1s"})
    wait_for(lambda: "no" in fly.log("stubborn"))
    assert api.state(machine) == "stopping"
    api.reaches(machine, "stopped")
    event = exit_event(api.ok("GET", f"/machines/{machine}"))
    assert (event["exit_code"], event["guest_signal"]) == (128 + 9, 9)


def test_only_force_destroys_what_runs(api: Caller) -> None:
    machine = api.started()
    assert api.delete(f"/machines/{machine}").status_code == 412
    api.ok("DELETE", f"/machines/{machine}", params={"force": "true"})
    api.reaches(machine, "destroyed")
    assert api.delete(f"/machines/{machine}", params={"force": "true"}).status_code == 404


def test_finds_its_files_variables_and_address(fly: FakeFly, api: Caller) -> None:
    shows = """
        import json, os, sys
        names = ("A", "WHERE", "PASSWORD", "FLY_MACHINE_ID", "FLY_APP_NAME", "FLY_REGION")
        print(json.dumps({
            "env": {name: os.environ[name] for name in names},
            "files": [open(path).read() for path in sys.argv[1:3]],
            "mode": oct(os.stat(sys.argv[1]).st_mode & 0o777),
            "peer": sys.argv[3], "own": os.environ["FLY_PRIVATE_IP"],
        }))
    """
    files = [
        {"guest_path": "/run/flame/a.json", "raw_value": base64.b64encode(b"one").decode()},
        {"guest_path": "/run/flame/b.json", "secret_name": "PASSWORD"},
    ]
    peer = api.started()
    arguments = ("--file=/run/flame/a.json", "/run/flame/b.json", f"tls://{peer}.vm.flame.internal")
    shown = code(shows.replace("sys.argv[1]", "sys.argv[1].split('=')[-1]"), *arguments)
    shown[2] = shown[2].replace("sys.argv[1:3]", "[a.split('=')[-1] for a in sys.argv[1:3]]")
    machine = api.make(
        "shows", command=shown, files=files, env={"A": "b", "WHERE": "/run/flame"}, region="fra"
    )
    said = json.loads(wait_for(lambda: fly.log("shows")))
    assert said["files"] == ["one", "swordfish"]
    assert said["mode"] == "0o600"
    assert said["env"]["WHERE"] != "/run/flame"
    assert os.path.basename(said["env"].pop("WHERE")) == "flame"
    assert said["env"] == {
        "A": "b",
        "PASSWORD": "swordfish",
        "FLY_MACHINE_ID": machine,
        "FLY_APP_NAME": "flame",
        "FLY_REGION": "fra",
    }
    machines = {m["id"]: m["private_ip"] for m in fly.machines()}
    assert said["own"] == machines[machine]
    assert said["peer"] == f"tls://{machines[peer]}"


def test_exec_answers_200_when_the_command_fails(api: Caller) -> None:
    machine = api.started()
    where = f"/machines/{machine}/exec"
    failed = api.ok("POST", where, json={"command": ["sh", "-c", "echo hi; echo no >&2; exit 3"]})
    assert failed == {"exit_code": 3, "exit_signal": 0, "stdout": "hi\n", "stderr": "no\n"}
    assert api.ok("POST", where, json={"command": ["/no/such"]})["exit_code"] == 127
    late = api.ok("POST", where, json={"command": ["sleep", "60"], "timeout": 1})
    assert late["exit_signal"] == signal.SIGKILL


def test_a_program_that_is_missing_fails_the_machine(fly: FakeFly, api: Caller) -> None:
    machine = api.make("bad", command=["/no/such/program"], auto_destroy=True)
    api.reaches(machine, "failed")
    assert "no such" in fly.log("bad").lower()
    api.ok("DELETE", f"/machines/{machine}")
    api.reaches(machine, "destroyed")


#: Starts processes that leave its session and lose it as their parent.
STRAYS = """
    import os, subprocess, sys, time
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            print("stray", os.getpid(), flush=True)
            time.sleep(600)
        os._exit(0)
    time.sleep(600)
"""


def stray(log: str) -> int | None:
    words = log.split()
    return int(words[words.index("stray") + 1]) if "stray" in words else None


def test_all_that_a_machine_started_ends_with_it(fly: FakeFly, api: Caller) -> None:
    machine = api.started("one", command=code(STRAYS))
    pid = wait_for(lambda: stray(fly.log("one")))
    api.ok("DELETE", f"/machines/{machine}", params={"force": "true"})
    wait_for(lambda: not psutil.pid_exists(pid))


def test_sigkill_of_the_tests_leaves_no_machine(tmp_path: Path) -> None:
    script = f"""
        import sys, time
        from tests.fakes.fly import FakeFly
        from tests.support.fly_help import Caller, body
        fly = FakeFly(speed=40)
        fly.start()
        api = Caller(fly)
        for name in ("one", "two"):
            api.started(name, command=[sys.executable, "-c", {textwrap.dedent(STRAYS)!r}])
        while not all("stray" in fly.log(name) for name in ("one", "two")):
            time.sleep(0.01)
        strays = [int(fly.log(name).split()[1]) for name in ("one", "two")]
        print(fly.host_pid, *fly.pids, *strays, flush=True)
        time.sleep(600)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "TMPDIR": str(tmp_path)},
    ) as tests:
        assert tests.stdout is not None
        pids = [int(word) for word in tests.stdout.readline().split()]
        assert len(pids) == 5
        assert all(psutil.pid_exists(pid) for pid in pids)
        tests.kill()
    wait_for(lambda: not [pid for pid in pids if psutil.pid_exists(pid)])


def test_update_replaces_the_process(fly: FakeFly, api: Caller) -> None:
    machine = api.started("one", metadata={"flame": "a"})
    before, (pid,) = api.ok("GET", f"/machines/{machine}")["instance_id"], fly.pids
    new = body("one", env={"B": "c"}, command=[*SLEEP])
    answer = api.ok("POST", f"/machines/{machine}", json=new)
    assert answer["instance_id"] != before
    assert answer["state"] == "replacing"
    api.reaches(machine, "started")
    assert fly.pids != [pid]
    versions = api.ok("GET", f"/machines/{machine}/versions")
    assert [v["version"] for v in versions] == [answer["instance_id"], before]


def test_restart_and_signal(fly: FakeFly, api: Caller) -> None:
    machine = api.started("one")
    (pid,) = fly.pids
    api.ok("POST", f"/machines/{machine}/restart", params={"timeout": "2s"})
    wait_for(lambda: api.state(machine) == "started" and fly.pids not in ([pid], []))
    assert api.ok("GET", f"/machines/{machine}/ps")[0]["command"].endswith("sleep(600)")
    api.ok("POST", f"/machines/{machine}/signal", json={"signal": "SIGKILL"})
    api.reaches(machine, "stopped")
    assert exit_event(api.ok("GET", f"/machines/{machine}"))["guest_signal"] == 9


def test_a_machine_may_be_made_without_a_start(api: Caller, fly: FakeFly) -> None:
    machine = api.make(skip_launch=True)
    assert api.state(machine) == "created"
    assert fly.pids == []
    assert api.ok("POST", f"/machines/{machine}/start")["previous_state"] == "created"
    api.reaches(machine, "started")


def test_a_stop_while_it_starts_leaves_no_process(fly: FakeFly, api: Caller) -> None:
    for _ in range(10):
        machine = api.make()
        api.reaches(machine, "starting", "started")
        api.ok("POST", f"/machines/{machine}/stop", json={"timeout": "1s"})
        api.reaches(machine, "stopped")
    wait_for(lambda: fly.pids == [])


def test_the_fake_ends_its_processes_and_folders(fly: FakeFly, api: Caller) -> None:
    api.started("one")
    (pid,), host, folder = fly.pids, fly.host_pid, fly._settings.folder
    fly.close()
    assert not psutil.pid_exists(pid)
    assert not psutil.pid_exists(host)
    assert not folder.exists()
