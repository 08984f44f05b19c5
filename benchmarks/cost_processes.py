"""Serve a trace in a separate driver, and watch the driver's runners from outside."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil
from cost_traces import Trace  # beside this file

_DRIVER = str(Path(__file__).with_name("cost_driver.py"))
#: Seconds between two examinations: the precision of a runner's times.
PERIOD = 0.05
#: Seconds without a runner after the last result that end a run.
_QUIET = 1.0
#: Maximum number of seconds from the last result to the end of the last runner.
_MOST = 60.0
#: Parts of the command lines of helper processes, of dask-flame and of multiprocessing.
_TEMPLATE = "dask-flame template"
_HELPERS = (
    "dask_flame/backends/local/supervisor",
    _TEMPLATE,
    "multiprocessing.resource_tracker",
    "multiprocessing.forkserver",
)


@dataclass(frozen=True)
class Life:
    """One runner, with times of the monotonic clock, which all processes share.

    Attributes
    ----------
    pid : int
    begin : float
        When its process was first seen.
    end : float
        When its process had ended.
    registered : float or None
        When it could take calls; None if it never could.
    left : float or None
        When the scheduler removed it; None if it ended before.
    calls : tuple of (float, float)
        Begin and end of each call that ran on it.
    """

    pid: int
    begin: float
    end: float
    registered: float | None
    left: float | None
    calls: tuple[tuple[float, float], ...]

    @property
    def boot(self) -> float:
        """Seconds until it could take calls; its whole life if it never could."""
        return (self.end if self.registered is None else self.registered) - self.begin

    @property
    def ending(self) -> float:
        """Seconds between its removal by the scheduler and its end."""
        return 0.0 if self.left is None else max(0.0, self.end - self.left)


class Watch:
    """The runners of one driver, and when each was first and last seen."""

    def __init__(self, driver: int) -> None:
        self.driver = driver
        self.spans: dict[int, tuple[float, float | None]] = {}
        self._helpers: set[int] = set()
        self._looked = time.monotonic()

    @property
    def alive(self) -> bool:
        return any(end is None for _, end in self.spans.values())

    def look(self) -> None:
        """Examine the processes. Changes are dated half-way back to the last examination."""
        now = time.monotonic()
        between = (self._looked + now) / 2
        self._looked = now
        runners = set(self._runners())
        for pid in runners - self.spans.keys() - self._helpers:
            self.spans[pid] = (between, None)
        for pid, (begin, end) in list(self.spans.items()):
            if pid in self._helpers:
                # It was seen before it had become its program.
                del self.spans[pid]
            elif end is None and pid not in runners:
                self.spans[pid] = (begin, between)

    def _runners(self) -> Iterator[int]:
        """Yield processes started by the driver or a helper; deeper descendants do not count."""
        parents = [psutil.Process(self.driver)]
        while parents:
            parent = parents.pop()
            with contextlib.suppress(psutil.Error):
                command = parent.cmdline()
                for child in parent.children():
                    with contextlib.suppress(psutil.Error):
                        if child.status() == psutil.STATUS_ZOMBIE:
                            continue
                        # A process forked from a helper without its own program is a runner.
                        if child.cmdline() != command and _helps(child):
                            self._helpers.add(child.pid)
                            parents.append(child)
                        elif parent.pid == self.driver and child.cmdline() == command:
                            continue  # A fork of the driver that has not become its program.
                        elif _TEMPLATE not in " ".join(command):
                            # A fresh runner has its template's name for a moment. A child of the
                            # template itself only forks a wave of runners.
                            self._helpers.discard(child.pid)
                            yield child.pid


def _helps(process: psutil.Process) -> bool:
    command = " ".join(process.cmdline())
    return any(word in command for word in _HELPERS)


def served(trace: Trace, who: str) -> tuple[tuple[Life, ...], dict[str, Any]]:
    """Serve a trace once.

    Parameters
    ----------
    trace : Trace
    who : str
        ``flame``, ``auto``, ``stock`` or ``tuned``.

    Returns
    -------
    lives : tuple of Life
        The runners, in order of appearance.
    told : dict
        The driver's report: ``start``; ``parts``, a list of (begin, end); ``submitted``, a list of
        times; ``calls``, in the same order a list of (pid, begin, end).

    Raises
    ------
    RuntimeError
        If the driver failed, if runners were left a minute after the last result, or if one was
        missed; with everything written to standard error.
    """
    with tempfile.TemporaryFile("w+") as errors:
        try:
            return _served(trace, who, errors)
        except RuntimeError as error:
            errors.seek(0)
            raise RuntimeError(f"{who}, {trace.name}: {error}\n{errors.read()}") from None


def _served(trace: Trace, who: str, errors: IO[str]) -> tuple[tuple[Life, ...], dict[str, Any]]:
    driver = subprocess.Popen(
        [sys.executable, _DRIVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
    )
    assert driver.stdin is not None
    assert driver.stdout is not None
    said: queue.Queue[dict[str, Any]] = queue.Queue()
    reader = threading.Thread(target=_read, args=(driver.stdout, said), daemon=True)
    reader.start()
    try:
        print(json.dumps({"who": who, "trace": trace.to_dict()}), file=driver.stdin, flush=True)
        watch = Watch(driver.pid)
        told = _follow(driver, driver.stdin, reader, said, watch)
    finally:
        driver.kill()
        driver.wait()
        reader.join()
        driver.stdin.close()
        driver.stdout.close()
    if unseen := {pid for pid, _, _ in told["calls"]} - watch.spans.keys():
        raise RuntimeError(f"calls ran on processes that were never seen: {sorted(unseen)}")
    joined = {event["address"]: event for event in told["events"] if "joined" in event}
    registered = {event["pid"]: event["joined"] for event in joined.values()}
    left = {
        joined[event["address"]]["pid"]: event["left"]
        for event in told["events"]
        if "left" in event and event["address"] in joined
    }
    lives = [
        Life(
            pid,
            begin,
            end,
            registered.get(pid),
            left.get(pid),
            tuple((b, e) for by, b, e in told["calls"] if by == pid),
        )
        for pid, (begin, end) in watch.spans.items()
        if end is not None
    ]
    return tuple(lives), told


def _follow(
    driver: subprocess.Popen[str],
    orders: IO[str],
    reader: threading.Thread,
    said: queue.Queue[dict[str, Any]],
    watch: Watch,
) -> dict[str, Any]:
    """Watch and read until the driver has closed; return its report."""
    told: dict[str, Any] = {}
    seen = time.monotonic()
    asked = False
    while "events" not in told:
        if not reader.is_alive() and said.empty():
            driver.wait()
            raise RuntimeError(f"the driver ended with code {driver.returncode}:")
        with contextlib.suppress(psutil.Error):
            watch.look()
        with contextlib.suppress(queue.Empty):
            while True:
                told.update(said.get_nowait())
        now = time.monotonic()
        if watch.alive or "calls" not in told:
            seen = now
        if "calls" in told and now > told["parts"][-1][1] + _MOST and not asked:
            raise RuntimeError(f"runners were still there {_MOST:g} s after the last result:")
        if now > seen + _QUIET and not asked:
            asked = True
            print("close", file=orders, flush=True)
        time.sleep(PERIOD)
    driver.wait()
    return told


def _read(stream: IO[str], said: queue.Queue[dict[str, Any]]) -> None:
    for line in stream:
        if line.startswith("{"):  # not the output of a runner
            said.put(json.loads(line))
