"""A case from its count to its report, and a driver's process that is killed (test process)."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.campaign.case import Case
from tests.e2e.campaign.judge import judge
from tests.e2e.campaign.play import WITHIN, Local, Played, play
from tests.support.waiting import wait_for

_DRIVER = str(Path(__file__).with_name("driver.py"))
#: Seconds that trouble lasts around a driver's end, and that one is stopped for.
_TROUBLE, _PAUSE = 1.5, 4.0

#: What happened, and what is wrong, as lines to read.
Lines = tuple[list[str], list[str]]


def begin(case: Case, tmp_path: Path, tally: Counter[str]) -> Path:
    """Count a case, and make its folder."""
    tally["cases"] += 1
    tally[f"cases of {case.theme}"] += 1
    tally["calls"] += len(case.calls)
    folder = tmp_path / "case"
    folder.mkdir()
    return folder


def count_driver(case: Case, said: list[str], tally: Counter[str]) -> None:
    """Count a driver that was killed or stopped."""
    done = "stopped" if case.kill_with == "paused" else "killed"
    tally[f"drivers {done} in {case.kill_at}"] += "over" not in said


def play_here(
    case: Case, folder: Path, tally: Counter[str], where: Local | None = None
) -> tuple[Played, Lines]:
    """Play a case in this process, and judge it; the faults are for the caller to count.

    Parameters
    ----------
    case : Case
    folder : Path
    tally : Counter
    where : Local, optional
        By default this machine.
    """
    played = play(case, folder, where=where)
    said = [*played.seen.said, "", *map(str, played.events)]
    tally["runners"] += len([n for e in played.events if e.kind == "boot" for n in e.runners])
    return played, (said, list(judge(case, played)))


def try_case(
    case: Case,
    folder: Path,
    tally: Counter[str],
    *,
    where: Local,
    judge_more: Callable[[Case, Played], Iterable[str]],
    in_a_process: Callable[[Case, Path], Lines],
) -> Lines:
    """Play a case on a substrate with an API.

    Parameters
    ----------
    case : Case
    folder : Path
    tally : Counter
    where : Local
        Where it is played, if its driver is not killed.
    judge_more : callable
        Yields what is wrong beside what `judge` finds.
    in_a_process : callable
        Plays it with a driver that is killed.
    """
    if case.kill_at:
        said, wrong = in_a_process(case, folder)
        count_driver(case, said, tally)
        tally.update([f"with {case.kill_with}"] * bool(case.kill_with))
        return said, wrong
    played, (said, wrong) = play_here(case, folder, tally, where)
    tally.update(played.seen.struck)
    return said, [*wrong, *judge_more(case, played)]


def fail_if(wrong: list[str], case: Case, said: list[str], backend: str = "") -> None:
    """Fail the test if something is wrong, with all that is known, and how to play it again.

    Parameters
    ----------
    wrong : list of str
    case : Case
    said : list of str
        What happened.
    backend : str
        The ``--campaign-backend``, where it has to be named.
    """
    if not wrong:
        return
    named = f" --campaign-backend {backend}" if backend else ""
    again = f"pytest tests/e2e/campaign{named} --campaign 1 --campaign-seed {case.seed}"
    lines = ["", *wrong, "", str(case), "", *said, "", f"To play it again: {again}"]
    pytest.fail("\n".join(lines), pytrace=False)


def what_is_left(left: Callable[[], list[str]], within: float) -> list[str]:
    """Wait until nothing is left; what is, as what is wrong."""
    try:
        wait_for(lambda: not left(), within)
    except AssertionError:
        return ["there is left:", *left()]
    return []


# Drivers that are killed


def start_driver(
    case: Case, folder: Path, errors: Any, *where: str, env: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start ``driver.py``, which plays a case and prints its phases.

    Parameters
    ----------
    case : Case
    folder : Path
    errors : file
        Of its standard error.
    *where : str
        As `driver.main` takes it.
    env : mapping of str to str, optional
        All of its environment.
    """
    return subprocess.Popen(
        [sys.executable, _DRIVER, str(case.seed), str(folder), *where],
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        env=env,
    )


def until_killed(
    case: Case,
    driver: subprocess.Popen[str],
    kill: Callable[[], str],
    at_phase: Callable[[], object] = lambda: None,
) -> tuple[list[str], list[str]]:
    """Wait for a driver's phase, kill it, and read all that it has printed.

    Parameters
    ----------
    case : Case
    driver : Popen
    kill : callable
        Kills it, and returns what that was in words.
    at_phase : callable
        Called when the phase is told, or all is over.

    Returns
    -------
    said, rest : list of str
        What it has printed until then, with those words, and what afterwards.
    """
    said, over = _until_phase(driver, case.kill_at)
    at_phase()
    if not over:
        time.sleep(case.kill_after)  # the moment is what is being tested
        said.append(kill())
    return said, driver.communicate(timeout=3 * WITHIN)[0].splitlines()


def _until_phase(driver: Any, phase: str) -> tuple[list[str], bool]:
    """Read until a phase is told, or all is over."""
    said: list[str] = []
    for line in driver.stdout:
        said.append(line.rstrip("\n"))
        if said[-1] == phase:
            return said, False
    return said, True


def wrong_in_driver(
    driver: subprocess.Popen[str], folder: Path, said: list[str], rest: list[str]
) -> list[str]:
    """What a driver that has ended has found to be wrong itself, or has failed with.

    Parameters
    ----------
    driver : Popen
    folder : Path
        Where its ``errors`` are.
    said, rest : list of str
        As `until_killed` returns them.
    """
    wrong = rest[rest.index("over") + 1 :] if "over" in rest else []
    wrong += said[said.index("over") + 1 :] if "over" in said else []
    if driver.returncode not in (0, -9):
        wrong.append(f"exit code {driver.returncode}: {(folder / 'errors').read_text()[-4000:]}")
    return wrong


def stop_for_a_while(driver: subprocess.Popen[str]) -> str:
    """Stop a driver, and let it go on."""
    driver.send_signal(signal.SIGSTOP)
    time.sleep(_PAUSE)  # what is being tested
    driver.send_signal(signal.SIGCONT)
    return "stopped, and let go on"


def kill_in_trouble(
    driver: subprocess.Popen[str], trouble: AbstractContextManager[None] | None
) -> None:
    """Kill a driver while its API is in trouble, which goes on for a while."""
    if trouble is None:
        driver.kill()
        return
    with trouble:
        driver.kill()
        time.sleep(_TROUBLE)  # what is being tested
