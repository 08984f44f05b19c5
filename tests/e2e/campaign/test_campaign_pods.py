"""Cases of the campaign on Kubernetes: pods, API server and driver fail, and nothing is left.

``pytest tests/e2e/campaign --campaign-backend kubernetes --campaign 100`` plays that many.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.paths import ROOT
from tests.support.waiting import wait_for

pytest.importorskip("aiohttp")
pytest.importorskip("kr8s")

from tests.e2e.campaign.judge import judge
from tests.e2e.campaign.play import WITHIN, play
from tests.e2e.campaign.pods import Pods, judge_pods, strike_watchdog, trouble
from tests.e2e.campaign.pods_case import Case, make_pods_case
from tests.fakes.kubernetes import FakeKubernetes

pytestmark = pytest.mark.process

_DRIVER = str(Path(__file__).with_name("driver.py"))
#: Seconds that trouble lasts around a driver's end, and that one is stopped for.
_TROUBLE, _PAUSE = 1.5, 4.0
#: Seconds in which all must be gone when the driver is: runners and watchdog wait for the grace.
_GONE_WITHIN = 45.0
_TEAM = {"team": {"pod-security.kubernetes.io/enforce": "restricted"}}


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKubernetes]:
    """A cluster with a pod that this process, and those it starts, take for their own."""
    image = {"PYTHONPATH": str(ROOT)}
    with FakeKubernetes(namespaces=_TEAM, env=image).in_thread() as fake:
        container = {
            "name": "driver",
            "image": "image:1",
            "args": ["sleep", "3600"],
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            },
        }
        security = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
        fake.create(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": "me", "namespace": "team"},
                "spec": {"securityContext": security, "containers": [container]},
            }
        )
        wait_for(lambda: fake.objects("pods")[0]["status"].get("podIP"))
        monkeypatch.setenv("KUBECONFIG", fake.kubeconfig(tmp_path / "kubeconfig"))
        monkeypatch.setenv("POD_NAME", "me")
        yield fake


def test_case(seed: int, tmp_path: Path, tally: Counter[str], fake: FakeKubernetes) -> None:
    case = make_pods_case(seed)
    tally["cases"] += 1
    tally[f"cases of {case.theme}"] += 1
    tally["calls"] += len(case.calls)
    folder = tmp_path / "case"
    folder.mkdir()
    if case.kill_at:
        said, wrong = _in_a_process(case, folder, fake)
        done = "stopped" if case.kill_with == "paused" else "killed"
        tally[f"drivers {done} in {case.kill_at}"] += "over" not in said
        tally.update([f"with {case.kill_with}"] * bool(case.kill_with))
    else:
        played = play(case, folder, where=Pods(fake))
        said = [*played.seen.said, "", *map(str, played.events)]
        tally.update(played.seen.struck)
        tally["runners"] += len([n for e in played.events if e.kind == "boot" for n in e.runners])
        wrong = [*judge(case, played), *judge_pods(case, played)]
    wrong += _left(fake)
    if wrong:
        pytest.fail("\n".join(["", *_report(case, said, wrong)]), pytrace=False)


def _left(fake: FakeKubernetes) -> list[str]:
    try:
        # A driver's pod that is deleted takes its time to end.
        wait_for(lambda: not _lines(fake), _GONE_WITHIN)
    except AssertionError:
        return ["there is left:", *_lines(fake)]
    return []


def _lines(fake: FakeKubernetes) -> list[str]:
    return [line for line in fake.left() if not line.endswith(" team/me")]


def _report(case: Case, said: list[str], wrong: list[str]) -> list[str]:
    again = "pytest tests/e2e/campaign --campaign-backend kubernetes --campaign 1"
    again += f" --campaign-seed {case.seed}"
    return [*wrong, "", str(case), "", *said, "", f"To play it again: {again}"]


def _in_a_process(case: Case, folder: Path, fake: FakeKubernetes) -> tuple[list[str], list[str]]:
    """Play a case in a driver that is killed; what happened, and what is wrong."""
    with (folder / "errors").open("w") as errors, ExitStack() as stack:
        if case.kill_with == "api-slow":
            stack.enter_context(trouble(fake, "api-slow"))
        driver = subprocess.Popen(
            [sys.executable, _DRIVER, str(case.seed), str(folder), "pods"],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        try:
            said, over = _until_phase(driver, case.kill_at)
            if not over:
                time.sleep(case.kill_after)  # the moment is what is being tested
                said.append(_kill(case, driver, fake))
            rest = driver.communicate(timeout=3 * WITHIN)[0].splitlines()
        finally:
            driver.kill()
            driver.communicate()
    wrong = rest[rest.index("over") + 1 :] if "over" in rest else []
    wrong += said[said.index("over") + 1 :] if "over" in said else []
    if driver.returncode not in (0, -9):
        wrong.append(f"exit code {driver.returncode}: {(folder / 'errors').read_text()[-4000:]}")
    return said, wrong


def _until_phase(driver: Any, phase: str) -> tuple[list[str], bool]:
    """Read until a phase is told, or all is over."""
    said: list[str] = []
    for line in driver.stdout:
        said.append(line.rstrip("\n"))
        if said[-1] == phase:
            return said, False
    return said, True


def _kill(case: Case, driver: Any, fake: FakeKubernetes) -> str:
    there = [o["metadata"]["name"] for kind in ("jobs", "pods") for o in fake.objects(kind)]
    if case.kill_with == "paused":
        driver.send_signal(signal.SIGSTOP)
        time.sleep(_PAUSE)  # what is being tested
        driver.send_signal(signal.SIGCONT)
        return "stopped, and let go on"
    if case.kill_with == "watchdog":
        strike_watchdog(fake, "watchdog-kill")
    if case.kill_with == "pod":
        (pod,) = [p for p in fake.objects("pods") if p["metadata"]["name"] == "me"]
        fake.delete(pod, grace=1)
    if case.kill_with == "api-down":
        with trouble(fake, "api-down"):
            driver.kill()
            time.sleep(_TROUBLE)  # what is being tested
    else:
        driver.kill()
    return f"killed, with {there}"
