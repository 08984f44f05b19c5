"""``dask flame`` on this machine: real commands, real drivers, really killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from dask_flame.backends.inspector import ClusterListing, RunnerListing
from dask_flame.backends.local.inspector import LocalInspector
from dask_flame.backends.local.process_scan import scan_processes
from dask_flame.cli import tables
from dask_flame.cli.commands import flame
from dask_flame.core.folder_locks import LOCK
from dask_flame.core.processes import send
from dask_flame.testing import marked_processes
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process

DRIVER = """
import ctypes, sys, time
from dask.distributed import Client
from dask_flame import FlameCluster

def work(seconds):
    print(f"I have {seconds} s of work", flush=True)
    if seconds == 99:
        ctypes.PyDLL(None).sleep(600)  # in C, and holding Python's lock: deaf
    time.sleep(seconds)

if __name__ == "__main__":
    name, *seconds = sys.argv[1:]
    cluster = FlameCluster(name=name, max=4, dashboard_address=None)
    client = Client(cluster)
    futures = client.map(work, list(map(int, seconds)))
    while sum(m.busy for m in cluster.runners.values()) < len(futures):
        time.sleep(0.01)
    print("busy", flush=True)
    try:
        client.gather(futures)
    except Exception as error:
        print(type(error).__name__, error, flush=True)
    sys.stdin.readline()
"""


def typed(*words: str) -> str:
    """Type a command that succeeds; what it shows."""
    command = [sys.executable, "-m", "dask", "flame", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


def said(*words: str) -> str:
    """The same without a process of its own, which takes a second to import Dask."""
    done = CliRunner().invoke(flame, words)
    assert (done.exit_code, done.stderr) == (0, ""), done.output
    return done.stdout


def listed(name: str) -> dict[str, Any]:
    """What ``ps`` says of a cluster; empty where it is not there."""
    found = [c for c in json.loads(said("ps", "--output", "json")) if c["name"] == name]
    return found[0] if found else {}


class Driver:
    """A driver in a process of its own, with busy runners."""

    def __init__(self, *seconds: int) -> None:
        self.name = f"cli-{uuid.uuid4().hex[:8]}"
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, self.name, *map(str, seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    @property
    def lines(self) -> Iterator[str]:
        assert self.process.stdout is not None
        return map(str.strip, self.process.stdout)

    @property
    def supervisor(self) -> psutil.Process:
        (supervisor,) = (
            g
            for g in scan_processes().supervisors.values()
            if g.cluster.startswith(f"{self.name}-")
        )
        return supervisor.process

    def marked(self) -> list[psutil.Process]:
        return marked_processes(f"{self.name}-")

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()
        for supervisor in self.supervisors():
            supervisor.resume()  # it sees to the rest
        for process in self.marked():
            with contextlib.suppress(psutil.Error):
                process.kill()
        wait_for(lambda: not self.marked() and not self.supervisors())
        if self.folders():
            # Driver and supervisor have both been killed, or stopped: see docs/lifetime.md.
            said("sweep", self.name, "--yes")
            assert not self.folders()

    def folders(self) -> list[Path]:
        return list(Path(tempfile.gettempdir()).glob(f"dask-flame-{self.name}-*"))

    def supervisors(self) -> list[psutil.Process]:
        return [
            g.process
            for g in scan_processes().supervisors.values()
            if g.cluster.startswith(self.name)
        ]


Drive = Callable[..., Driver]


@pytest.fixture
def drive() -> Iterator[Drive]:
    made: list[Driver] = []

    def start(*seconds: int) -> Driver:
        made.append(driver := Driver(*seconds))
        assert "busy" in driver.lines
        # They have begun, and their supervisor has what they have printed.
        wait_for(lambda: len(said("logs", driver.name).splitlines()) == len(seconds))
        return driver

    yield start
    for driver in made:
        driver.end()


@pytest.fixture
def bystanders() -> Iterator[list[psutil.Process]]:
    """Processes of this user that look a little like a cluster's, and are none."""
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    supervisor = "dask_flame/backends/local/supervisor/__main__.py"
    commands: list[tuple[list[str], dict[str, str]]] = [
        (sleep, {}),
        ([*sleep, "-P", f"/x/{supervisor}", "5", "cli-1", "6"], {}),
        ([*sleep, "dask-flame", "runner-1"], {"DASK_FLAME_OTHER": "cli-1/runner-1"}),
    ]
    made = [subprocess.Popen(c, env={**os.environ, **e}) for c, e in commands]
    yield [psutil.Process(p.pid) for p in made]
    for process in made:
        process.kill()
        process.wait()


def test_a_live_cluster_is_listed_read_and_stopped(drive: Drive, bystanders: Any) -> None:
    driver, other = drive(600, 601), drive(602)
    seen = listed(driver.name)
    assert seen["state"] == "live"
    assert seen["driver"].startswith(f"process {driver.process.pid} (python")
    assert {(r["name"], r["pool"], r["state"]) for r in seen["runners"]} == {
        ("runner-1", "default", "running"),
        ("runner-2", "default", "running"),
    }
    pids = {int(r["where"].removeprefix("process ")) for r in seen["runners"]}
    assert pids == {p.pid for p in driver.marked()}
    table = typed("ps", "-r")
    (line,) = (x for x in table.splitlines() if x.startswith(seen["id"]) and "live" in x)
    assert "2 running" in line
    (line,) = (x for x in table.splitlines() if x.startswith(seen["id"]) and "runner-2" in x)
    printed = said("logs", driver.name).splitlines()
    assert [x.split()[0] for x in printed] == ["[runner-1]", "[runner-2]"]
    works = {x.split("] ")[1] for x in printed}
    assert works == {"I have 600 s of work", "I have 601 s of work"}
    assert typed("logs", seen["id"], "runner-1").strip() in works
    assert "lives on, and was told" in typed("stop", driver.name)
    assert driver.marked() == []
    error = "BootError the cluster was stopped with `dask flame stop`"
    assert any(line.startswith(error) for line in driver.lines)
    assert driver.process.poll() is None
    stopped = listed(driver.name)
    assert (stopped["state"], stopped["runners"]) == ("stopped", [])
    assert len(other.marked()) == 1
    assert listed(other.name)["state"] == "live"
    assert all(process.is_running() for process in bystanders)
    assert driver.name not in said("sweep", "--dry-run")
    driver.process.communicate("\n")
    wait_for(lambda: not listed(driver.name))


def test_what_has_lost_its_driver_and_its_supervisor_is_swept(
    drive: Drive, bystanders: Any
) -> None:
    lost, other = drive(99), drive(600)
    (runner,) = lost.marked()
    scratch = scan_processes().supervisors[listed(lost.name)["id"]].scratch
    assert scratch is not None
    # All at one instant, as far as they can tell.
    lost.process.send_signal(signal.SIGSTOP)
    lost.supervisor.kill()
    lost.process.kill()
    lost.process.wait()
    seen = listed(lost.name)
    assert (seen["state"], [r["name"] for r in seen["runners"]]) == ("orphaned", ["runner-1"])
    shown = typed("sweep", lost.name, "--dry-run")
    assert f"runner-1, process {runner.pid}" in shown
    assert f"folder {scratch}" in shown
    assert runner.is_running()
    assert scratch.is_dir()
    done = CliRunner().invoke(flame, ["sweep", lost.name], input="n\n")
    assert done.exit_code == 1
    assert runner.is_running()
    assert typed("sweep", lost.name, "--yes").endswith("\nended\n")
    assert lost.marked() == []
    assert not scratch.exists()
    assert said("sweep", lost.name, "-o", "json", "--dry-run").strip() == "[]"
    assert len(other.marked()) == 1
    assert all(process.is_running() for process in bystanders)


def test_a_supervisor_that_has_frozen(drive: Drive) -> None:
    driver, lost = drive(600), drive(601)
    driver.supervisor.suspend()
    assert "lives on, and was told" in said("stop", driver.name)
    assert driver.marked() == []
    lost.supervisor.suspend()
    supervisor = lost.supervisor
    lost.process.kill()
    lost.process.wait()
    assert listed(lost.name)["state"] == "ending"
    assert f"supervisor, process {supervisor.pid}" in said("sweep", lost.name, "--yes")
    assert not lost.marked()
    assert not lost.supervisors()


def test_what_goes_by_itself_is_no_stray(drive: Drive) -> None:
    driver = drive(600)
    driver.process.kill()
    assert said("sweep", driver.name, "--yes") == "nothing to sweep\n"


def test_a_number_that_is_another_process_by_now(bystanders: Any) -> None:
    async def sweep() -> None:
        inspector = LocalInspector()
        # What was seen under this number has ended: all that is left of it is when it began.
        for orphan in await inspector.orphans():
            other = replace(orphan, key=(*orphan.key[:2], 0.0))
            assert await inspector.end([other]) == []

    with subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"],
        env={**os.environ, "DASK_FLAME_RUNNER": "cli-nobody-1/runner-1"},
    ) as marked:
        try:
            process = psutil.Process(marked.pid)
            wait_for(lambda: scan_processes().of("cli-nobody-1"))
            asyncio.run(sweep())
            assert marked.poll() is None
            assert "cli-nobody-1" in said("sweep", "cli-nobody", "--dry-run")
            assert said("sweep", "cli-nobody", "--yes").endswith("ended\n")
            assert marked.wait() == -signal.SIGKILL
            assert not send(process, signal.SIGKILL)
        finally:
            marked.kill()


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["stop", "nobody"], "there is no cluster nobody; there are"),
        (["logs", "nobody"], "there is no cluster nobody; there are"),
        (["ps", "--namespace", "team"], "--namespace is an option of Kubernetes"),
        (["ps", "--backend", "cloud"], "backend='cloud' is not known; installed"),
        (["sweep", "-o", "json"], "does not ask: add --yes, or --dry-run"),
        (["stop", "nobody", "--timeout", "nan"], "write --timeout 30"),
        (["stop", "nobody", "--timeout", "-1"], "-1.0 is not in the range 0<=x<=86400"),
        (["stop", "nobody", "--timeout", "inf"], "inf is not in the range 0<=x<=86400"),
        (["logs", "nobody", "--tail", "0"], "0 is not in the range 1<=x<=1000000"),
        (["ps", "--backend", ""], "backend='' is not the name of a backend"),
    ],
)
def test_errors_say_what_to_type(words: list[str], why: str) -> None:
    done = CliRunner().invoke(flame, words)
    assert done.exit_code != 0
    assert why in done.output


def test_names_that_several_clusters_have(flame_of_two: list[str]) -> None:
    done = CliRunner().invoke(flame, ["stop", "twin"])
    assert "several clusters are called twin; write one of" in done.output
    assert all(id in done.output for id in flame_of_two)


@pytest.fixture
def flame_of_two(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    ids = ["twin-1", "twin-2"]

    async def clusters(self: LocalInspector) -> list[ClusterListing]:
        return [ClusterListing(id=id, name="twin", state="live") for id in ids]

    monkeypatch.setattr(LocalInspector, "clusters", clusters)
    return ids


def test_the_command_costs_those_nothing_who_do_not_type_it() -> None:
    code = (
        "import sys, dask_flame.cli.commands; "
        "print([m for m in ('dask', 'distributed', 'psutil', 'kr8s', 'yaml') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_it_is_in_dasks_own_command_line() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "dask", "--help"], capture_output=True, text=True, check=True
    )
    assert "flame" in shown.stdout
    commands = typed("--help")
    for command in ("ps", "logs", "stop", "sweep"):
        assert f"  {command}  " in commands


@given(st.floats(0, 1e8))
def test_an_age_is_as_long_as_it_says(seconds: float) -> None:
    units = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
    total, number, least = 0, "", 1
    for letter in tables.age(seconds):
        if letter in units:
            least = units[letter]
            total, number = total + int(number) * least, ""
        else:
            number += letter
    assert total <= seconds
    assert len(tables.age(seconds)) <= 8
    assert seconds - total < 3_600 if total >= 3_600 else seconds - total < 60


def test_gpus_are_a_column_where_there_are_any() -> None:
    gpu = RunnerListing(name="gpu-1", pool="gpu", state="Running", started=40.0, where="n1", gpus=2)
    cpu = RunnerListing(name="cpu-1", pool="cpu", state="Pending")
    seen = ClusterListing(id="a-1", name="a", state="live", started=0.0, runners=(gpu, cpu))
    assert tables.of_clusters([seen], now=100).splitlines() == [
        "CLUSTER  STATE  AGE    RUNNERS               GPUS  DRIVER",
        "a-1      live   1m40s  1 Running, 1 Pending  2     ?",
    ]
    assert tables.of_runners([seen], now=100).splitlines() == [
        "CLUSTER  RUNNER  POOL  STATE    AGE  GPUS  WHERE",
        "a-1      gpu-1   gpu   Running  1m   2     n1",
        "a-1      cpu-1   cpu   Pending  ?    0     -",
    ]


def test_kinds_are_a_column_where_there_are_any() -> None:
    gpu = RunnerListing(name="gpu-1", pool="gpu", state="Running", where="n1", kind="A100, spot")
    cpu = RunnerListing(name="cpu-1", pool="cpu", state="Pending")
    seen = ClusterListing(id="a-1", name="a", state="live", started=0.0, runners=(gpu, cpu))
    assert tables.of_runners([seen], now=100).splitlines() == [
        "CLUSTER  RUNNER  POOL  STATE    AGE  KIND        WHERE",
        "a-1      gpu-1   gpu   Running  ?    A100, spot  n1",
        "a-1      cpu-1   cpu   Pending  ?    -           -",
    ]


def _folder_of(driver: Driver) -> Path:
    scratch = scan_processes().supervisors[listed(driver.name)["id"]].scratch
    assert scratch is not None
    return scratch


def _planted(kind: str, scratch: Path) -> Path:
    """What a user may have beside a living cluster's folder: a copy of it, a link to it, …."""
    place = scratch.parent / f"{scratch.name}{kind}"
    if kind == "copied":
        shutil.copytree(scratch, place, ignore=lambda folder, names: set(names) - {LOCK})
    elif kind == "linked":
        place.symlink_to(scratch)
    elif kind == "linkedlock":
        place.mkdir()
        (place / LOCK).symlink_to(scratch / LOCK)
    elif kind == "samelock":
        place.mkdir()
        os.link(scratch / LOCK, place / LOCK)
    else:
        place.mkdir()
        (place / LOCK).touch()
    return place


def test_folders_that_look_like_a_living_clusters_are_not_it(drive: Drive) -> None:
    driver = drive(600, 601)
    scratch, (first, second) = _folder_of(driver), driver.marked()
    kinds = ("copied", "linked", "linkedlock", "samelock", "empty")
    planted = {kind: _planted(kind, scratch) for kind in kinds}
    try:
        shown = typed("sweep", driver.name, "--yes")
        assert {k for k, place in planted.items() if f"folder {place}" in shown} == {
            "copied",
            "empty",
        }
        assert f"process {driver.supervisor.pid}" not in shown
        assert str(first.pid) not in shown
        # What is nobody's is gone, and nothing else.
        assert {k for k, place in planted.items() if place.exists()} == {
            "linked",
            "linkedlock",
            "samelock",
        }
        assert (scratch / LOCK).exists()
        assert first.is_running()
        assert second.is_running()
        assert listed(driver.name)["state"] == "live"
    finally:
        for place in planted.values():
            if place.is_symlink():
                place.unlink()
            shutil.rmtree(place, ignore_errors=True)


@pytest.mark.parametrize("parent", ["dead", "living"])
def test_a_process_that_looks_like_a_living_clusters_supervisor(drive: Drive, parent: str) -> None:
    driver = drive(600)
    (runner,), supervisor = driver.marked(), driver.supervisor
    mark, number = listed(driver.name)["id"], os.getpid() if parent == "living" else 1 << 22
    there = set(map(str, scratch_files(_folder_of(driver))))
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "dask_flame/backends/local/supervisor/__main__.py")
        program.parent.mkdir(parents=True)
        program.write_text("import sys; print(flush=True); sys.stdin.read()")
        words = [sys.executable, "-P", str(program), "5", mark, str(number)]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as forged:
            try:
                assert forged.stdout is not None
                forged.stdout.readline()
                assert forged.pid in scan_processes().alike
                said("sweep", driver.name, "--yes")
                assert listed(driver.name)["state"] == "live"
                assert driver.supervisor == supervisor
                assert runner.is_running()
                assert set(map(str, scratch_files(_folder_of(driver)))) == there
            finally:
                forged.kill()


def scratch_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_dir()]


def test_a_driver_that_lives_without_its_supervisor_is_left_alone(drive: Drive) -> None:
    driver = drive()  # without runners, which would clear up after their supervisor
    scratch, mark = _folder_of(driver), listed(driver.name)["id"]
    with subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"],
        # Of a driver without a supervisor that would be its runner still.
        env={**os.environ, "DASK_FLAME_RUNNER": f"{mark}/runner-9"},
    ) as runner:
        try:
            driver.process.send_signal(signal.SIGSTOP)
            driver.supervisor.kill()
            wait_for(lambda: mark not in scan_processes().supervisors)
            wait_for(lambda: runner.pid in {m.process.pid for m in scan_processes().of(mark)})
            assert said("sweep", driver.name, "--yes") == "nothing to sweep\n"
            assert runner.poll() is None
            assert scratch.exists()
        finally:
            driver.process.send_signal(signal.SIGCONT)
            runner.kill()
            driver.process.communicate("\n")
    assert not scratch.exists()  # its driver has removed it
