"""The guard of a cluster's local runners: starts them, and outlives the driver to end them.

A process of its own, in a session of its own, with one thread. It starts runners when the driver
says so and tells the driver what they print and how they end. When its connection to the driver
closes, or its parent is another process than before, the driver is gone, however it went, and the
guard kills every runner with all that came from it, removes the scratch folder, and goes.

How a runner's processes are found is said in :mod:`dask_flame.marks`. On Linux the guard is their
subreaper, so that orphans become its children.

Lines of JSON go both ways. From the driver: ``boot``, ``end``. To it: ``hello``, ``booted``,
``refused``, ``output``, ``ended``.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # started by path, from wherever the package is
    sys.path.append(str(Path(__file__).parents[3]))

from dask_flame.marks import MARK, below, kill, kill_group, kill_marked, within_reach

_PR_SET_CHILD_SUBREAPER = 36
_KEPT_OUTPUT = 16_000
_LOOK_FOR_PARENT = 0.5
#: Bytes for a driver that does not read; beyond them what runners print is only kept, not sent.
_MOST_UNREAD = 4_000_000


class Runner:
    """One process, its leash, and the end of what it printed."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], leash: int) -> None:
        self.name = name
        self.process = process
        self.leash = leash
        self.words = b""  # on their way through the leash
        self.kill_at: float | None = None
        self.killed = False
        self.output: collections.deque[bytes] = collections.deque()
        self.size = 0
        assert process.stdout is not None
        self.stdout = process.stdout.fileno()

    def keep(self, chunk: bytes) -> None:
        self.output.append(chunk)
        self.size += len(chunk)
        while self.size - len(self.output[0]) > _KEPT_OUTPUT:
            self.size -= len(self.output.popleft())

    def tail(self) -> str:
        return b"".join(self.output)[-_KEPT_OUTPUT:].decode(errors="replace")


class Guard:
    """The loop: the driver's words, the runners' output, and the runners' ends."""

    def __init__(self, connection: socket.socket, owner: str, program: str, parent: int) -> None:
        self.connection = connection
        self.owner = owner
        self.program = program
        self.parent = parent
        self.runners: dict[str, Runner] = {}
        self.scratch = tempfile.mkdtemp(prefix=f"dask-flame-{owner}-")
        self._buffer = b""
        self._out = bytearray()
        self._selector = selectors.DefaultSelector()

    def run(self) -> None:
        """Guard until the driver is gone; then end everything."""
        try:
            _become_subreaper()
            wake_r, wake_w = os.pipe()
            os.set_blocking(wake_w, False)
            os.set_blocking(wake_r, False)
            signal.set_wakeup_fd(wake_w)
            signal.signal(signal.SIGCHLD, lambda *_: None)
            signal.signal(signal.SIGTERM, lambda *_: sys.exit())
            self._selector.register(wake_r, selectors.EVENT_READ, "wake")
            self.connection.setblocking(False)
            self._selector.register(self.connection, selectors.EVENT_READ, "driver")
            self._say(ev="hello", scratch=self.scratch)
            while os.getppid() == self.parent and self._turn(wake_r):
                pass
        finally:
            self._end_all()

    def _turn(self, wake: int) -> bool:
        writing = selectors.EVENT_WRITE if self._out else 0
        self._selector.modify(self.connection, selectors.EVENT_READ | writing, "driver")
        for key, events in self._selector.select(self._patience()):
            if key.data == "wake":
                with contextlib.suppress(BlockingIOError):
                    os.read(wake, 4096)
            elif key.data == "driver":
                if events & selectors.EVENT_WRITE and not self._write():
                    return False
                if events & selectors.EVENT_READ and not self._hear():
                    return False
            elif events & selectors.EVENT_WRITE:
                self._pass_on(key.data)
            else:
                self._read(key.data)
        self._reap()
        return True

    def _patience(self) -> float:
        due = [r.kill_at for r in self.runners.values() if r.kill_at is not None]
        return max(0.0, min([_LOOK_FOR_PARENT, *(t - time.monotonic() for t in due)]))

    # The driver

    def _hear(self) -> bool:
        try:
            chunk = self.connection.recv(1 << 16)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if not chunk:
            return False
        *lines, self._buffer = (self._buffer + chunk).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if message["op"] == "boot":
                self._boot(message)
            elif message["op"] == "end":
                self._end(message["name"], message["grace"])
        return True

    def _say(self, **message: Any) -> None:
        self._out += json.dumps(message).encode() + b"\n"

    def _write(self) -> bool:
        try:
            del self._out[: self.connection.send(self._out)]
        except BlockingIOError:
            pass
        except OSError:
            return False
        return True

    # Runners

    def _boot(self, message: dict[str, Any]) -> None:
        name = message["name"]
        folder = message["orders"]["directory"] = os.path.join(self.scratch, name)
        os.makedirs(folder, exist_ok=True)
        # What calls put into temporary folders goes with their runner.
        environment = {"TMPDIR": folder, **message["env"], MARK: f"{self.owner}/{name}"}
        ours, theirs = os.pipe()[::-1]
        try:
            process = subprocess.Popen(
                # By path: what the runner may import is in its orders.
                [sys.executable, "-P", self.program, str(theirs)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(theirs,),
                env=environment,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            os.close(ours)
            self._say(ev="refused", name=name, why=str(error))
            return
        finally:
            os.close(theirs)
        runner = self.runners[name] = Runner(name, process, ours)
        os.set_blocking(runner.stdout, False)
        os.set_blocking(ours, False)
        self._selector.register(runner.stdout, selectors.EVENT_READ, runner)
        self._tell(runner, json.dumps(message["orders"]).encode())
        self._say(ev="booted", name=name, pid=process.pid)

    def _tell(self, runner: Runner, line: bytes) -> None:
        """Say a line to a runner through its leash, as soon as the pipe takes it."""
        if not runner.words:
            self._selector.register(runner.leash, selectors.EVENT_WRITE, runner)
        runner.words += line + b"\n"

    def _pass_on(self, runner: Runner) -> None:
        """Pass on as much of what is to be said as the pipe takes."""
        try:
            runner.words = runner.words[os.write(runner.leash, runner.words) :]
        except BlockingIOError:
            return
        except OSError:
            runner.words = b""  # it is dead
        if not runner.words:
            self._selector.unregister(runner.leash)

    def _end(self, name: str, grace: float) -> None:
        runner = self.runners.get(name)
        if runner is None or runner.process.poll() is not None:
            return
        if grace <= 0:
            self._kill(runner)
            return
        due = time.monotonic() + grace
        if runner.kill_at is None:
            # Not a SIGTERM, by which a runner knows that somebody else takes it away.
            self._tell(runner, b"end")
        runner.kill_at = min(due, runner.kill_at or due)

    def _read(self, runner: Runner) -> bool:
        try:
            chunk = os.read(runner.stdout, 1 << 16)
        except BlockingIOError:
            return False
        except OSError:
            chunk = b""
        if not chunk:
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(runner.stdout)
            return False
        runner.keep(chunk)
        if len(self._out) < _MOST_UNREAD:
            self._say(ev="output", name=runner.name, text=chunk.decode(errors="replace"))
        return True

    def _reap(self) -> None:
        now = time.monotonic()
        for runner in list(self.runners.values()):
            if runner.kill_at is not None and now >= runner.kill_at:
                runner.kill_at = None
                self._kill(runner)
            if runner.process.poll() is not None:
                self._ended(runner)
        _reap_orphans({r.process.pid for r in self.runners.values()})

    def _ended(self, runner: Runner) -> None:
        del self.runners[runner.name]
        kill_group(runner.process.pid)
        kill_marked(f"{self.owner}/{runner.name}", within_reach())
        if not self.runners:
            # Orphans that hid their mark may be any runner's; now there is none left to be.
            kill(below(os.getpid()))
        while self._read(runner):
            pass
        for descriptor in (runner.stdout, runner.leash):
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(descriptor)
        assert runner.process.stdout is not None
        runner.process.stdout.close()
        os.close(runner.leash)
        shutil.rmtree(os.path.join(self.scratch, runner.name), ignore_errors=True)
        code = runner.process.returncode
        told = runner.killed and code == -signal.SIGKILL
        self._say(ev="ended", name=runner.name, code=code, told=told, output=runner.tail())

    def _kill(self, runner: Runner) -> None:
        # The tree first: once its root is dead, nobody can tell what was below it.
        runner.killed = True
        tree = below(runner.process.pid)
        kill_group(runner.process.pid)
        kill(tree)

    def _end_all(self) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for runner in self.runners.values():
            self._kill(runner)
        for runner in self.runners.values():
            runner.process.wait()
            kill_marked(f"{self.owner}/{runner.name}", within_reach())
        # What is still below is an orphan that hid its mark.
        kill(below(os.getpid()))
        shutil.rmtree(self.scratch, ignore_errors=True)


def _become_subreaper() -> None:
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _reap_orphans(runners: set[int]) -> None:
    """Take leave of dead processes that became ours because their parents are dead."""
    if sys.platform != "linux":
        return
    with contextlib.suppress(ChildProcessError):
        while dead := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if dead.si_pid in runners:
                return  # has just died: the next turn takes it
            os.waitpid(dead.si_pid, 0)


def main() -> None:
    """``guard.py FD OWNER PROGRAM PARENT``."""
    descriptor, owner, program, parent = sys.argv[1:]
    Guard(socket.socket(fileno=int(descriptor)), owner, program, int(parent)).run()


if __name__ == "__main__":
    main()
