"""The processes of machines of the fake Fly, with their files and variables (test process)."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from tests.fakes.fly.machine import Machine
from tests.fakes.fly.process import Host
from tests.fakes.fly.rootfs import Rootfs
from tests.fakes.fly.settings import Settings


class Inside:
    """Starts the processes of machines, and looks at what runs there.

    Parameters
    ----------
    settings : Settings
    host : Host
    address : callable
        Of a machine's id, its address; None if there is no such machine.
    """

    def __init__(
        self, settings: Settings, host: Host, address: Callable[[str], str | None]
    ) -> None:
        self._settings = settings
        self._host = host
        self._address = address
        self._roots: dict[str, tuple[Rootfs, dict[str, str]]] = {}
        self._commands: dict[str, asyncio.Future[int]] = {}

    def folder(self, machine: Machine) -> Path:
        # A short name: a socket may be below it, whose path has to be short.
        return self._settings.folder / f"m{machine.index}"

    def log(self, machine: Machine) -> Path:
        """Return the file with all that a machine's process has printed."""
        return self._settings.folder / f"m{machine.index}.log"

    def note(self, machine: Machine, line: str) -> None:
        """Write a line of Fly's own into it."""
        with self.log(machine).open("a") as log:
            log.write(line + "\n")

    async def start(self, machine: Machine) -> None:
        """Make the machine's root file system anew and start its process.

        Raises
        ------
        OSError
            If its program cannot be run.
        """
        rootfs = Rootfs(
            self.folder(machine),
            machine.config,
            secrets=self._settings.secrets.get(machine.app, {}),
            address=self._address,
            pythons=self._settings.pythons,
        )
        rootfs.prepare()
        env = {**self._settings.env, **rootfs.variables(_variables(machine))}
        self._roots[machine.id] = rootfs, env
        image = self._settings.images.get(machine.config.get("image", ""), {})
        argv, log = rootfs.command(image), self.log(machine)
        await self._host.start(machine.id, argv, env, folder=rootfs.work, log=log)

    async def execute(
        self, machine: Machine, words: Sequence[str], timeout: float
    ) -> dict[str, Any]:
        """Run a command on a machine that runs; return its exit code and output."""
        rootfs, env = self._roots[machine.id]
        key = f"{machine.id}/{uuid.uuid4().hex[:8]}"
        out, err = (self.folder(machine) / f"{key[-8:]}.{name}" for name in ("out", "err"))
        self._commands[key] = asyncio.get_running_loop().create_future()
        try:
            argv = [rootfs.real(word) for word in words]
            await self._host.start(key, argv, env, folder=rootfs.work, log=out, errors=err)
            code = await asyncio.wait_for(self._commands[key], timeout)
        except TimeoutError:
            self._host.kill(key)
            code = -signal.SIGKILL
        except OSError as error:
            return {"exit_code": 127, "exit_signal": 0, "stdout": "", "stderr": str(error)}
        finally:
            del self._commands[key]
        printed = [p.read_text(errors="replace") if p.exists() else "" for p in (out, err)]
        status, number = (128 - code, -code) if code < 0 else (code, 0)
        return {
            "exit_code": status,
            "exit_signal": number,
            "stdout": printed[0],
            "stderr": printed[1],
        }

    def processes(self, machine: Machine) -> list[dict[str, Any]]:
        """Return what ``ps`` says of a machine that runs."""
        pid = self._host.pids.get(machine.id)
        if pid is None:
            return []
        first = psutil.Process(pid)
        found = []
        for process in (first, *first.children(recursive=True)):
            with contextlib.suppress(psutil.Error), process.oneshot():
                found.append(
                    {
                        "pid": process.pid,
                        "command": " ".join(process.cmdline()),
                        "directory": process.cwd(),
                        "rss": process.memory_info().rss,
                        "cpu": 0,
                        "stime": int(process.cpu_times().system),
                        "rtime": int(process.create_time()),
                        "listen_sockets": [],
                    }
                )
        return found

    def exited(self, key: str, code: int) -> None:
        """Tell whoever waits for a command that it has ended."""
        if (command := self._commands.get(key)) is not None and not command.done():
            command.set_result(code)


def _variables(machine: Machine) -> dict[str, str]:
    return {
        "FLY_APP_NAME": machine.app,
        "FLY_MACHINE_ID": machine.id,
        "FLY_ALLOC_ID": machine.id,
        "FLY_MACHINE_VERSION": machine.instance_id,
        "FLY_REGION": machine.region,
        "FLY_PRIVATE_IP": machine.private_ip,
        "FLY_IMAGE_REF": machine.config.get("image", ""),
        "FLY_VM_MEMORY_MB": str(machine.guest["memory_mb"]),
        "HOSTNAME": machine.id,
    }
