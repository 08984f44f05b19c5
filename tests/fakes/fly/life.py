"""The lives of machines of the fake Fly: states, delays, processes (test process)."""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import Callable, Coroutine
from typing import Any

from tests.fakes.fly.errors import precondition
from tests.fakes.fly.inside import Inside
from tests.fakes.fly.machine import AT_REST, GONE, Machine, version_id
from tests.fakes.fly.process import Host
from tests.fakes.fly.settings import Settings, seconds_of, signal_of


class Lives:
    """Moves machines from state to state, and runs their processes.

    Parameters
    ----------
    settings : Settings
    address : callable
        Of a machine's id, its address; None if there is no such machine.
    """

    def __init__(self, settings: Settings, address: Callable[[str], str | None]) -> None:
        self.settings = settings
        self.host = Host(self._began, self._exited)
        self.inside = Inside(settings, self.host, address)
        #: How many creates to come stay in the state "created".
        self.stuck = 0
        self.errors: list[BaseException] = []
        self._machines: dict[str, Machine] = {}
        self._kills: dict[str, asyncio.TimerHandle] = {}

    async def close(self) -> None:
        tasks = [m.task for m in self._machines.values() if m.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for kill in self._kills.values():
            kill.cancel()
        await self.host.close()

    # What a request asks for

    def launch(self, machine: Machine, *, start: bool = True) -> None:
        """Begin a new machine's life."""
        self._machines[machine.id] = machine
        machine.say("launch", "created", "user")
        if self.stuck > 0:
            self.stuck -= 1
            machine.stuck = asyncio.Event()
        if start:
            self._do(machine, self._launch(machine))

    def start(self, machine: Machine) -> str:
        """Start a machine; return the state before."""
        before = machine.state
        if before in ("started", "starting"):
            return before
        active = machine.id in self.host.pids or self.host.starting(machine.id)
        if before not in AT_REST or (active and before != "suspended"):
            raise precondition("machine still active, refusing to start")
        machine.restarts = 0
        machine.say("start", "starting", "user")
        self._do(machine, self._resume(machine) if before == "suspended" else self._boot(machine))
        return before

    def stop(self, machine: Machine, sig: str | None = None, timeout: object = None) -> None:
        """Stop a machine: a signal, and SIGKILL after the timeout."""
        if machine.state in ("stopped", "stopping", "failed"):
            return
        if machine.state in GONE:
            raise precondition(f"machine is {machine.state}")
        if machine.state == "created":
            machine.move("stopped")
            self._cancel(machine)
            return
        config = machine.config.get("stop_config") or {}
        number = signal_of(sig or config.get("signal"), signal.SIGINT)
        grace = seconds_of(timeout if timeout is not None else config.get("timeout"), 5.0)
        suspended = machine.state == "suspended"
        self._cancel(machine)
        machine.move("stopping")
        machine.say("stop", "stopping", "user")
        machine.requested_stop = True
        if machine.id not in self.host.pids:
            self._ended(machine, 0)
        elif suspended:
            # The snapshot is thrown away: nothing of it runs again.
            self.host.kill(machine.id)
        else:
            self.host.signal(machine.id, number)
            self._kill_later(machine, grace)

    def suspend(self, machine: Machine) -> None:
        if machine.state in ("suspended", "suspending"):
            return
        if machine.state != "started":
            raise precondition(f"unable to suspend machine, currently {machine.state}")
        swap = (machine.config.get("init") or {}).get("swap_size_mb")
        if machine.guest["memory_mb"] > 2048 or swap:
            raise precondition("suspend needs a machine with at most 2048 MiB and without swap")
        machine.move("suspending")
        machine.say("suspend", "suspending", "user")
        self._do(machine, self._suspend(machine))

    def signal(self, machine: Machine, sig: str) -> None:
        if machine.state not in ("started", "stopping"):
            raise precondition(f"machine is not running, currently {machine.state}")
        self.host.signal(machine.id, signal.Signals[sig])

    def restart(self, machine: Machine, timeout: object = None) -> None:
        if machine.state not in ("started", "starting"):
            raise precondition(f"unable to restart machine, currently {machine.state}")
        machine.say("restart", "stopping", "user")
        self._do(machine, self._restart(machine, timeout))

    def update(self, machine: Machine, *, start: bool) -> None:
        """Replace a machine's process by one of its new configuration."""
        before = machine.state
        if before in GONE:
            raise precondition(f"machine is {before}")
        machine.instance_id = version_id()
        machine.note_version()
        machine.say("update", "replacing", "user")
        machine.move("replacing")
        self._do(machine, self._replace(machine, before, start))

    def destroy(self, machine: Machine, *, force: bool, source: str = "user") -> None:
        if machine.state in GONE:
            return
        if not force and machine.state not in AT_REST:
            raise precondition(
                "unable to destroy machine, not currently stopped, suspended or failed"
            )
        self._cancel(machine)
        machine.move("destroying")
        machine.say("destroy", "destroying", source)
        self._do(machine, self._destroy(machine))

    def kill(self, machine: Machine, *, oom: bool = False) -> None:
        """Kill its process, as its kernel may."""
        machine.oom = oom
        self.host.kill(machine.id)

    # How it goes on

    def _do(self, machine: Machine, work: Coroutine[Any, Any, None]) -> None:
        self._cancel(machine)
        machine.task = asyncio.ensure_future(work)
        machine.task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.errors.append(error)

    def _cancel(self, machine: Machine) -> None:
        if (kill := self._kills.pop(machine.id, None)) is not None:
            kill.cancel()
        if machine.task is not None and machine.task is not asyncio.current_task():
            machine.task.cancel()
        machine.task = None

    async def _pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds / self.settings.speed)

    async def _launch(self, machine: Machine) -> None:
        if machine.stuck is not None:
            await machine.stuck.wait()
        await self._pause(self.settings.delays.create)
        await self._boot(machine)

    async def _boot(self, machine: Machine) -> None:
        machine.move("starting")
        machine.oom = machine.requested_stop = False
        await self._pause(self.settings.delays.start)
        try:
            await self.inside.start(machine)
        except OSError as error:
            self.inside.note(machine, f"ERROR Error: failed to spawn command: {error}")
            machine.exit(127)
            machine.move("failed")
            return
        machine.move("started")
        machine.say("start", "started")

    async def _suspend(self, machine: Machine) -> None:
        await self._pause(self.settings.delays.suspend)
        self.host.signal(machine.id, signal.SIGSTOP, everything=True)
        machine.move("suspended")
        machine.say("suspend", "suspended")

    async def _resume(self, machine: Machine) -> None:
        machine.move("starting")
        await self._pause(self.settings.delays.resume)
        self.host.signal(machine.id, signal.SIGCONT, everything=True)
        if machine.id in self.host.pids:
            machine.move("started")
            machine.say("start", "started")

    async def _halt(self, machine: Machine, sig: int, grace: float) -> None:
        """End its process without the end of its life."""
        if machine.id not in self.host.pids:
            return
        self.host.signal(machine.id, sig)
        self._kill_later(machine, grace)
        while machine.id in self.host.pids:  # noqa: ASYNC110 - `_exited` is for other ends
            await asyncio.sleep(0.01)
        if (kill := self._kills.pop(machine.id, None)) is not None:
            kill.cancel()

    async def _restart(self, machine: Machine, timeout: object) -> None:
        machine.move("replacing")
        config = machine.config.get("stop_config") or {}
        number = signal_of(config.get("signal"), signal.SIGINT)
        await self._halt(machine, number, seconds_of(timeout or config.get("timeout"), 5.0))
        await self._boot(machine)

    async def _replace(self, machine: Machine, before: str, start: bool) -> None:
        await self._halt(machine, signal.SIGINT, 5.0)
        if start:
            await self._pause(self.settings.delays.create)
            await self._boot(machine)
        else:
            machine.move(before if before in ("created", "failed") else "stopped")

    async def _destroy(self, machine: Machine) -> None:
        # Its process may be about to start.
        while machine.id in self.host.pids or self.host.starting(machine.id):
            self.host.kill(machine.id)
            await asyncio.sleep(0.01)
        await self._pause(self.settings.delays.destroy)
        shutil.rmtree(self.inside.folder(machine), ignore_errors=True)
        machine.move("destroyed")
        machine.say("destroy", "destroyed")

    def _kill_later(self, machine: Machine, grace: float) -> None:
        loop = asyncio.get_running_loop()
        self._kills[machine.id] = loop.call_later(grace, self.host.kill, machine.id)

    def _began(self, key: str) -> None:
        if key in self._machines and self._machines[key].state != "starting":
            # It was stopped meanwhile.
            self.host.kill(key)

    def _exited(self, key: str, code: int) -> None:
        if key not in self._machines:
            self.inside.exited(key, code)
            return
        machine = self._machines[key]
        if machine.state in ("replacing", *GONE):
            machine.exit(code)
        elif machine.state not in ("created", "stopped", "failed"):
            self._ended(machine, code)

    def _ended(self, machine: Machine, code: int) -> None:
        """Go on after the end of its process: once more, at rest, or gone."""
        self._cancel(machine)
        machine.exit(code)
        restart = machine.config.get("restart") or {}
        policy = restart.get("policy", "on-failure")
        again = policy == "always" or (
            policy == "on-failure" and code and machine.restarts < restart.get("max_retries", 10)
        )
        if again and not machine.requested_stop:
            machine.restarts += 1
            self._do(machine, self._boot(machine))
            return
        machine.move("stopped")
        if machine.config.get("auto_destroy"):
            self.destroy(machine, force=True, source="flyd")
