"""Cases of drivers outside of the cluster, whose scheduler is in a pod: nothing is left of them.

``pytest tests/e2e/campaign --campaign-backend outside --campaign 100`` plays that many.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.paths import ROOT
from tests.support.waiting import wait_for

pytest.importorskip("aiohttp")
pytest.importorskip("kr8s")

from tests.driver.hosts.test_remote import free_port
from tests.e2e.campaign.outside_case import GRACE, OutsideCase, make_outside_case
from tests.fakes.kubernetes import FakeKubernetes

pytestmark = pytest.mark.process

_DRIVER = str(Path(__file__).with_name("outside_driver.py"))
_ROLE = ROOT / "deploy/kubernetes/role-remote.yaml"
#: Seconds after a driver's end in which all must be gone, beside its grace: where nothing else
#: takes the processors it is less than 15, as a test of its own says.
_GONE_WITHIN = 60.0
#: Seconds that a driver may take to be as far as is asked for, or to end.
_WITHIN = 120.0
_FAKES: dict[str, dict[str, Any]] = {
    "image": {"bad_images": {"image:1": "not found"}, "back_off": 0.2},
    "room": {"nodes": [{"cpu": "100m", "memory": "1Gi"}]},
    "slow": {"pull_delay": 2.0},
    "refused": {"admission": lambda verb, o: "no pods here" if o["kind"] == "Pod" else None},
}


@pytest.fixture
def fake(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKubernetes]:
    """A cluster, and a kubeconfig of it in the environment."""
    case = make_outside_case(seed)
    image = {"PYTHONPATH": str(ROOT)}
    options = _FAKES.get(case.pod, {})
    with FakeKubernetes(namespaces={"team": {}}, env=image, **options).in_thread() as fake:
        fake.grant("driver", next(yaml.safe_load_all(_ROLE.read_text()))["rules"])
        monkeypatch.setenv("KUBECONFIG", fake.kubeconfig(tmp_path / "kubeconfig"))
        # All pods of the fake share this machine's ports.
        monkeypatch.setenv("DASK_FLAME__SCHEDULER__PORT", str(free_port()))
        monkeypatch.setenv("DASK_FLAME__SCHEDULER__DASHBOARD_PORT", str(free_port()))
        yield fake


def test_case(seed: int, tmp_path: Path, tally: Counter[str], fake: FakeKubernetes) -> None:
    case = make_outside_case(seed)
    tally["cases"] += 1
    tally[f"cases of {case.what}"] += 1
    tally[f"pods: {case.pod}"] += 1
    with (tmp_path / "errors").open("w") as errors:
        driver = subprocess.Popen(
            [sys.executable, _DRIVER, str(seed)], stdout=subprocess.PIPE, stderr=errors, text=True
        )
        try:
            said = _do(case, driver, fake)
        finally:
            driver.kill()
            driver.communicate()
    wrong = list(_judge(case, said))
    begun = time.monotonic()
    try:
        wait_for(fake.at_rest, GRACE + _GONE_WITHIN)
    except AssertionError:
        wrong += ["there is left:", *fake.left()]
    tally["seconds until all was gone"] += round(time.monotonic() - begun)
    if wrong:
        again = "pytest tests/e2e/campaign --campaign-backend outside --campaign 1 "
        again += f"--campaign-seed {seed}"
        end = (tmp_path / "errors").read_text()[-4000:]
        lines = ["", *wrong, "", str(case), "", *said, "", end, f"To play it again: {again}"]
        pytest.fail("\n".join(lines), pytrace=False)


def _do(case: OutsideCase, driver: Any, fake: FakeKubernetes) -> list[str]:
    """Do what the case says to its driver or the API server; what the driver has said."""
    said: list[str] = []
    first = "begun" if case.what == "constructor" else "busy"
    for line in driver.stdout:
        said.append(line.rstrip("\n"))
        if said[-1] == first:
            break
    time.sleep(case.after)  # the moment is what is being tested
    if case.what in ("constructor", "busy"):
        if case.outage:
            fake.down()
        driver.kill()
        time.sleep(case.outage)  # what is being tested
    else:
        fake.down()
        time.sleep(case.outage)  # what is being tested
    fake.up()
    rest = driver.communicate(timeout=_WITHIN)[0]
    return [*said, *rest.splitlines(), f"exit code {driver.returncode}"]


def _judge(case: OutsideCase, said: list[str]) -> Iterator[str]:
    """What is wrong in what a driver has said."""
    results = f"results {list(range(case.calls))}"
    if case.what == "short outage" and results not in said:
        yield "an outage of less than the grace has cost results"
    if case.what == "long outage":
        errors = [line for line in said if line.startswith("error ")]
        if len(errors) != 1 or "out of reach" not in errors[0]:
            yield "an outage of more than the grace is not told to the calls"
    if case.what in ("constructor", "busy") and any(line.startswith("results") for line in said):
        yield "the driver was killed too late for this case"
