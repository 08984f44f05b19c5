"""Cases of a campaign of faults: after each nothing is left, and nothing that was wanted is lost.

``pytest tests/e2e/campaign --campaign 1000`` plays that many; ``--campaign-seed`` says from which
on.
"""

from __future__ import annotations

import contextlib
import os
import random
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest

from dask_flame.core.processes import kill
from dask_flame.testing import marked_processes
from tests.e2e.campaign import trial
from tests.e2e.campaign.case import Case, make_case
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process

_TOKEN = "DASK_FLAME_TEST_DRIVER"
#: Seconds in which all must be gone when the driver is dead; it takes less than one.
_GONE_WITHIN = 20.0


def test_case(seed: int, tmp_path: Path, tally: Counter[str]) -> None:
    case = make_case(seed)
    folder = trial.begin(case, tmp_path, tally)
    if case.kill_at:
        said, wrong = _in_a_process(case, folder, tmp_path / "temporary")
        trial.count_driver(case, said, tally)
    else:
        played, (said, wrong) = trial.play_here(case, folder, tally)
        tally.update(f"faults: {what}" for what in played.seen.struck)
        tally.update(f"boots that {way}" for way in (*case.boots, case.all_boots) if way)
    trial.fail_if(wrong, case, said)


def _in_a_process(case: Case, folder: Path, temporary: Path) -> trial.Lines:
    """Play a case in a driver that is killed; what happened, and what is wrong."""
    temporary.mkdir()
    token = uuid.uuid4().hex
    with (folder / "errors").open("w") as errors:
        env = {**os.environ, _TOKEN: token, "TMPDIR": str(temporary)}
        driver = trial.start_driver(case, folder, errors, env=env)
    try:
        said, rest = trial.until_killed(case, driver, lambda: _kill(case, driver, token))
        wrong = trial.wrong_in_driver(driver, folder, said, rest)
        try:
            wait_for(lambda: not _remains(token), _GONE_WITHIN, "no process is left")
            if case.kill_with not in ("supervisor", "several"):
                # Where both are killed it takes a runner to remove the folder, if there is one.
                wait_for(lambda: not list(temporary.iterdir()), _GONE_WITHIN, "no folder is left")
        except AssertionError as error:
            left = [f"{p.pid} {p.status()} {' '.join(p.cmdline())}" for p in _remains(token)]
            wrong += [str(error), *left, *map(str, temporary.iterdir())]
        return said, wrong
    finally:
        kill(_remains(token))
        driver.communicate()


def _kill(case: Case, driver: Any, token: str) -> str:
    others = [p for p in _remains(token) if p.pid != driver.pid]
    supervisors = [p for p in others if "dask_flame/backends/local/supervisor" in _line(p)]
    if case.kill_with == "supervisor":
        kill(supervisors)
    elif case.kill_with == "several":
        shown = [(p, _line(p)) for p in others]
        runners = [p for p, s in shown if s.startswith("dask-flame ") and "template" not in s]
        victims = [psutil.Process(driver.pid), *supervisors, *runners[1:]]
        random.Random(case.seed).shuffle(victims)
        kill(victims)
        return f"killed {[p.pid for p in victims]}, with {[_line(p) for p in others]}"
    elif case.kill_with == "frozen":
        for process in others:
            if process not in supervisors:
                with contextlib.suppress(psutil.Error):
                    process.suspend()
    if case.kill_with == "paused":
        return trial.stop_for_a_while(driver)
    driver.kill()
    return f"killed, with {[_line(p) for p in others]}"


def _line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _remains(token: str) -> list[psutil.Process]:
    return marked_processes(token, variable=_TOKEN)
