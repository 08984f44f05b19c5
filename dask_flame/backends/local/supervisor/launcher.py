"""Start local runners (supervisor).

On Linux, runners are forked from templates, see
:mod:`dask_flame.backends.local.supervisor.templates`; elsewhere, and as a fallback, each is started
as an interpreter.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import secrets
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import dask_flame.runner.__main__ as runner_program
from dask_flame.backends.local.supervisor.runners import Process, Runner, RunnerKind
from dask_flame.backends.local.supervisor.templates import Seed, Template
from dask_flame.backends.runner_events import STOPPED
from dask_flame.core.processes import MARK, NO_MARK

if TYPE_CHECKING:
    from dask_flame.backends.local.supervisor.supervisor import Supervisor


class Launcher:
    """The kinds of runners, their templates, and the start of each runner.

    Parameters
    ----------
    supervisor : Supervisor
    files : int
        Limit of open files for runners and their children; 0: the limit of this process.

    Attributes
    ----------
    seed : (socket.socket, Process, int) or None
        A template that has already been forked, for the first kind that the driver announces.
    """

    def __init__(self, supervisor: Supervisor, files: int) -> None:
        self.supervisor = supervisor
        self.kinds: dict[str, RunnerKind] = {}
        self.templates: dict[str, Template] = {}
        self.seed: Seed | None = None
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._limit = (files or soft, hard)
        # Each runner needs two descriptors here, and four while it waits.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    def boot(self, name: str, kind: str, variables: dict[str, str], common: dict[str, Any]) -> None:
        """Start a runner.

        Parameters
        ----------
        name : str
        kind : str
            Key of its kind.
        variables : dict of str to str
            Environment variables in addition to those of its kind.
        common : dict
            The launch configuration of its kind.
        """
        supervisor = self.supervisor
        folder = os.path.join(supervisor.scratch, name)
        # Temporary files of calls are removed with their runner.
        environment = {"TMPDIR": folder, **variables, MARK: f"{supervisor.owner}/{name}"}
        # A hidden file, to be ignored by code that looks for a runner's left-over folders.
        word, whose = secrets.token_hex(6), os.path.join(supervisor.scratch, f".whose-{name}")
        limits = common.get("prints")
        prints = limits and {"word": word, "whose": whose, "limits": limits}
        own = {"name": name, "directory": folder, "prints": prints, "drivers": supervisor.folder}
        launch_config = json.dumps({**common, **own}).encode()
        if supervisor.stopped:
            supervisor.send(ev="refused", name=name, why=STOPPED)
            return
        if kind not in self.kinds:
            why = "it is of a kind that is not known any more"
            supervisor.send(ev="refused", name=name, why=why)
            return
        marks = {"word": word, "whose": whose} if prints else {}
        runner = supervisor.admit(name, self.kinds[kind], environment, launch_config, marks)
        if runner is not None:
            runner.boot_timeout = common["boot_timeout"]
            runner.memory = common["limit"] or 0
            self._fork(runner, kind)

    def start_wave(self) -> None:
        """Fork all runners that wait for an idle template."""
        for template in self.templates.values():
            template.fork()

    def usual_limits(self) -> None:
        """Restore the original limits in a process that is being started."""
        resource.setrlimit(resource.RLIMIT_NOFILE, self._limit)

    def _fork(self, runner: Runner, key: str) -> None:
        fits = len(runner.env[MARK]) <= len(NO_MARK)
        template = self._template(key) if fits else None
        if template is None:
            self._start(runner)
        else:
            template.ask(runner)

    def _start(self, runner: Runner) -> None:
        """Start a runner as an interpreter."""
        leash, output = runner.child_ends
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
        self.supervisor.send(ev="booted", name=runner.name, pid=process.pid)
        if runner.killed:
            self.supervisor.endings.kill(runner)

    def refused(self, runner: Runner, why: str) -> None:
        """Report that a runner cannot be started."""
        self.supervisor.dismiss(runner)
        self.supervisor.send(ev="refused", name=runner.name, why=why)

    def stranded(self, runner: Runner) -> None:
        """Handle a runner that may or may not have been forked: make sure that it ends."""
        # If it was forked, it ends; this is noticed when its end of the output closes.
        runner.stranded = True
        runner.let_go()
        self.supervisor.send_to_runner(runner, b"end")

    def not_forked(self, runner: Runner) -> None:
        """Start a runner that was stranded."""
        supervisor = self.supervisor
        supervisor.dismiss(runner)
        if runner.killed:
            end = {"code": -signal.SIGKILL, "forced": True, "used": [0, 0], "output": ""}
            supervisor.send(ev="ended", name=runner.name, **end)
            return
        marks = {"word": runner.word, "whose": runner.whose}
        again = supervisor.admit(runner.name, runner.kind, runner.env, runner.launch_config, marks)
        if again is not None:
            again.kill_at, again.memory = runner.kill_at, runner.memory
            self._start(again)
            if runner.kill_at is not None:
                supervisor.send_to_runner(again, b"end")

    # Templates

    def add_kind(self, key: str, kind: dict[str, Any]) -> None:
        """Prepare a template for runners of this kind."""
        if self.supervisor.stopped:
            return
        fork = kind["fork"] and self.supervisor.is_subreaper
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
                template = Template(self.supervisor, self, key, kind, seed)
            except (OSError, ValueError):
                return None  # runners cannot be started either, and report why
            self.templates[key] = template
            self.supervisor.register(template.connection, template)
            prints = template.prints
            self.supervisor.register(prints.descriptor, prints)
        return self.templates.get(key)

    def drop_seed(self) -> None:
        """End a template that was forked for a kind that is not forked, or never announced."""
        if self.seed is not None:
            connection, process, output = self.seed
            self.seed = None
            connection.close()
            os.close(output)
            process.kill()
            process.wait()

    def drop_kind(self, key: str) -> None:
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
            self.supervisor.send(ev="unfit", key=template.key, module=module, why=why)
        for runner in template.waiting:
            self._start(runner)
