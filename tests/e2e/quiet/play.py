"""Play one case in a process of its own, and say what it has written."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_HERE = Path(__file__).parent
_LIMIT = 90.0
#: Exit codes that are not 0, by end.
_CODES = {
    "exception": 3,
    "exception_in_with": 3,
    "interrupted": 3,
    "terminated": -signal.SIGTERM,
}
#: Lines on which the user can act, by what they are about.
_TOLD = (
    # To calls that wait, a pool without runners is news.
    r"waiting: calls wait: max=0; write cluster\.resize\(max=8\)",
    # Calls that failed before the end.
    r"\[runner-\d+\] slowly_fails\(\d\) failed: ValueError\('again'\)",
)


def _names(file: str, of: str) -> list[str]:
    """Return the names in the table of a driver's module, without its import."""
    text = (_HERE / file).read_text()
    table = text.partition(f"{of}: dict")[2].partition("in (")[2].partition(")")[0]
    return re.findall(r"\w+", table)


HOLDS = _names("holds.py", "HOLDS")
ENDS = _names("driver.py", "ENDS")


@dataclass(frozen=True)
class Played:
    """What a driver has written.

    Attributes
    ----------
    hold, end : str
    wrong : str
        What it should not have written, or another exit code; empty if all is well.
    """

    hold: str
    end: str
    wrong: str


def play(hold: str, end: str, options: Sequence[str] = ()) -> Played:
    """Run a driver that holds something and ends.

    Parameters
    ----------
    hold, end : str
    options : sequence of str
        Options of its Python.
    """
    driver = subprocess.Popen(
        [sys.executable, *options, str(_HERE / "driver.py"), hold, end],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        said, _ = driver.communicate(timeout=_LIMIT)
    except subprocess.TimeoutExpired:
        driver.send_signal(signal.SIGABRT)
        said, _ = driver.communicate()
        return Played(hold, end, f"has not ended within {_LIMIT:g} s\n{said}")
    said = "\n".join(line for line in said.splitlines() if not re.fullmatch("|".join(_TOLD), line))
    wanted = _CODES.get(end, 0)
    if driver.returncode != wanted:
        return Played(hold, end, f"exit code {driver.returncode}, not {wanted}\n{said}")
    return Played(hold, end, said)
