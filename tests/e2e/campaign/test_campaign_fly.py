"""Cases of the campaign on Fly: machines, the Machines API and driver fail, and nothing is left.

``pytest tests/e2e/campaign --campaign-backend fly --campaign 100`` plays that many.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import dask
import psutil
import pytest

from tests.support.paths import ROOT

pytest.importorskip("aiohttp")

from tests.backends.fly.world import ADDRESS, KNOWN_SPEED, SPEED, inside, settings
from tests.e2e.campaign import trial
from tests.e2e.campaign.case import Case
from tests.e2e.campaign.fly_case import make_fly_case
from tests.e2e.campaign.machines import Machines, judge_machines, trouble
from tests.fakes.fly import FakeFly

pytestmark = pytest.mark.process

#: Seconds in which all must be gone when the driver is: runners wait for the grace, and the process
#: that removes what does not run looks for a while longer.
_GONE_WITHIN = 60.0


@pytest.fixture
def fly(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeFly]:
    """A fake Fly that this process, and those it starts, take themselves to be in."""
    image = {"PYTHONPATH": os.pathsep.join(p for p in (str(ROOT), *sys.path) if p)}
    with FakeFly(speed=SPEED, private_ip=ADDRESS, env=image) as fly:
        inside(fly, monkeypatch)
        with settings(fly):
            yield fly
        assert fly.violations == []


def test_case(seed: int, tmp_path: Path, tally: Counter[str], fly: FakeFly) -> None:
    case = make_fly_case(seed)
    folder = trial.begin(case, tmp_path, tally)
    said, wrong = trial.try_case(
        case,
        folder,
        tally,
        where=Machines(fly),
        judge_more=judge_machines,
        in_a_process=partial(_in_a_process, fly),
    )
    wrong += trial.what_is_left(fly.left, _GONE_WITHIN)
    if fly.token in "\n".join([*said, *wrong, fly.logs()]):
        wrong.append("the token was shown")
    trial.fail_if(wrong, case, said, "fly")


def _in_a_process(fly: FakeFly, case: Case, folder: Path) -> trial.Lines:
    """Play a case in a driver that is killed; return what happened, and what is wrong."""
    with (folder / "errors").open("w") as errors, ExitStack() as stack:
        if case.kill_with == "api-slow":
            stack.enter_context(trouble(fly, "api-slow"))
        env = {
            **os.environ,
            "DASK_FLAME__FLY__RATE": str(KNOWN_SPEED),
            "DASK_FLAME__FLY__LOGS_API": dask.config.get("flame.fly.logs-api"),
        }
        driver = trial.start_driver(case, folder, errors, "machines", env=env)
        watchdogs: list[psutil.Process] = []

        def look() -> None:
            watchdogs[:] = _watchdogs(driver.pid)

        def kill() -> str:
            look()
            return _kill(case, driver, fly)

        try:
            said, rest = trial.until_killed(case, driver, kill, look)
        finally:
            driver.kill()
            driver.communicate()
    wrong = trial.wrong_in_driver(driver, folder, said, rest)
    _, alive = psutil.wait_procs(watchdogs, _GONE_WITHIN)
    wrong += [f"a process beside the driver is left: {process}" for process in alive]
    for process in alive:
        process.kill()
    if fly.token in (folder / "errors").read_text():
        wrong.append("the driver has printed the token")
    return said, wrong


def _watchdogs(driver: int) -> list[psutil.Process]:
    """Return the processes that remove what is left of a driver that is killed."""
    try:
        children = psutil.Process(driver).children()
        return [child for child in children if "watchdog" in " ".join(child.cmdline())]
    except psutil.Error:
        return []


def _kill(case: Case, driver: Any, fly: FakeFly) -> str:
    there = [f"{m['name']} ({m['state']})" for m in fly.machines()]
    if case.kill_with == "paused":
        return trial.stop_for_a_while(driver)
    if case.kill_with == "stuck":
        fly.stick()
    if case.kill_with == "watchdog":
        for process in _watchdogs(driver.pid):
            process.kill()
    lost = case.kill_with in ("api-down", "api-lost")
    trial.kill_in_trouble(driver, trouble(fly, case.kill_with) if lost else None)
    return f"killed, with {there}"
