"""Run one contender in a separate process, and end all processes that it leaves."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from dask_flame.core.resource_trackers import kill_but_trackers, wait_for_trackers
from dask_flame.testing import marked_processes

_HERE = Path(__file__).parent
_TOKEN = "DASK_FLAME_VERSUS"
_WORDS = 2_000  # characters of a failed run's output to keep


class RunError(Exception):
    """A run failed, or took too long."""


class Run:
    """A driver that runs one measure for one contender, with everything that it starts.

    All processes are ended when the run is over. They are found in three ways, because each misses
    some: by the driver's session, by a token in the environment (which a process that changes its
    title may overwrite), and by descent, as far as it was seen while the parents lived. The run has
    its own folder for files.

    Parameters
    ----------
    measure, contender : str
    options : mapping
        Options of the measure.
    timeout : float
        Time limit for each answer, in seconds.
    """

    def __init__(
        self, measure: str, contender: str, options: Mapping[str, Any], *, timeout: float
    ) -> None:
        self.measure, self.contender, self.timeout = measure, contender, timeout
        self._token = uuid.uuid4().hex
        # A short name, because contenders put sockets into it, whose paths have a length limit.
        self._folder = Path(tempfile.mkdtemp(prefix="vs-"))
        self._errors = (self._folder / "errors").open("w+")
        paths = [str(_HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.started = time.monotonic()
        self.driver = subprocess.Popen(
            [
                sys.executable,
                str(_HERE / "versus_driver.py"),
                measure,
                contender,
                json.dumps({**options, "started": self.started}),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            cwd=self._folder,
            start_new_session=True,
            env={
                **os.environ,
                _TOKEN: self._token,
                "TMPDIR": str(self._folder),
                "PYTHONPATH": os.pathsep.join(paths),
                # Parsl looks for its programs here.
                "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            },
        )
        self._seen: set[psutil.Process] = set()
        self._said: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    def answer(self) -> dict[str, Any]:
        """Return the driver's next answer.

        Raises
        ------
        RunError
            If the driver ends, fails, or is silent for `timeout` seconds.
        """
        try:
            said = self._said.get(timeout=self.timeout)
        except queue.Empty:
            raise RunError(f"nothing within {self.timeout:g} s") from None
        if said is None:
            raise RunError(f"ended with code {self.driver.wait()}: {self._last_words()}")
        if "error" in said:
            raise RunError(said["error"])
        return said

    def ask(self) -> dict[str, Any]:
        """Have the driver run one more block; return its answer."""
        assert self.driver.stdin is not None
        try:
            print("go", file=self.driver.stdin, flush=True)
        except OSError:
            raise RunError(f"has ended: {self._last_words()}") from None
        return self.answer()

    def look(self) -> set[psutil.Process]:
        """Return the processes of this run, without the driver."""
        with contextlib.suppress(psutil.Error):
            self._seen.update(psutil.Process(self.driver.pid).children(recursive=True))
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if os.getsid(process.pid) == self.driver.pid:
                    self._seen.add(process)
        self._seen.update(marked_processes(self._token, variable=_TOKEN))
        self._seen = {process for process in self._seen if _alive(process)}
        return {process for process in self._seen if process.pid != self.driver.pid}

    def kill_driver(self) -> None:
        """Kill only the driver."""
        self.driver.kill()
        self.driver.wait()

    def end(self) -> None:
        """Kill the driver and all processes that it started, and remove their files."""
        left = self.look()
        self.kill_driver()
        for _ in range(100):
            # Resource trackers remove semaphores and shared memory of killed processes.
            wait_for_trackers(kill_but_trackers(left)[1])
            left = self.look()
            if not left:
                break
            time.sleep(0.02)
        self._reader.join(10)
        for stream in (self.driver.stdin, self.driver.stdout, self._errors):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _read(self) -> None:
        assert self.driver.stdout is not None
        for line in self.driver.stdout:
            if line.startswith('{"versus"'):  # not the output of other code
                self._said.put(json.loads(line)["versus"])
        self._said.put(None)

    def _last_words(self) -> str:
        self._errors.seek(0)
        return self._errors.read()[-_WORDS:].strip()


def killed(run: Run, wait: float) -> dict[str, float]:
    """Kill a driver with runners; return the seconds until no process of it is left.

    Raises
    ------
    RunError
        If some are left after `wait` seconds, or there were none at first.
    """
    run.answer()
    left = run.look()
    before = len(left)
    if before < 2:
        raise RunError("there was nothing to kill but the driver")
    start = time.monotonic()
    run.kill_driver()
    while left or (left := run.look()):  # finally, include processes that were started later
        if time.monotonic() > start + wait:
            raise RunError(f"{len(left)} of {before} processes were there after {wait:g} s")
        time.sleep(0.01)
        left = {process for process in left if _alive(process)}
    return {"gone": time.monotonic() - start, "processes": before}


def _alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False
