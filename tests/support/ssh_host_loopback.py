"""Hosts without namespaces: servers on ports of the loopback interface, with a home each."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from pathlib import Path

import psutil

from dask_flame.testing.leaks import marked_processes
from tests.support.paths import free_port
from tests.support.ssh_host_common import Host, tied
from tests.support.waiting import wait_for

#: In the environment of the sessions, so that a host's processes are known.
_MARK = "DASK_FLAME_TEST_HOST"


class LoopbackHost(Host):
    """A server on a port of the loopback interface; its user is that of these tests."""

    def __init__(self, name: str, folder: Path) -> None:
        super().__init__(name, folder)
        self.address = f"127.0.0.{10 + int(name[-1])}" if sys.platform == "linux" else "127.0.0.1"
        self.port = free_port()
        self.user = psutil.Process().username()
        self.home = str(self.folder / "home")
        self.root = Path("/")
        self._mark = f"{folder.name}-{name}"

    def start(self) -> None:
        for path in (self.home, f"{self.home}/tmp", f"{self.home}/.cache"):
            os.makedirs(path, exist_ok=True)
        own = {"HOME": self.home, "TMPDIR": f"{self.home}/tmp", _MARK: self._mark}
        self.configure(self.address, str(self.folder / "authorized_keys"), "no", **own)
        if os.getuid() == 0:
            os.makedirs("/run/sshd", exist_ok=True)
        self.process = tied(self.server(), self.folder / "output")

    def reached(self) -> None:
        def answers() -> bool:
            with (
                contextlib.suppress(OSError),
                socket.create_connection((self.address, self.port), 5) as connection,
            ):
                return bool(connection.recv(4))
            return False

        wait_for(answers, what=f"an answer of {self.name}")

    def stop_server(self) -> None:
        if self.process is not None:
            servers = psutil.Process(self.process.pid).children(recursive=True)
            self.process.kill()
            self.process.wait()
            self.process = None
            for process in servers:
                with contextlib.suppress(psutil.Error):
                    if process.name() == "sshd":
                        process.kill()

    def kill(self) -> None:
        self.stop_server()
        for process in self._processes():
            with contextlib.suppress(psutil.Error):
                process.kill()
        wait_for(lambda: not self._processes())

    def authorize(self, keys: str) -> None:
        (self.folder / "authorized_keys").write_text(keys)

    def restore(self) -> None:
        self.authorize(self._trusted)
        if self.process is None:
            self.kill()
            self.start()
        self.reached()

    def _processes(self) -> list[psutil.Process]:
        return marked_processes(self._mark, variable=_MARK)

    def left(self) -> list[str]:
        home = Path(self.home)
        known = {home / ".cache", home / "tmp"}
        files = [p for p in home.rglob("*") if p not in known and home / ".cache" not in p.parents]
        return [
            *(f"process {' '.join(process.cmdline())[:300]}" for process in self._processes()),
            *(f"file {path}" for path in files),
        ]
