"""How boots fail (runner): preloaded by every runner of a case, it does what its turn says."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import time
from pathlib import Path

#: Names the folder in which turns are taken, and the file ``boots`` lies.
VARIABLE = "CAMPAIGN_BOOTS"


def turn(folder: Path) -> int:
    """The number of this boot, from 0; no two have the same."""
    for number in itertools.count():
        with contextlib.suppress(FileExistsError):
            os.close(os.open(folder / f"boot-{number}", os.O_CREAT | os.O_EXCL))
            return number
    raise AssertionError


def boot(way: str) -> None:
    if way == "raise":
        raise RuntimeError("this boot was meant to fail")
    if way == "exit":
        os._exit(7)
    if way == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if way == "hang":
        time.sleep(3600)
    if way == "slow":
        time.sleep(0.5)


if VARIABLE in os.environ:
    _folder = Path(os.environ[VARIABLE])
    _ways = json.loads((_folder / "boots").read_text())
    _number = turn(_folder)
    boot(_ways["first"][_number] if _number < len(_ways["first"]) else _ways["then"])
