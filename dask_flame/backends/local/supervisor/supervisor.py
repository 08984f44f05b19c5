"""Supervise a cluster's local runners: start them, and outlive the driver to end them.

The supervisor is a separate process, in its own session, with one thread. It starts runners on the
driver's request, and reports their output and their ends. When its connection to the driver closes,
or its parent process changes, the driver is gone, for whatever reason; the supervisor then kills
every runner with all processes that came from it, removes the scratch folder, and exits. If the
supervisor itself is killed, its surviving runners do this: see
:mod:`dask_flame.runner.last_survivor`.

See :mod:`dask_flame.core.processes` for how the processes of a runner are found. On Linux the
supervisor is their subreaper, so that orphans become its children.

See :mod:`dask_flame.backends.local.supervisor.launcher` for how runners start, and
:mod:`dask_flame.backends.local.supervisor.endings` for how they end.

Lines of JSON go both ways. From the driver: ``kind``, ``forget``, ``boot``, ``end``. To the driver:
``hello``, ``importing``, ``unfit``, ``booted``, ``refused``, ``output``, ``stopped``, ``ended``.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import signal
import socket
import sys
import time
from typing import Any

from dask_flame.backends.local.supervisor.control_signals import ControlSignals
from dask_flame.backends.local.supervisor.endings import Endings, adopt_orphans
from dask_flame.backends.local.supervisor.launcher import Launcher
from dask_flame.backends.local.supervisor.memory_limit import MemoryLimit
from dask_flame.backends.local.supervisor.runners import MOST_KEPT, Runner, RunnerKind
from dask_flame.backends.local.supervisor.templates import Template, TemplateOutput
from dask_flame.core.folder_locks import remove_when_released, supervise
from dask_flame.core.own_folders import make_own, make_temporary
from dask_flame.prints.frames import KEEP, Piece

_LOOK_FOR_PARENT = 0.5
#: Seconds after its end within which the kernel releases a process's locks.
_LET_GO_WITHIN = 2.0
#: Maximum number of bytes queued for the driver; beyond it, output is kept but not sent.
_MOST_UNREAD = 4_000_000


class Supervisor:
    """The main loop: messages from the driver, output of runners, ends of runners.

    Parameters
    ----------
    connection : socket.socket
        Connection to the driver.
    owner : str
        Prefix of the marks of the cluster's runners.
    parent : int
        Process id of the driver.
    received : bytes
        Bytes already received from the driver.
    place : str
        Where to create the scratch folder; empty: the default place for temporary files.
    folder : str
        A folder of the driver, to be removed when the driver is gone; empty: none.
    files : int
        Limit of open files for runners and their children: the driver's, before the driver raised
        its own. 0: the limit of this process.

    Attributes
    ----------
    is_subreaper : bool
        Whether the kernel hands orphans to this process.
    """

    def __init__(
        self,
        connection: socket.socket,
        owner: str,
        parent: int,
        received: bytes = b"",
        *,
        place: str = "",
        folder: str = "",
        files: int = 0,
    ) -> None:
        self.connection = connection
        self.owner = owner
        self.parent = parent
        self.folder = folder
        self.runners: dict[str, Runner] = {}
        self.launcher = Launcher(self, files)
        self.endings = Endings(self)
        self.memory = MemoryLimit()
        self.is_subreaper = False
        cluster = owner.partition("/")[0]
        self.scratch = make_temporary(f"dask-flame-{cluster}-", place)
        self.control = ControlSignals(self.scratch)
        self.stopped = False
        self._kept_only: dict[str, bytes] = {}  # by runner, output that is kept but not shown
        self._forward_kept_at = 0.0
        self._buffer = received
        self._out = bytearray()
        self._selector = selectors.DefaultSelector()

    def run(self) -> None:
        """Run until the driver is gone; then end everything."""
        try:
            self.is_subreaper = adopt_orphans()
            wake_r, wake_w = os.pipe()
            os.set_blocking(wake_w, False)
            os.set_blocking(wake_r, False)
            signal.set_wakeup_fd(wake_w)
            signal.signal(signal.SIGCHLD, lambda *_: None)
            signal.signal(signal.SIGTERM, lambda *_: sys.exit())
            self.control.listen()
            if self.folder:
                with contextlib.suppress(OSError):  # the driver has just removed it
                    supervise(self.folder)
            self._selector.register(wake_r, selectors.EVENT_READ, "wake")
            self.connection.setblocking(False)
            self._selector.register(self.connection, selectors.EVENT_READ, "driver")
            self.send(ev="hello", scratch=self.scratch)
            self._handle_messages(b"")
            self.launcher.drop_seed()
            while os.getppid() == self.parent and self._turn(wake_r):
                pass
        finally:
            self.launcher.drop_seed()
            self.endings.end_all()
            shutil.rmtree(self.scratch, ignore_errors=True)
            if self.folder:
                # A living driver holds it. After a kill, the driver's connection closes a moment
                # before the kernel changes this process's parent, so the parent proves nothing.
                remove_when_released(self.folder, _LET_GO_WITHIN)

    def _turn(self, wake: int) -> bool:
        writing = selectors.EVENT_WRITE if self._out else 0
        self._selector.modify(self.connection, selectors.EVENT_READ | writing, "driver")
        for key, events in self._selector.select(self._patience()):
            if key.data == "wake":
                with contextlib.suppress(BlockingIOError):
                    os.read(wake, 4096)
            elif key.data == "driver":
                if events & selectors.EVENT_WRITE and not self._write_to_driver():
                    return False
                if events & selectors.EVENT_READ and not self._receive():
                    return False
            elif isinstance(key.data, Template | TemplateOutput):
                key.data.read()
            elif key.data not in self.runners.values():
                continue  # dismissed earlier in this turn
            elif events & selectors.EVENT_WRITE:
                self._write_to_runner(key.data)
            else:
                self._read_output(key.data)
        self.endings.look()
        for runner, used in self.memory.look(self.runners.values()):
            runner.used = used
            self.endings.kill(runner)
        if self._kept_only and time.monotonic() > self._forward_kept_at:
            self._forward_kept_at = time.monotonic() + _LOOK_FOR_PARENT
            for name in list(self._kept_only):
                self._forward_kept(name)
        if self.control.asked_for_output:
            self.control.write_output(
                {name: runner.tail() for name, runner in self.runners.items()}
            )
        if self.control.asked_to_stop:
            self._stop()
        return True

    def _patience(self) -> float:
        now = time.monotonic()
        due = [now + _LOOK_FOR_PARENT, *self.endings.due()]
        if self.memory.watches:
            due.append(self.memory.due)
        return max(0.0, min(due) - now)

    def register(self, what: int | socket.socket, reader: Template | TemplateOutput) -> None:
        """Call the ``read`` of this reader whenever there is something to read."""
        self._selector.register(what, selectors.EVENT_READ, reader)

    def unregister(self, what: int | socket.socket) -> None:
        """Stop listening to this descriptor, if it was registered."""
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(what)

    # The driver

    def _receive(self) -> bool:
        try:
            chunk = self.connection.recv(1 << 16)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if chunk:
            self._handle_messages(chunk)
        return bool(chunk)

    def _handle_messages(self, chunk: bytes) -> None:
        *lines, self._buffer = (self._buffer + chunk).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if message["op"] == "kind":
                self.launcher.add_kind(message.pop("key"), message)
            elif message["op"] == "forget":
                self.launcher.drop_kind(message["key"])
            elif message["op"] == "boot":
                for name, environment in message["runners"].items():
                    self.launcher.boot(name, message["kind"], environment, message["launch_config"])
            elif message["op"] == "end":
                self.endings.end(message["name"], message["grace"])
        # After all messages, so that everything requested at once is one wave.
        self.launcher.start_wave()

    def _stop(self) -> None:
        """End all runners, and start nothing any more; leave the driver's folder alone.

        The driver is notified first, so that it does not replace the lost runners.
        """
        self.control.asked_to_stop = False
        self.stopped = True
        self.send(ev="stopped")
        for name in list(self.runners):
            self.endings.end(name, 0)
        for key in list(self.launcher.kinds):
            self.launcher.drop_kind(key)
        self.control.note_stop()

    def send(self, **message: Any) -> None:
        """Queue a message to the driver."""
        self._out += json.dumps(message).encode() + b"\n"

    def _write_to_driver(self) -> bool:
        try:
            del self._out[: self.connection.send(self._out)]
        except BlockingIOError:
            pass
        except OSError:
            return False
        return True

    # Runners

    def admit(
        self,
        name: str,
        kind: RunnerKind,
        environment: dict[str, str],
        launch_config: bytes,
        marks: dict[str, str],
    ) -> Runner | None:
        """Create everything that a runner needs, except its process."""
        try:
            make_own(environment["TMPDIR"])
            runner = Runner(name, kind, environment, launch_config, **marks)
        except OSError as error:
            self.send(ev="refused", name=name, why=str(error))
            return None
        self.runners[name] = runner
        self._selector.register(runner.stdout, selectors.EVENT_READ, runner)
        self.send_to_runner(runner, launch_config)
        return runner

    def ended(self, runner: Runner, code: int | None, *, forced: bool) -> None:
        """Report the end of a runner, and whether it was killed on request.

        Parameters
        ----------
        runner : Runner
        code : int or None
            Exit code; negative for a signal.
        forced : bool
        """
        while self._read_output(runner):
            pass
        self._forward(runner, runner.take_apart(b"", runner.owner()))
        self._forward_kept(runner.name)
        self.dismiss(runner)
        used = [runner.used, runner.memory]
        self.send(
            ev="ended", name=runner.name, code=code, forced=forced, used=used, output=runner.tail()
        )

    def dismiss(self, runner: Runner) -> None:
        """Release all resources of a runner."""
        del self.runners[runner.name]
        self._kept_only.pop(runner.name, None)
        runner.let_go()
        runner.forget()
        self.memory.forget(runner)
        for descriptor in (runner.stdout, runner.leash):
            self.unregister(descriptor)
            os.close(descriptor)
        shutil.rmtree(os.path.join(self.scratch, runner.name), ignore_errors=True)

    def send_to_runner(self, runner: Runner, line: bytes) -> None:
        """Queue a line for a runner's leash."""
        if not runner.unsent:
            self._selector.register(runner.leash, selectors.EVENT_WRITE, runner)
        runner.unsent += line + b"\n"

    def _write_to_runner(self, runner: Runner) -> None:
        """Write as much of the queued lines as the pipe takes."""
        try:
            runner.unsent = runner.unsent[os.write(runner.leash, runner.unsent) :]
        except BlockingIOError:
            return
        except OSError:
            runner.unsent = b""  # the runner is dead
        if not runner.unsent:
            self.unregister(runner.leash)

    def _read_output(self, runner: Runner) -> bool:
        owner = runner.owner()  # before: see Unpacker.add
        try:
            chunk = os.read(runner.stdout, 1 << 16)
        except BlockingIOError:
            return False
        except OSError:
            chunk = b""
        if not chunk:
            self.unregister(runner.stdout)
            if runner.stranded:
                self.launcher.not_forked(runner)
            return False
        self._forward(runner, runner.take_apart(chunk, owner))
        return True

    def _forward(self, runner: Runner, pieces: list[Piece]) -> None:
        """Send output, with its owner, to the driver."""
        name, last = runner.name, None
        text = b""
        for piece in pieces:
            if piece.kind == KEEP:
                kept = self._kept_only.get(name, b"") + piece.text
                most = len(kept) > 4 * MOST_KEPT  # not at each piece
                self._kept_only[name] = kept[-MOST_KEPT:] if most else kept
                continue
            if last is not None and piece[:4] != last[:4]:
                self.printed(name, text, last)
                text = b""
            self._forward_kept(name)
            last, text = piece, text + piece.text
        if last is not None:
            self.printed(name, text, last)

    def _forward_kept(self, name: str) -> None:
        """Send output that is not shown; only its last part, as there may be a lot of it."""
        kept = self._kept_only.pop(name, b"")
        if kept:
            self.printed(name, kept[-MOST_KEPT:], Piece(KEEP, 0, 0, "", b""))

    def printed(self, name: str, what: bytes, piece: Piece | None = None) -> None:
        """Send output to the driver, unless the driver does not read.

        Parameters
        ----------
        name : str
        what : bytes
        piece : Piece, optional
            Kind and owner of the output.
        """
        if len(self._out) < _MOST_UNREAD:
            whose = {} if piece is None else {"piece": piece[:4]}
            self.send(ev="output", name=name, text=what.decode(errors="replace"), **whose)
