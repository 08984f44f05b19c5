"""Runs the machines of a fake Fly, and kills them all at its own end (a process of the tests).

The program reads commands from its standard input, one JSON object a line, and writes what happens
to its standard output. It ends when its standard input does, or when the thread that started it
ends: both happen at a ``kill -9`` of the tests. The processes of machines, and all that they start,
stay its descendants whatever they do (it is their subreaper), so that it finds them all.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from typing import Any

_PDEATHSIG, _SUBREAPER = 1, 36
#: In the environment of a machine's processes: which machine it is.
MARK = "DASK_FLAME_FAKE_MACHINE"

_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def _prctl(option: int, value: int) -> None:
    if _libc is not None:
        _libc.prctl(option, value, 0, 0, 0)


def _begin() -> None:
    """Run in the machine's process before its program: it does not outlive this one."""
    _prctl(_PDEATHSIG, signal.SIGKILL)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children") as file:
                found += [int(word) for word in file.read().split()]
    return found


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    left = [pid]
    while left:
        more = _children(left.pop())
        found += more
        left += more
    return found


def _machine_of(pid: int) -> str | None:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/environ", "rb") as file:
        for entry in file.read().split(b"\0"):
            if entry.startswith(MARK.encode() + b"="):
                return entry.partition(b"=")[2].decode()
    return None


class Host:
    """The machines' main processes, by machine."""

    def __init__(self) -> None:
        self._main: dict[int, str] = {}
        self._pids: dict[str, int] = {}

    def say(self, **what: Any) -> None:
        with contextlib.suppress(BrokenPipeError):
            os.write(1, json.dumps(what).encode() + b"\n")

    def do(self, command: dict[str, Any]) -> None:
        machine = command["machine"]
        if command["do"] == "start":
            self._start(machine, command)
        elif command["do"] == "signal":
            self._signal(machine, command["signal"], everything=command["everything"])

    def _start(self, machine: str, command: dict[str, Any]) -> None:
        try:
            with open(command["log"], "ab") as log, open(command["errors"], "ab") as errors:
                process = subprocess.Popen(
                    command["argv"],
                    # What a command runs on a machine is the machine's: its key is longer.
                    env={**command["env"], MARK: machine.partition("/")[0]},
                    cwd=command["folder"],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=errors,
                    start_new_session=True,
                    preexec_fn=_begin,
                )
        except OSError as error:
            self.say(refused=machine, error=str(error))
            return
        # It is waited for in `reap`, with everything else that ends here.
        process.returncode = 0
        self._main[process.pid] = machine
        self._pids[machine] = process.pid
        self.say(started=machine, pid=process.pid)

    def _signal(self, machine: str, sig: int, *, everything: bool) -> None:
        pid = self._pids.get(machine)
        if pid is None:
            return
        pids = [pid]
        if everything:
            pids += [p for p in _descendants(os.getpid()) if p != pid and _machine_of(p) == machine]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, sig)

    def reap(self) -> None:
        """Take the exit codes of all that has ended; tell of machines' main processes."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            machine = self._main.pop(pid, None)
            if machine is not None:
                if self._pids.get(machine) == pid:
                    del self._pids[machine]
                # Its session may be left where /proc does not tell of children.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)
                self._kill_rest(machine)
                code = os.waitstatus_to_exitcode(status)
                self.say(exited=machine, code=code, pid=pid)

    def _kill_rest(self, machine: str) -> None:
        """Kill what the machine has started, as the end of a virtual machine does."""
        while left := [p for p in _descendants(os.getpid()) if _machine_of(p) == machine]:
            for pid in left:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.005)
            for pid in left:
                if pid not in self._main:
                    with contextlib.suppress(ChildProcessError):
                        os.waitpid(pid, os.WNOHANG)

    def end(self) -> None:
        """Kill all descendants, and return when there are none."""
        while True:
            for pid in self._main:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)
            for pid in _descendants(os.getpid()):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                return
            time.sleep(0.005)


def main() -> None:
    parent = int(sys.argv[1])
    _prctl(_SUBREAPER, 1)
    _prctl(_PDEATHSIG, signal.SIGTERM)
    ended, ending = os.pipe()
    os.set_blocking(ending, False)
    signal.set_wakeup_fd(ending)
    stop: list[int] = []
    for sig in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(sig, lambda number, frame: stop.append(number))
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    host, rest = Host(), b""
    try:
        while not stop and os.getppid() == parent:
            ready, _, _ = select.select([0, ended], [], [])
            if ended in ready:
                os.read(ended, 4096)
                host.reap()
            if 0 in ready:
                data = os.read(0, 1 << 16)
                if not data:
                    return
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    host.do(json.loads(line))
    finally:
        host.end()


if __name__ == "__main__":
    main()
