"""What test_remote.py calls on runners, without the imports of its tests (runner)."""

from __future__ import annotations

import atexit
import os
import signal
import time
from pathlib import Path

from dask.distributed import Event, get_worker

from dask_flame import CallStopped, report


def held_until(event: str) -> bool:
    return bool(Event(event).wait(60))


def whoami(seconds: float = 0.0) -> tuple[str, str | None]:
    report(step=1, slept=seconds)
    time.sleep(seconds)
    return get_worker().name, os.environ.get("TOKEN")


def whoami_once(seconds: float, event: str) -> tuple[str, str | None]:
    """The same, as soon as the event is set."""
    Event(event).wait(60)
    return whoami(seconds)


def endless() -> str:
    """Report until the driver stops it."""
    for step in range(3_000):
        time.sleep(0.01)
        try:
            report(step=step, loss=0.5)
        except CallStopped as error:
            return str(error)
    return "never stopped"


def talk(lines: int) -> None:
    for i in range(lines):
        print("line", i)


def fails(rate: float) -> float:
    losses = [1 / rate, 0.0]
    return losses[0] / losses[1]


def stops_itself() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def end_late(folder: Path) -> None:
    def work() -> None:
        time.sleep(2.5)  # longer than workers may take to close
        (folder / "ended").touch()

    atexit.register(work)
