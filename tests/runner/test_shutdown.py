"""Runners that are taken away, and runners that are asked whether they may go."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import dask
import pytest
from distributed import Event, get_worker

from dask_flame.errors import RunnerLost
from tests.support.waiting import wait_for, wait_for_text

pytestmark = pytest.mark.process


def pid_of(cluster: Any, runner: str) -> int:
    (ws,) = (ws for ws in cluster.scheduler.workers.values() if ws.name == runner)
    return int(ws.pid)


def note(path: str, gate: Any = None, seconds: float = 0) -> str:
    with Path(path).open("a") as f:
        f.write("x")
    if gate is not None:
        gate.wait()
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(0.01)
    return str(get_worker().name)


def kinds(cluster: Any, *wanted: str) -> list[tuple[str, tuple[str, ...]]]:
    return [(e.kind, e.runners) for e in cluster.events if e.kind in wanted]


def test_a_runner_that_is_taken_away_finishes_its_calls_and_its_results_are_kept(
    flame: Any, tmp_path: Path
) -> None:
    cluster, client = flame(max=2, idle_timeout="1h")
    result = client.submit(lambda: [1, 2, 3])
    assert result.result(timeout=60) == [1, 2, 3]
    gate = Event("gate", client=client)
    running = client.submit(note, str(tmp_path / "running"), gate)
    wait_for_text(tmp_path / "running")
    os.kill(pid_of(cluster, "runner-1"), signal.SIGTERM)
    wait_for(lambda: cluster.runners["runner-1"].phase.value == "draining")
    # It is given nothing more: this boots another.
    assert client.submit(note, str(tmp_path / "next")).result(timeout=60) == "runner-2"
    gate.set()
    assert running.result(timeout=60) == "runner-1"
    wait_for(lambda: list(cluster.runners) == ["runner-2"])
    assert result.result(timeout=60) == [1, 2, 3]
    assert running.result(timeout=60) == "runner-1"
    assert (tmp_path / "running").read_text() == "x"
    assert kinds(cluster, "leaving", "lost") == [("leaving", ("runner-1",))]
    (leaving,) = (e for e in cluster.events if e.kind == "leaving")
    assert leaving.reason.startswith("preempted (SIGTERM): no further calls; 1 may take")


def test_a_call_that_takes_longer_than_there_is_time_runs_again_elsewhere(
    flame: Any, tmp_path: Path
) -> None:
    cluster, client = flame(max=2, shutdown_timeout="200ms")
    gate = Event("gate", client=client)
    long = client.submit(note, str(tmp_path / "long"), gate)
    with dask.annotate(rerun=False):
        once = client.submit(note, str(tmp_path / "once"), gate)
    wait_for(lambda: sum(m.busy for m in cluster.runners.values()) == 2)
    for call in ("long", "once"):
        wait_for_text(tmp_path / call)
    for name in ("runner-1", "runner-2"):
        os.kill(pid_of(cluster, name), signal.SIGTERM)
    with pytest.raises(RunnerLost, match=r"preempted \(SIGTERM\).*\(rerun=False\)"):
        once.result(timeout=60)
    gate.set()
    assert long.result(timeout=60) in {"runner-3", "runner-4"}
    assert (tmp_path / "long").read_text() == "xx"
    assert (tmp_path / "once").read_text() == "x"


def test_its_results_are_safe_before_its_last_call_is_done(flame: Any, tmp_path: Path) -> None:
    cluster, client = flame(max=2)
    result = client.submit(note, str(tmp_path / "result"))
    assert result.result(timeout=60) == "runner-1"
    gate = Event("gate", client=client)
    running = client.submit(note, str(tmp_path / "running"), gate)
    wait_for_text(tmp_path / "running")
    pid = pid_of(cluster, "runner-1")
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: cluster.home.held == 1)
    os.kill(pid, signal.SIGKILL)  # the substrate does not wait
    gate.set()
    assert running.result(timeout=60) == "runner-2"
    assert result.result(timeout=60) == "runner-1"
    assert (tmp_path / "result").read_text() == "x"
    (lost,) = (e for e in cluster.events if e.kind == "lost")
    assert lost.reason.startswith("preempted (SIGTERM) (killed by SIGKILL")


def test_an_idle_runner_that_is_taken_away_goes_at_once(flame: Any) -> None:
    cluster, client = flame(min=1, max=1)
    client.wait_for_workers(1, timeout=60)
    os.kill(pid_of(cluster, "runner-1"), signal.SIGTERM)
    wait_for(lambda: list(cluster.observed) == ["runner-2"], what="it is replaced")


def test_a_runner_stays_while_its_idle_check_says_so(flame: Any, tmp_path: Path) -> None:
    may_end = tmp_path / "may-end"
    asked = tmp_path / "asked"

    def check() -> bool:
        with asked.open("a") as f:
            f.write(f"{os.getpid()}\n")
        return may_end.exists()

    cluster, client = flame(max=1, idle_timeout="100ms", idle_check=check)
    pid = client.submit(os.getpid).result(timeout=60)
    wait_for(lambda: asked.exists() and len(asked.read_text().splitlines()) >= 3)
    assert set(asked.read_text().split()) == {str(pid)}
    assert list(cluster.runners) == ["runner-1"]
    may_end.touch()
    wait_for(lambda: not cluster.runners)


def test_a_check_that_fails_keeps_nothing(flame: Any) -> None:
    def check() -> bool:
        raise RuntimeError("no idea")

    cluster, client = flame(max=1, idle_timeout="100ms", idle_check=check)
    assert client.submit(int, 1).result(timeout=60) == 1
    wait_for(lambda: not cluster.runners)
    (failed,) = (e for e in cluster.events if e.kind == "failed")
    assert failed.reason == "idle_check has failed, so it may end: RuntimeError: no idea"
