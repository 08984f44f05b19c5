"""The process of a cluster on a host, which starts a supervisor and ends with the driver (host).

It is started over SSH, by ``python -c`` (see :mod:`dask_flame.backends.ssh.bootstrap`), and speaks
lines of JSON over its standard input and output. Behind it is the supervisor of local runners
(:mod:`dask_flame.backends.local.supervisor`), which ends its runners when this process has ended.
This process ends when its input closes, because the driver or the connection has ended, and when
the driver has been silent for the lease, because the network was cut.

From the driver: ``begin`` first, ``kind``, ``forget``, ``boot`` and ``end`` as for a supervisor,
``taken`` and ``ping``, and for a trial, ``listen``, ``reach`` and ``hush``. To the driver: ``here``
first, the answers to ``listen``, ``reach`` and ``taken``, ``full``, ``failed``, and what the
supervisor says. Imports little, because a boot waits for it.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import secrets
import selectors
import signal
import socket
import subprocess
import sys
import time
import traceback
from dataclasses import asdict
from importlib.util import find_spec
from typing import Any, NoReturn

from dask_flame._version import __version__
from dask_flame.backends.local.exit_reasons import ExitReasons
from dask_flame.backends.ssh import resources
from dask_flame.backends.ssh.claims import Capacity, Claims, Need
from dask_flame.backends.ssh.host_environment import VISIBLE, check_place, completed
from dask_flame.backends.ssh.probe import Listener, first_out_of_reach, own_address
from dask_flame.core.folder_locks import lock
from dask_flame.core.own_folders import make_own
from dask_flame.core.processes import MARK, NO_MARK
from dask_flame.core.resource_trackers import end_all_marked, wait_for_trackers

#: The beginning of each line to the driver: a shell's start-up files may print, too.
PREFIX = "dask-flame "
#: Variables by which a runner finds the sockets of this host, and its address.
FOLDER, ADDRESS = "DASK_FLAME_SSH_FOLDER", "DASK_FLAME_SSH_ADDRESS"
_ORDER = "CUDA_DEVICE_ORDER"
#: Seconds for the supervisor to end everything.
_END_WITHIN = 20.0
#: Seconds in which the runners of a killed supervisor begin to end what it leaves.
_LEFT_TO_RUNNERS = 0.5
#: Bytes that wait for the driver, beyond which the supervisor is not read.
_MOST_UNREAD = 4_000_000


class Agent:
    """Passes messages between the driver and the supervisor, and keeps count of what is taken."""

    def __init__(self) -> None:
        self._in = b""
        self._out = bytearray()
        self._from_supervisor = b""
        self._to_supervisor = bytearray()
        self._selector = selectors.DefaultSelector()
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        self._claims: Claims | None = None
        self._reasons = ExitReasons()
        self._mark = ""
        self._relay: dict[str, str] = {}
        self._lease = 60.0
        self._heard = time.monotonic()
        self._address = ""
        self._lock: int | None = None
        self._listener: Listener | None = None

    def run(self) -> int:
        """Serve the driver until it is gone; then end everything. Return the exit code."""
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, lambda *_: sys.exit(1))
        # Never wait for a driver that does not read: the lease must end this process then.
        os.set_blocking(0, False)
        os.set_blocking(1, False)
        self._selector.register(0, selectors.EVENT_READ)
        self._say(
            ev="here",
            python=platform.python_version(),
            version=__version__,
            cpus=resources.cores(),
            memory=resources.memory(),
            gpus=resources.gpus(),
        )
        try:
            while self._turn():
                pass
        finally:
            self._end()
        return 0

    # The loop

    def _turn(self) -> bool:
        """Wait for something to do, and do it; return whether to go on."""
        left = self._heard + self._lease - time.monotonic()
        if left <= 0:
            return False  # the connection is frozen
        self._want()
        for key, events in self._selector.select(left):
            if key.fd == 1:
                if not self._write():
                    return False
            elif key.fd == 0:
                if events & selectors.EVENT_READ and not self._read():
                    return False
                if events & selectors.EVENT_WRITE and not self._write():
                    return False
            elif not self._serve_supervisor(events):
                return False
        return True

    def _want(self) -> None:
        """Register what to wait for: room for what is to be written, and the supervisor's words."""
        if self._out and 1 not in self._selector.get_map():
            self._selector.register(1, selectors.EVENT_WRITE)
        elif not self._out and 1 in self._selector.get_map():
            self._selector.unregister(1)
        if self._connection is not None:
            events = selectors.EVENT_WRITE if self._to_supervisor else 0
            events |= selectors.EVENT_READ if len(self._out) < _MOST_UNREAD else 0
            if self._connection in self._selector.get_map():
                self._selector.unregister(self._connection)
            if events:
                self._selector.register(self._connection, events)

    def _read(self) -> bool:
        try:
            chunk = os.read(0, 1 << 16)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self._heard = time.monotonic()
        *lines, self._in = (self._in + chunk).split(b"\n")
        for line in lines:
            self._handle(json.loads(line))
        return bool(chunk)

    def _write(self) -> bool:
        try:
            del self._out[: os.write(1, self._out)]
        except BlockingIOError:
            pass
        except OSError:
            return False
        return True

    def _say(self, **message: Any) -> None:
        self._out += f"{PREFIX}{json.dumps(message)}\n".encode()

    # The driver

    def _handle(self, message: dict[str, Any]) -> None:
        op = message["op"]
        if op == "begin":
            self._begin(message)
        elif op == "kind":
            self._forward(completed(message))
        elif op == "boot":
            self._boot(message)
        elif op == "taken":
            assert self._claims is not None
            self._say(ev="taken", others=asdict(self._claims.others()))
        elif op in ("end", "forget"):
            self._forward(message)
        elif op == "listen":
            self._listen(message["token"])
        elif op == "hush":
            self._hush()
        elif op == "reach":
            failed = first_out_of_reach(message["places"], message["token"], message["within"])
            self._say(ev="reach", failed=failed)

    def _listen(self, token: str) -> None:
        """Listen for a trial, until the driver has made up its mind."""
        self._hush()
        try:
            self._listener = Listener(token)
            self._say(ev="listen", address=own_address(), port=self._listener.port)
        except OSError:
            self._say(ev="listen", address="", port=0)

    def _hush(self) -> None:
        if self._listener is not None:
            self._listener.close()
        self._listener = None

    def _begin(self, message: dict[str, Any]) -> None:
        self._mark, self._lease = message["mark"], message["lease"]
        limits = message["capacity"]
        limits["gpus"] = tuple(limits["gpus"])
        self._claims = Claims(secrets.token_hex(4), Capacity(**limits))
        self._address = message["address"]
        try:
            check_place()
            self._start(completed(message["kind"]) if message["kind"] else None)
        except OSError as error:
            self._say(ev="failed", why=str(error))

    def _start(self, first: dict[str, Any] | None) -> None:
        """Start the supervisor; it forks the first template from itself, if it may."""
        supervisor = find_spec("dask_flame.backends.local.supervisor.__main__")
        assert supervisor is not None
        assert supervisor.origin is not None
        ours, theirs = socket.socketpair()
        assert self._claims is not None
        self._claims.held_by(theirs)
        words = [str(theirs.fileno()), f"{self._mark}/1", str(os.getpid()), "", "", "0"]
        environment = dict(os.environ)
        if first is not None and all(os.environ.get(n) == first["env"][n] for n in first["own"]):
            words.append(first["key"])
            place = {n: v for n, v in os.environ.items() if n == "TMPDIR"}
            environment = {**first["env"], **place, MARK: NO_MARK}
        try:
            self._supervisor = subprocess.Popen(
                [sys.executable, "-P", *(first or {}).get("flags", ()), supervisor.origin, *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=environment,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        finally:
            theirs.close()
        ours.setblocking(False)
        self._connection = ours
        if first is not None:
            self._forward(first)

    def _boot(self, message: dict[str, Any]) -> None:
        assert self._claims is not None
        runners: dict[str, dict[str, str]] = {}
        for name, plain in message.pop("runners").items():
            try:
                gpus, why = self._claims.take(name, Need(**plain))
            except OSError as error:
                gpus, why = (), f"what others have taken cannot be seen: {error}"
            if why:
                self._say(ev="full", name=name, why=why, others=asdict(self._claims.others()))
                continue
            chosen = {VISIBLE: ",".join(gpus), _ORDER: "PCI_BUS_ID"} if gpus else {}
            runners[name] = {**chosen, **self._relay}
        if runners:
            self._forward({**message, "runners": runners})

    # The supervisor

    def _forward(self, message: dict[str, Any]) -> None:
        self._to_supervisor += json.dumps(message).encode() + b"\n"

    def _serve_supervisor(self, events: int) -> bool:
        assert self._connection is not None
        try:
            if events & selectors.EVENT_WRITE:
                del self._to_supervisor[: self._connection.send(self._to_supervisor)]
            if not events & selectors.EVENT_READ:
                return True
            chunk = self._connection.recv(1 << 16)
        except BlockingIOError:
            return True
        except OSError:
            chunk = b""
        *lines, self._from_supervisor = (self._from_supervisor + chunk).split(b"\n")
        for line in lines:
            self._heard_of(json.loads(line))
        if not chunk:
            self._say(ev="failed", why="the supervisor of its runners is gone")
            self._write()
        return bool(chunk)

    def _heard_of(self, message: dict[str, Any]) -> None:
        assert self._claims is not None
        event = message["ev"]
        if event == "hello":
            self._prepare(message["scratch"])
        elif event in ("ended", "refused"):
            self._claims.give_back(message["name"])
        if event == "ended":
            message["reason"] = self._reasons.why(message["code"], forced=message["forced"])
        self._say(**message)

    def _prepare(self, scratch: str) -> None:
        """Lock the supervisor's folder, and make one in it for the sockets of runners."""
        with contextlib.suppress(OSError):
            self._lock = lock(scratch)
        folder = os.path.join(scratch, "s")
        make_own(folder)
        self._relay = {FOLDER: folder, ADDRESS: self._address} if self._address else {}

    # The end

    def _end(self) -> None:
        """End the supervisor, which ends everything else; end what a killed one has left."""
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        if self._connection is not None:
            self._connection.close()
        if self._supervisor is None:
            return
        try:
            code = self._supervisor.wait(_END_WITHIN)
        except subprocess.TimeoutExpired:
            self._supervisor.kill()
            code = self._supervisor.wait()
        if code < 0:
            time.sleep(_LEFT_TO_RUNNERS)
            wait_for_trackers(end_all_marked(f"{self._mark}/"))


def main() -> NoReturn:
    """Run the agent, and end the process."""
    code = 1
    try:
        code = Agent().run()
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(code)
