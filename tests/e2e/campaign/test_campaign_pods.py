"""Cases of the campaign on Kubernetes: pods, API server and driver fail, and nothing is left.

``pytest tests/e2e/campaign --campaign-backend kubernetes --campaign 100`` plays that many.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.paths import ROOT
from tests.support.waiting import wait_for

pytest.importorskip("aiohttp")
pytest.importorskip("kr8s")

from tests.e2e.campaign import trial
from tests.e2e.campaign.case import Case
from tests.e2e.campaign.pods import Pods, judge_pods, strike_watchdog, trouble
from tests.e2e.campaign.pods_case import make_pods_case
from tests.fakes.kubernetes import FakeKubernetes

pytestmark = pytest.mark.process

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
    folder = trial.begin(case, tmp_path, tally)
    said, wrong = trial.try_case(
        case,
        folder,
        tally,
        where=Pods(fake),
        judge_more=judge_pods,
        in_a_process=partial(_in_a_process, fake),
    )
    # A driver's pod that is deleted takes its time to end.
    wrong += trial.what_is_left(partial(_lines, fake), _GONE_WITHIN)
    trial.fail_if(wrong, case, said, "kubernetes")


def _lines(fake: FakeKubernetes) -> list[str]:
    return [line for line in fake.left() if not line.endswith(" team/me")]


def _in_a_process(fake: FakeKubernetes, case: Case, folder: Path) -> trial.Lines:
    """Play a case in a driver that is killed; what happened, and what is wrong."""
    with (folder / "errors").open("w") as errors, ExitStack() as stack:
        if case.kill_with == "api-slow":
            stack.enter_context(trouble(fake, "api-slow"))
        driver = trial.start_driver(case, folder, errors, "pods")
        try:
            said, rest = trial.until_killed(case, driver, lambda: _kill(case, driver, fake))
        finally:
            driver.kill()
            driver.communicate()
    wrong = trial.wrong_in_driver(driver, folder, said, rest)
    return said, wrong


def _kill(case: Case, driver: Any, fake: FakeKubernetes) -> str:
    there = [o["metadata"]["name"] for kind in ("jobs", "pods") for o in fake.objects(kind)]
    if case.kill_with == "paused":
        return trial.stop_for_a_while(driver)
    if case.kill_with == "watchdog":
        strike_watchdog(fake, "watchdog-kill")
    if case.kill_with == "pod":
        (pod,) = [p for p in fake.objects("pods") if p["metadata"]["name"] == "me"]
        fake.delete(pod, grace=1)
    down = case.kill_with == "api-down"
    trial.kill_in_trouble(driver, trouble(fake, "api-down") if down else None)
    return f"killed, with {there}"
