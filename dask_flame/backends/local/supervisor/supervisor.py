"""Supervise a cluster's local runners: start them, and outlive the driver to end them.

The supervisor is a separate process, in its own session, with one thread. It starts runners on the
driver's request, and reports their output and their ends. When its connection to the driver closes,
or its parent process changes, the driver is gone, for whatever reason; the supervisor then kills
every runner with all processes that came from it, removes the scratch folder, and exits. If the
supervisor itself is killed, its surviving runners do this: see
:mod:`dask_flame.runner.last_survivor`.

See :mod:`dask_flame.core.processes` for how the processes of a runner are found. On Linux the
supervisor is their subreaper, so that orphans become its children.

On Linux, runners are forked from templates, see
:mod:`dask_flame.backends.local.supervisor.templates`; elsewhere, and as a fallback, each is started
as an interpreter.

Lines of JSON go both ways. From the driver: ``kind``, ``forget``, ``boot``, ``end``. To the driver:
``hello``, ``importing``, ``unfit``, ``booted``, ``refused``, ``output``, ``stopped``, ``ended``.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import secrets
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from typing import Any

import dask_flame.runner.__main__ as runner_program
from dask_flame.backends.local.supervisor.control_signals import STOPPED, ControlSignals
from dask_flame.backends.local.supervisor.endings import Endings, adopt_orphans
from dask_flame.backends.local.supervisor.memory_limit import MemoryLimit
from dask_flame.backends.local.supervisor.runners import MOST_KEPT, Process, Runner, RunnerKind
from dask_flame.backends.local.supervisor.templates import Seed, Template, TemplateOutput
from dask_flame.core.folder_locks import remove_when_released, supervise
from dask_flame.core.processes import MARK, NO_MARK
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
    heard : bytes
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
    seed : (socket.socket, Process, int) or None
        A template that has already been forked, for the first kind in `heard`.
    is_subreaper : bool
        Whether the kernel hands orphans to this process.
    """

    def __init__(
        self,
        connection: socket.socket,
        owner: str,
        parent: int,
        heard: bytes = b"",
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
        self.kinds: dict[str, RunnerKind] = {}
        self.templates: dict[str, Template] = {}
        self.endings = Endings(self)
        self.memory = MemoryLimit()
        self.is_subreaper = False
        self.seed: Seed | None = None
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._limit = (files or soft, hard)
        # Each runner needs two descriptors here, and four while it waits.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        cluster = owner.partition("/")[0]
        self.scratch = tempfile.mkdtemp(prefix=f"dask-flame-{cluster}-", dir=place or None)
        self.control = ControlSignals(self.scratch)
        self.stopped = False
        self._kept_only: dict[str, bytes] = {}  # by runner, output that is kept but not shown
        self._tell_kept_at = 0.0
        self._buffer = heard
        self._out = bytearray()
        self._selector = selectors.DefaultSelector()

    def usual_limits(self) -> None:
        """Restore the original limits in a process that is being started."""
        resource.setrlimit(resource.RLIMIT_NOFILE, self._limit)

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
            self.say(ev="hello", scratch=self.scratch)
            self._take_in(b"")
            self._drop_seed()
            while os.getppid() == self.parent and self._turn(wake_r):
                pass
        finally:
            self._drop_seed()
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
                if events & selectors.EVENT_WRITE and not self._write():
                    return False
                if events & selectors.EVENT_READ and not self._hear():
                    return False
            elif isinstance(key.data, Template | TemplateOutput):
                key.data.hear()
            elif key.data not in self.runners.values():
                continue  # dismissed earlier in this turn
            elif events & selectors.EVENT_WRITE:
                self._pass_on(key.data)
            else:
                self._read(key.data)
        self.endings.look()
        for runner, used in self.memory.look(self.runners.values()):
            runner.used = used
            self.endings.kill(runner)
        if self._kept_only and time.monotonic() > self._tell_kept_at:
            self._tell_kept_at = time.monotonic() + _LOOK_FOR_PARENT
            for name in list(self._kept_only):
                self._tell_kept(name)
        if self.control.asked_for_output:
            self.control.tell({name: runner.tail() for name, runner in self.runners.items()})
        if self.control.asked_to_stop:
            self._stop()
        return True

    def _patience(self) -> float:
        now = time.monotonic()
        due = [now + _LOOK_FOR_PARENT, *self.endings.due()]
        if self.memory.watches:
            due.append(self.memory.due)
        return max(0.0, min(due) - now)

    # The driver

    def _hear(self) -> bool:
        try:
            chunk = self.connection.recv(1 << 16)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if chunk:
            self._take_in(chunk)
        return bool(chunk)

    def _take_in(self, chunk: bytes) -> None:
        *lines, self._buffer = (self._buffer + chunk).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if message["op"] == "kind":
                self._add_kind(message.pop("key"), message)
            elif message["op"] == "forget":
                self._drop_kind(message["key"])
            elif message["op"] == "boot":
                for name, environment in message["runners"].items():
                    self._boot(name, message["kind"], environment, message["orders"])
            elif message["op"] == "end":
                self.endings.end(message["name"], message["grace"])
        # After all messages, so that everything requested at once is one wave.
        for template in self.templates.values():
            template.fork()

    def _stop(self) -> None:
        """End all runners, and start nothing any more; leave the driver's folder alone.

        The driver is notified first, so that it does not replace the lost runners.
        """
        self.control.asked_to_stop = False
        self.stopped = True
        self.say(ev="stopped")
        for name in list(self.runners):
            self.endings.end(name, 0)
        for key in list(self.kinds):
            self._drop_kind(key)
        self.control.note_stop()

    def say(self, **message: Any) -> None:
        """Queue a message to the driver."""
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

    def _add_kind(self, key: str, kind: dict[str, Any]) -> None:
        """Prepare a template for runners of this kind."""
        if self.stopped:
            return
        fork = kind["fork"] and self.is_subreaper
        self.kinds[key] = RunnerKind(
            kind["env"],
            kind["preload"],
            kind["path"],
            fork,
            kind["flags"],
            kind["cwd"],
            kind.get("packages", {}),
        )
        template = self._template(key)
        if template is not None:
            template.leaving = False

    def _template(self, key: str) -> Template | None:
        kind = self.kinds.get(key)
        if kind is not None and kind.fork and key not in self.templates:
            seed, self.seed = self.seed, None
            try:
                template = Template(self, key, kind, seed)
            except (OSError, ValueError):
                return None  # runners cannot be started either, and report why
            self.templates[key] = template
            self._selector.register(template.connection, selectors.EVENT_READ, template)
            prints = template.prints
            self._selector.register(prints.descriptor, selectors.EVENT_READ, prints)
        return self.templates.get(key)

    def _drop_seed(self) -> None:
        """End a template that was forked for a kind that is not forked, or never announced."""
        if self.seed is not None:
            connection, process, output = self.seed
            self.seed = None
            connection.close()
            os.close(output)
            process.kill()
            process.wait()

    def _drop_kind(self, key: str) -> None:
        """Drop a kind; no more runners of it will be requested."""
        self.kinds.pop(key, None)
        if (template := self.templates.get(key)) is not None:
            template.leave()

    def replace(self, template: Template) -> None:
        """Drop a template; start a new one if runners wait for it."""
        template.close()
        del self.templates[template.key]
        for runner in template.waiting:
            self._fork(runner, template.key)

    def unfit(self, template: Template, module: str, why: str, *, failed: bool) -> None:
        """Start runners without a template: from now on, or if it only failed, this time.

        Parameters
        ----------
        template : Template
        module : str
            The module that makes it unfit.
        why : str
        failed : bool
            Whether it only failed this time.
        """
        template.close()
        template.strand()
        del self.templates[template.key]
        if not failed:
            template.kind.fork = False
            self.say(ev="unfit", key=template.key, module=module, why=why)
        for runner in template.waiting:
            self._start(runner)

    def unregister(self, what: int | socket.socket) -> None:
        """Stop listening to this descriptor, if it was registered."""
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(what)

    # Runners

    def _boot(
        self, name: str, kind: str, variables: dict[str, str], common: dict[str, Any]
    ) -> None:
        folder = os.path.join(self.scratch, name)
        # Temporary files of calls are removed with their runner.
        environment = {"TMPDIR": folder, **variables, MARK: f"{self.owner}/{name}"}
        # A hidden file, to be ignored by code that looks for a runner's left-over folders.
        word, whose = secrets.token_hex(6), os.path.join(self.scratch, f".whose-{name}")
        limits = common.get("prints")
        prints = limits and {"word": word, "whose": whose, "limits": limits}
        own = {"name": name, "directory": folder, "prints": prints, "drivers": self.folder}
        orders = json.dumps({**common, **own}).encode()
        if self.stopped:
            self.say(ev="refused", name=name, why=STOPPED)
            return
        if kind not in self.kinds:
            self.say(ev="refused", name=name, why="it is of a kind that is not known any more")
            return
        marks = {"word": word, "whose": whose} if prints else {}
        runner = self._admit(name, self.kinds[kind], environment, orders, marks)
        if runner is not None:
            runner.boot_timeout = common["boot_timeout"]
            runner.memory = common["limit"] or 0
            self._fork(runner, kind)

    def _admit(
        self,
        name: str,
        kind: RunnerKind,
        environment: dict[str, str],
        orders: bytes,
        marks: dict[str, str],
    ) -> Runner | None:
        """Create everything that a runner needs, except its process."""
        try:
            os.makedirs(environment["TMPDIR"], exist_ok=True)
            runner = Runner(name, kind, environment, orders, **marks)
        except OSError as error:
            self.say(ev="refused", name=name, why=str(error))
            return None
        self.runners[name] = runner
        self._selector.register(runner.stdout, selectors.EVENT_READ, runner)
        self.tell(runner, orders)
        return runner

    def _fork(self, runner: Runner, key: str) -> None:
        fits = len(runner.env[MARK]) <= len(NO_MARK)
        template = self._template(key) if fits else None
        if template is None:
            self._start(runner)
        else:
            template.ask(runner)

    def _start(self, runner: Runner) -> None:
        """Start a runner as an interpreter."""
        leash, output = runner.theirs
        try:
            process = subprocess.Popen(
                # By path: the import path of the runner is in its launch configuration.
                [sys.executable, "-P", *runner.kind.flags, runner_program.__file__, str(leash)],
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
        """Record that a runner has been started."""
        runner.process = process
        runner.let_go()
        self.say(ev="booted", name=runner.name, pid=process.pid)
        if runner.killed:
            self.endings.kill(runner)

    def refused(self, runner: Runner, why: str) -> None:
        """Report that a runner cannot be started."""
        self._dismiss(runner)
        self.say(ev="refused", name=runner.name, why=why)

    def stranded(self, runner: Runner) -> None:
        """Handle a runner that may or may not have been forked: make sure that it ends."""
        # If it was forked, it ends; this is noticed when its end of the output closes.
        runner.stranded = True
        runner.let_go()
        self.tell(runner, b"end")

    def _not_forked(self, runner: Runner) -> None:
        """Start a runner that was stranded."""
        self._dismiss(runner)
        if runner.killed:
            code = -signal.SIGKILL
            self.say(ev="ended", name=runner.name, code=code, forced=True, used=[0, 0], output="")
            return
        marks = {"word": runner.word, "whose": runner.whose}
        again = self._admit(runner.name, runner.kind, runner.env, runner.orders, marks)
        if again is not None:
            again.kill_at, again.memory = runner.kill_at, runner.memory
            self._start(again)
            if runner.kill_at is not None:
                self.tell(again, b"end")

    def ended(self, runner: Runner, code: int | None, *, forced: bool) -> None:
        """Report the end of a runner, and whether it was killed on request.

        Parameters
        ----------
        runner : Runner
        code : int or None
            Exit code; negative for a signal.
        forced : bool
        """
        while self._read(runner):
            pass
        self._tell_pieces(runner, runner.take_apart(b"", runner.owner()))
        self._tell_kept(runner.name)
        self._dismiss(runner)
        used = [runner.used, runner.memory]
        self.say(
            ev="ended", name=runner.name, code=code, forced=forced, used=used, output=runner.tail()
        )

    def _dismiss(self, runner: Runner) -> None:
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

    def tell(self, runner: Runner, line: bytes) -> None:
        """Queue a line for a runner's leash."""
        if not runner.words:
            self._selector.register(runner.leash, selectors.EVENT_WRITE, runner)
        runner.words += line + b"\n"

    def _pass_on(self, runner: Runner) -> None:
        """Write as much of the queued lines as the pipe takes."""
        try:
            runner.words = runner.words[os.write(runner.leash, runner.words) :]
        except BlockingIOError:
            return
        except OSError:
            runner.words = b""  # the runner is dead
        if not runner.words:
            self.unregister(runner.leash)

    def _read(self, runner: Runner) -> bool:
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
                self._not_forked(runner)
            return False
        self._tell_pieces(runner, runner.take_apart(chunk, owner))
        return True

    def _tell_pieces(self, runner: Runner, pieces: list[Piece]) -> None:
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
            self._tell_kept(name)
            last, text = piece, text + piece.text
        if last is not None:
            self.printed(name, text, last)

    def _tell_kept(self, name: str) -> None:
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
            self.say(ev="output", name=name, text=what.decode(errors="replace"), **whose)
