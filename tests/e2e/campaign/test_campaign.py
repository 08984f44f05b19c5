"""Cases of a campaign of faults: after each nothing is left, and nothing that was wanted is lost.

``pytest tests/e2e/campaign --campaign 1000`` plays that many; ``--campaign-seed`` says from which
on.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest

from dask_flame.core.processes import kill
from dask_flame.testing import marked_processes
from tests.e2e.campaign.case import Case, make_case
from tests.e2e.campaign.judge import judge
from tests.e2e.campaign.play import WITHIN, play
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process

_DRIVER = str(Path(__file__).with_name("driver.py"))
_TOKEN = "DASK_FLAME_TEST_DRIVER"
#: Seconds for which a driver is stopped.
_PAUSE = 4.0
#: Seconds in which all must be gone when the driver is dead; it takes less than one.
_GONE_WITHIN = 20.0


def test_case(seed: int, tmp_path: Path, tally: Counter[str]) -> None:
    case = make_case(seed)
    tally["cases"] += 1
    tally[f"cases of {case.theme}"] += 1
    tally["calls"] += len(case.calls)
    folder = tmp_path / "case"
    folder.mkdir()
    if case.kill_at:
        said, wrong = _in_a_process(case, folder, tmp_path / "temporary")
        done = "stopped" if case.kill_with == "paused" else "killed"
        tally[f"drivers {done} in {case.kill_at}"] += "over" not in said
    else:
        played = play(case, folder)
        said = [*played.seen.said, "", *map(str, played.events)]
        tally.update(f"faults: {what}" for what in played.seen.struck)
        tally.update(f"boots that {way}" for way in (*case.boots, case.all_boots) if way)
        tally["runners"] += len([n for e in played.events if e.kind == "boot" for n in e.runners])
        wrong = judge(case, played)
    if wrong:
        pytest.fail("\n".join(["", *_report(case, said, wrong)]), pytrace=False)


def _report(case: Case, said: list[str], wrong: list[str]) -> list[str]:
    again = f"pytest tests/e2e/campaign --campaign 1 --campaign-seed {case.seed}"
    return [*wrong, "", str(case), "", *said, "", f"To play it again: {again}"]


def _in_a_process(case: Case, folder: Path, temporary: Path) -> tuple[list[str], list[str]]:
    """Play a case in a driver that is killed; what happened, and what is wrong."""
    temporary.mkdir()
    token = uuid.uuid4().hex
    with (folder / "errors").open("w") as errors:
        driver = subprocess.Popen(
            [sys.executable, _DRIVER, str(case.seed), str(folder)],
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, _TOKEN: token, "TMPDIR": str(temporary)},
            text=True,
        )
    try:
        said, over = _until_phase(driver, case.kill_at)
        if not over:
            time.sleep(case.kill_after)  # the moment is what is being tested
            said.append(_kill(case, driver, token))
        rest = driver.communicate(timeout=3 * WITHIN)[0].splitlines()
        wrong = rest[rest.index("over") + 1 :] if "over" in rest else []
        wrong += said[said.index("over") + 1 :] if "over" in said else []
        if driver.returncode not in (0, -9):
            wrong.append(
                f"exit code {driver.returncode}: {(folder / 'errors').read_text()[-4000:]}"
            )
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
        kill(process.pid for process in _remains(token))
        driver.communicate()


def _until_phase(driver: Any, phase: str) -> tuple[list[str], bool]:
    """Read until a phase is told, or all is over."""
    said: list[str] = []
    for line in driver.stdout:
        said.append(line.rstrip("\n"))
        if said[-1] == phase:
            return said, False
    return said, True


def _kill(case: Case, driver: Any, token: str) -> str:
    others = [p for p in _remains(token) if p.pid != driver.pid]
    supervisors = [p for p in others if "dask_flame/backends/local/supervisor" in _line(p)]
    if case.kill_with == "supervisor":
        kill(p.pid for p in supervisors)
    elif case.kill_with == "several":
        shown = [(p, _line(p)) for p in others]
        runners = [p for p, s in shown if s.startswith("dask-flame ") and "template" not in s]
        victims = [driver, *supervisors, *runners[1:]]
        random.Random(case.seed).shuffle(victims)
        kill(p.pid for p in victims)
        return f"killed {[p.pid for p in victims]}, with {[_line(p) for p in others]}"
    elif case.kill_with == "frozen":
        for process in others:
            if process not in supervisors:
                with contextlib.suppress(psutil.Error):
                    process.suspend()
    if case.kill_with == "paused":
        driver.send_signal(signal.SIGSTOP)
        time.sleep(_PAUSE)  # what is being tested
        driver.send_signal(signal.SIGCONT)
        return "stopped, and let go on"
    driver.kill()
    return f"killed, with {[_line(p) for p in others]}"


def _line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _remains(token: str) -> list[psutil.Process]:
    return marked_processes(token, variable=_TOKEN)
