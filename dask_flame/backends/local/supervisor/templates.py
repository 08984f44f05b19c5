"""The supervisor's side of the templates that runners are forked from (supervisor).

See :mod:`dask_flame.backends.local.fork_server` for the template process and its messages.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import socket
import subprocess
import sys
from typing import Any, Protocol

import dask_flame.backends.local.fork_server as program
from dask_flame.backends.local.fork_server import LONGEST, MOST_AT_ONCE
from dask_flame.backends.local.supervisor.runners import Forked, Process, Runner, RunnerKind
from dask_flame.core.processes import MARK, NO_MARK, PRELOAD, below, kill, kill_group

#: A template that has been forked and knows its kind: connection, process, output.
Seed = tuple[socket.socket, Process, int]

_KEPT_OUTPUT = 16_000


class SupervisorLoop(Protocol):
    """What a template uses of the supervisor."""

    def send(self, **message: Any) -> None: ...
    def printed(self, name: str, what: bytes) -> None: ...
    def unregister(self, what: int | socket.socket) -> None: ...


class TemplateUser(Protocol):
    """What a template reports to: the launcher of the runners that it forks."""

    def booted(self, runner: Runner, process: Process) -> None: ...
    def refused(self, runner: Runner, why: str) -> None: ...
    def stranded(self, runner: Runner) -> None: ...
    def replace(self, template: Template) -> None: ...
    def unfit(self, template: Template, module: str, why: str, *, failed: bool) -> None: ...
    def usual_limits(self) -> None: ...


class TemplateOutput:
    """The output of a template during its imports.

    When the template is ready, it is sent once, on behalf of all its runners. Until then it is
    kept: if the template is unfit, each runner imports, and prints, by itself.

    Parameters
    ----------
    supervisor : SupervisorLoop
    descriptor : int
        The pipe to read from.
    """

    def __init__(self, supervisor: SupervisorLoop, descriptor: int) -> None:
        self.supervisor = supervisor
        self.descriptor = descriptor
        self._kept: bytes | None = b""
        self._closed = False
        os.set_blocking(descriptor, False)

    def read(self) -> None:
        """Read the output available now."""
        if self._closed:
            return  # closed by a message of its template in the same turn
        try:
            while chunk := os.read(self.descriptor, 1 << 16):
                if self._kept is None:
                    self.supervisor.printed(PRELOAD, chunk)
                else:
                    self._kept = (self._kept + chunk)[-_KEPT_OUTPUT:]
            self.supervisor.unregister(self.descriptor)  # the template is dead
        except BlockingIOError:
            pass

    def forward(self) -> None:
        """Send the kept output, and all later output."""
        self.read()
        kept, self._kept = self._kept, None
        if kept:
            self.supervisor.printed(PRELOAD, kept)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self.supervisor.unregister(self.descriptor)
            os.close(self.descriptor)


class Template:
    """A process that runners of one kind are forked from, and the runners that wait for it.

    Parameters
    ----------
    supervisor : SupervisorLoop
    launcher : TemplateUser
    key : str
        Key of the kind.
    kind : RunnerKind
    seed : (socket.socket, Process, int) or None
        A template that has already been forked, to be used instead of a new one.

    Raises
    ------
    OSError, ValueError
        If no process can be started.
    """

    def __init__(
        self,
        supervisor: SupervisorLoop,
        launcher: TemplateUser,
        key: str,
        kind: RunnerKind,
        seed: Seed | None = None,
    ) -> None:
        self.supervisor = supervisor
        self.launcher = launcher
        self.key = key
        self.kind = kind
        self.waiting: collections.deque[Runner] = collections.deque()
        self.wave: dict[str, Runner] = {}
        self.ready = False
        self.busy = False
        self.leaving = False
        self.over = False
        self.connection, self.process, output = seed or self._start()
        self.connection.setblocking(False)
        self.prints = TemplateOutput(supervisor, output)
        if seed is None:
            imports = {"preload": kind.preload, "path": kind.path, "cwd": kind.cwd}
            self._send({**imports, "packages": kind.packages})

    def _start(self) -> Seed:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            read, write = os.pipe()
        except OSError:
            ours.close()
            theirs.close()
            raise
        words = [program.__file__, str(theirs.fileno()), str(os.getpid())]
        try:
            process = subprocess.Popen(
                # By path: the import path is in the next message.
                [sys.executable, "-P", *self.kind.flags, *words],
                stdin=subprocess.DEVNULL,
                stdout=write,
                stderr=write,
                pass_fds=(theirs.fileno(),),
                env={**self.kind.env, MARK: NO_MARK},
                start_new_session=True,
                preexec_fn=self.launcher.usual_limits,
            )
        except BaseException:
            ours.close()
            os.close(read)
            raise
        finally:
            theirs.close()
            os.close(write)
        return ours, process, read

    def ask(self, runner: Runner) -> None:
        """Add a runner to the next wave."""
        self.waiting.append(runner)

    def fork(self) -> None:
        """Fork a wave of the waiting runners, if the template is ready and idle."""
        if self.ready and not self.busy and self.waiting:
            self._wave()

    def leave(self) -> None:
        """End the template once all requested runners are forked."""
        self.leaving = True
        if not self.busy and not self.waiting:
            self.launcher.unfit(self, "", "", failed=True)

    def strand(self) -> None:
        """Hand over the requested runners about which the template has not reported."""
        for runner in self.wave.values():
            self.launcher.stranded(runner)
        self.wave.clear()

    def read(self) -> None:
        """Handle the messages available now."""
        while not self.over:
            try:
                words = self.connection.recv(LONGEST)
            except BlockingIOError:
                return
            except OSError:
                words = b""
            if not words:
                self._lost()
                return
            self._handle_message(json.loads(words))

    def close(self) -> None:
        """End the template; runners forked from it live on."""
        self.over = True
        self.supervisor.unregister(self.connection)
        self.connection.close()
        self.prints.close()
        if not self.ready:
            self.supervisor.send(ev="importing", key=self.key, module="")
        # During the imports, its descendants are not runners, but processes started by a module.
        tree = [] if self.ready else below(self.process.pid)
        if not self.ready:
            kill_group(self.process.pid)
        with contextlib.suppress(OSError):
            self.process.kill()
        self.process.wait()
        kill(tree)

    def _handle_message(self, message: dict[str, Any]) -> None:
        event = message["ev"]
        if event == "importing":
            self.supervisor.send(ev="importing", key=self.key, module=message["module"])
        elif event == "ready":
            self.ready = True
            self.prints.forward()
            self.supervisor.send(ev="importing", key=self.key, module="")
            self.fork()
        elif event == "forked":
            self.launcher.booted(self.wave.pop(message["name"]), Forked(message["pid"]))
        elif event == "refused":
            self.launcher.refused(self.wave.pop(message["name"]), message["why"])
        elif event == "done":
            self.strand()
            self.busy = False
            self.fork()
            if self.leaving:
                self.leave()
        elif event == "stale":
            self.waiting.extendleft(reversed(self.wave.values()))
            self.wave.clear()
            self.launcher.replace(self)
        elif event == "unfit":
            self.launcher.unfit(self, message["module"], message["why"], failed=message["failed"])

    def _lost(self) -> None:
        self.strand()
        if self.ready:
            self.launcher.replace(self)
        else:
            self.launcher.unfit(self, "", "ended while it was imported", failed=True)

    def _wave(self) -> None:
        self.busy = True
        requests: list[dict[str, Any]] = []
        descriptors: list[int] = []
        size = 0
        while self.waiting and len(self.wave) < MOST_AT_ONCE:
            runner = self.waiting[0]
            request = {"name": runner.name, "env": runner.env}
            size += len(json.dumps(request)) + 2
            if requests and size > LONGEST - 2:
                break
            self.wave[runner.name] = self.waiting.popleft()
            requests.append(request)
            descriptors += runner.child_ends
        self._send(requests, descriptors)

    def _send(self, message: Any, descriptors: list[int] | None = None) -> None:
        # The template is listening and has read everything before, so the buffer has room. If it
        # has not, or the kernel passes no more descriptors, end it; the next read notices.
        try:
            socket.send_fds(self.connection, [json.dumps(message).encode()], descriptors or [])
        except OSError:
            self.process.kill()
