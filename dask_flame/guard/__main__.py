"""The guard of a cluster's local runners: starts them, and outlives the driver to end them.

A process of its own, in a session of its own, with one thread. It starts runners when the driver
says so and tells the driver what they print and how they end. When its connection to the driver
closes, or its parent is another process than before, the driver is gone, however it went, and the
guard kills every runner with all that came from it, removes the scratch folder, and goes.

How a runner's processes are found is said in :mod:`dask_flame.marks`. On Linux the guard is their
subreaper, so that orphans become its children.

On Linux runners are forked from templates, see :mod:`dask_flame.guard.templates`; where
that cannot be, each is an interpreter of its own.

Lines of JSON go both ways. From the driver: ``kind``, ``forget``, ``boot``, ``end``. To it:
``hello``, ``unfit``, ``booted``, ``refused``, ``output``, ``ended``.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
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
    sys.path.insert(0, str(Path(__file__).parents[2]))

import dask_flame.runner.__main__ as runner_program
from dask_flame.guard.runners import Kind, Process, Runner
from dask_flame.guard.templates import Template
from dask_flame.marks import (
    MARK,
    NO_MARK,
    below,
    everywhere,
    kill,
    kill_group,
    kill_marked,
    within_reach,
)

if __name__ == "__main__":
    del sys.path[0]

_PR_SET_CHILD_SUBREAPER = 36
_LOOK_FOR_PARENT = 0.5
#: The part of its ``boot_timeout`` after which a runner that is ended was late.
_SLOW = 0.9
#: Bytes for a driver that does not read; beyond them what runners print is only kept, not sent.
_MOST_UNREAD = 4_000_000


class Guard:
    """The loop: the driver's words, the runners' output, and the runners' ends."""

    def __init__(self, connection: socket.socket, owner: str, parent: int) -> None:
        self.connection = connection
        self.owner = owner
        self.parent = parent
        self.runners: dict[str, Runner] = {}
        self.kinds: dict[str, Kind] = {}
        self.templates: dict[str, Template] = {}
        self._adopts = False
        self._limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        # Each runner takes two descriptors here, four while it waits.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (self._limit[1], self._limit[1]))
        self.scratch = tempfile.mkdtemp(prefix=f"dask-flame-{owner}-")
        self._buffer = b""
        self._out = bytearray()
        self._selector = selectors.DefaultSelector()

    def usual_limits(self) -> None:
        """Give a process that is being started the limits that this one was started with."""
        resource.setrlimit(resource.RLIMIT_NOFILE, self._limit)

    def run(self) -> None:
        """Guard until the driver is gone; then end everything."""
        try:
            self._adopts = _become_subreaper()
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
            elif isinstance(key.data, Template):
                key.data.hear()
            elif key.data not in self.runners.values():
                continue  # dismissed a moment ago
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
            if message["op"] == "kind":
                self._meet(message.pop("key"), message)
            elif message["op"] == "forget":
                self._forget(message["key"])
            elif message["op"] == "boot":
                for name, environment in message["runners"].items():
                    self._boot(name, message["kind"], environment, message["orders"])
            elif message["op"] == "end":
                self._end(message["name"], message["grace"])
        # Not one by one: a wave is what has been asked for at once.
        for template in self.templates.values():
            template.fork()
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

    # Templates

    def _meet(self, key: str, kind: dict[str, Any]) -> None:
        """Runners of this kind will be asked for: have a template by then."""
        fork = kind["fork"] and self._adopts
        self.kinds[key] = Kind(kind["env"], kind["preload"], kind["path"], fork)
        template = self._template(key)
        if template is not None:
            template.leaving = False

    def _template(self, key: str) -> Template | None:
        kind = self.kinds.get(key)
        if kind is not None and kind.fork and key not in self.templates:
            try:
                template = Template(self, key, kind)
            except (OSError, ValueError):
                return None  # nor can runners be started; they say why
            self.templates[key] = template
            self._selector.register(template.connection, selectors.EVENT_READ, template)
        return self.templates.get(key)

    def _forget(self, key: str) -> None:
        """No runners of this kind will be asked for."""
        self.kinds.pop(key, None)
        if (template := self.templates.get(key)) is not None:
            template.leave()

    def replace(self, template: Template) -> None:
        """Fork from a new template instead, when there is something to fork."""
        template.close()
        del self.templates[template.key]
        for runner in template.waiting:
            self._fork(runner, template.key)

    def unfit(self, template: Template, module: str, why: str, *, failed: bool) -> None:
        """Start without a template: for good, or, where it has only failed, for this time."""
        template.close()
        template.strand()
        del self.templates[template.key]
        if not failed:
            template.kind.fork = False
            self._say(ev="unfit", module=module, why=why)
        for runner in template.waiting:
            self._start(runner)

    def unregister(self, what: int | socket.socket) -> None:
        """Listen to this no longer, if it was listened to."""
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(what)

    # Runners

    def _boot(self, name: str, kind: str, own: dict[str, str], common: dict[str, Any]) -> None:
        folder = os.path.join(self.scratch, name)
        # What calls put into temporary folders goes with their runner.
        environment = {"TMPDIR": folder, **own, MARK: f"{self.owner}/{name}"}
        orders = json.dumps({**common, "name": name, "directory": folder}).encode()
        if kind not in self.kinds:
            self._say(ev="refused", name=name, why="it is of a kind that is not known any more")
            return
        runner = self._admit(name, self.kinds[kind], environment, orders)
        if runner is not None:
            runner.boot_timeout = common["boot_timeout"]
            self._fork(runner, kind)

    def _admit(
        self, name: str, kind: Kind, environment: dict[str, str], orders: bytes
    ) -> Runner | None:
        """Make all that a runner needs, but its process."""
        try:
            os.makedirs(environment["TMPDIR"], exist_ok=True)
            runner = Runner(name, kind, environment, orders)
        except OSError as error:
            self._say(ev="refused", name=name, why=str(error))
            return None
        self.runners[name] = runner
        self._selector.register(runner.stdout, selectors.EVENT_READ, runner)
        self._tell(runner, orders)
        return runner

    def _fork(self, runner: Runner, key: str) -> None:
        fits = len(runner.env[MARK]) <= len(NO_MARK)
        template = self._template(key) if fits else None
        if template is None:
            self._start(runner)
        else:
            template.ask(runner)

    def _start(self, runner: Runner) -> None:
        """Start a runner as an interpreter of its own."""
        leash, output = runner.theirs
        try:
            process = subprocess.Popen(
                # By path: what the runner may import is in its orders.
                [sys.executable, "-P", runner_program.__file__, str(leash)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=(leash,),
                env={**runner.kind.env, **runner.env},
                start_new_session=True,
                preexec_fn=self.usual_limits,
            )
        except (OSError, ValueError) as error:
            self.refused(runner, str(error))
        else:
            self.booted(runner, process)

    def booted(self, runner: Runner, process: Process) -> None:
        """A runner has been started."""
        runner.process = process
        runner.let_go()
        self._say(ev="booted", name=runner.name, pid=process.pid)
        if runner.killed:
            self._kill(runner)

    def refused(self, runner: Runner, why: str) -> None:
        """A runner cannot be started."""
        self._dismiss(runner)
        self._say(ev="refused", name=runner.name, why=why)

    def stranded(self, runner: Runner) -> None:
        """A runner was to be forked, and nobody can say whether it was: see that it was not."""
        # If it was, it ends. It is gone when nobody has the other end of its output any more.
        runner.stranded = True
        runner.let_go()
        self._tell(runner, b"end")

    def _not_forked(self, runner: Runner) -> None:
        """Start a runner that was stranded."""
        self._dismiss(runner)
        if runner.killed:
            self._say(ev="ended", name=runner.name, code=-signal.SIGKILL, told=True, output="")
            return
        again = self._admit(runner.name, runner.kind, runner.env, runner.orders)
        if again is not None:
            again.kill_at = runner.kill_at
            self._start(again)
            if runner.kill_at is not None:
                self._tell(again, b"end")

    def _dismiss(self, runner: Runner) -> None:
        """Let go of all that belongs to a runner."""
        del self.runners[runner.name]
        runner.let_go()
        for descriptor in (runner.stdout, runner.leash):
            self.unregister(descriptor)
            os.close(descriptor)
        shutil.rmtree(os.path.join(self.scratch, runner.name), ignore_errors=True)

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
            self.unregister(runner.leash)

    def _end(self, name: str, grace: float) -> None:
        runner = self.runners.get(name)
        if runner is None or (runner.process is not None and runner.process.poll() is not None):
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
            self.unregister(runner.stdout)
            if runner.stranded:
                self._not_forked(runner)
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
            if runner.process is not None and runner.process.poll() is not None:
                self._ended(runner, runner.process.pid, runner.process.returncode)
        self._reap_orphans()

    def _reap_orphans(self) -> None:
        """Take leave of dead processes that became ours because their parents are dead."""
        if not self._adopts:
            return
        with contextlib.suppress(ChildProcessError):
            while dead := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                if dead.si_pid not in self._processes():
                    # A runner of which its template has told before it became ours, perhaps.
                    for template in list(self.templates.values()):
                        template.hear()
                if dead.si_pid in self._processes():
                    return  # has just died: the next turn takes it
                os.waitpid(dead.si_pid, 0)

    def _processes(self) -> set[int]:
        runners = {r.process.pid for r in self.runners.values() if r.process is not None}
        return runners | {t.process.pid for t in self.templates.values()}

    def _of_templates(self) -> set[int]:
        """The templates, and what modules have started that are being imported there."""
        templates = {t.process.pid for t in self.templates.values()}
        return templates.union(*(below(pid) for pid in templates))

    def _ended(self, runner: Runner, pid: int, code: int | None) -> None:
        kill_group(pid)
        kill_marked(f"{self.owner}/{runner.name}", within_reach())
        if len(self.runners) == 1:
            # Orphans that hid their mark may be any runner's; now there is none left to be.
            kill(set(below(os.getpid())) - self._of_templates())
        while self._read(runner):
            pass
        self._dismiss(runner)
        told = runner.killed and code == -signal.SIGKILL
        self._say(ev="ended", name=runner.name, code=code, told=told, output=runner.tail())

    def _kill(self, runner: Runner) -> None:
        runner.killed = True
        if runner.process is None:
            self._kill_unborn(runner)
            return
        # The tree first: once its root is dead, nobody can tell what was below it.
        tree = below(runner.process.pid)
        kill_group(runner.process.pid)
        # By itself too: it may have been forked so lately that it leads no group yet.
        kill([runner.process.pid, *tree])

    def _kill_unborn(self, runner: Runner) -> None:
        late = time.monotonic() > runner.asked + _SLOW * runner.boot_timeout
        for template in list(self.templates.values()):
            if runner in template.waiting:
                template.waiting.remove(runner)
                self._dismiss(runner)
                code = -signal.SIGKILL
                self._say(ev="ended", name=runner.name, code=code, told=True, output="")
            elif runner not in template.wave.values():
                continue
            if late:
                # What has held it up would hold up the next one too. Its end will be heard of.
                template.process.kill()
            elif template.leaving:
                template.leave()
        # Else it is being forked, and is killed when that is told.

    def _end_all(self) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for template in self.templates.values():
            template.close()
        if self._adopts:
            # Whatever a runner has started is below this process, or will be when it is orphaned.
            with contextlib.suppress(ChildProcessError):
                while True:
                    kill(below(os.getpid()))
                    os.waitpid(-1, 0)
                    while os.waitpid(-1, os.WNOHANG)[0]:
                        pass
        for runner in self.runners.values():
            if runner.process is not None and not self._adopts:
                self._kill(runner)
                while runner.process.poll() is None:
                    os.waitpid(runner.process.pid, 0)
        if not self._adopts:
            kill_marked(f"{self.owner}/", everywhere())
        shutil.rmtree(self.scratch, ignore_errors=True)


def _become_subreaper() -> bool:
    """Have the kernel hand orphans to this process; whether it does."""
    if sys.platform != "linux":
        return False
    import ctypes

    return bool(ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


def main() -> None:
    """``guard/__main__.py FD OWNER PARENT``."""
    descriptor, owner, parent = sys.argv[1:]
    Guard(socket.socket(fileno=int(descriptor)), owner, int(parent)).run()


if __name__ == "__main__":
    main()
