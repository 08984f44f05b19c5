"""The process that local runners are forked from, with all their imports done (runner).

A fresh interpreter needs half a second of CPU to import distributed, and seconds for torch. A fork
takes milliseconds, and shares memory until one of the two processes writes to it. In return, this
process must not contain anything that cannot be forked: other threads, sockets, event loops, the
state of a GPU. This is checked after each import; a template that fails the check says so and is
not used. OpenBLAS starts threads when it is loaded, but stops them in a fork and starts them again
on demand, so the check comes after a fork.

Each wave of runners is forked by a child that then ends. The runners are thereby orphans, which the
kernel hands to the supervisor, their nearest ancestor that is a subreaper: it becomes their parent
as if it had started them. Linux only.

The supervisor forks the first template from itself when it starts; it runs others as
``fork_server.py FD SUPERVISOR``. JSON messages go both ways over the socket FD, which preserves
message boundaries. The template receives the list of imports, and of packages to install before
them, unless it was forked, and then waves of runners, with the descriptors of their leashes and
outputs. It sends ``importing`` for each module; ``ready`` or ``unfit``; for each wave ``forked`` or
``refused`` for each of its runners and ``done``, or ``stale`` if an imported file has changed.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import importlib
import json
import os
import select
import socket
import stat
import sys
import sysconfig
import tempfile
import threading
import traceback
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

if __name__ == "__main__":  # started by path, from wherever the package is
    sys.path.insert(0, str(Path(__file__).parents[3]))

from dask_flame.core.processes import MARK, mark_address, set_command_line, write_mark

if __name__ == "__main__":
    del sys.path[0]

#: Maximum number of bytes in a message: less than the buffer of a socket.
LONGEST = 1 << 17
#: Maximum number of runners in a wave: each needs two descriptors, and a process may have only 256.
MOST_AT_ONCE = 50

_PR_SET_PDEATHSIG = 1
#: Named as a module in messages about the installation of packages.
PACKAGES = "packages="
#: The module that every runner imports.
_RUNNER = "dask_flame.runner.start"
#: Modules that every runner imports later: for its plugins, its first call, and its end.
_LATER = (
    "dask_flame.reports.runner.report",
    "dask_flame.reports.runner.sender",
    "dask_flame.runner.last_survivor",
    "tornado.platform.asyncio",
)
#: All modules that a template imports, whatever its pool preloads.
RUNNER_IMPORTS = (_RUNNER, *_LATER)
#: Seconds without a message after which deferred work is done.
_A_MOMENT = 0.1
#: Open descriptors that forks must not share, by the prefixes of their links in /proc.
_NOT_TO_SHARE = {
    "socket:": "a socket",
    "pipe:": "a pipe",
    "anon_inode:[eventpoll]": "an event loop",
    "anon_inode:[io_uring]": "an event loop",
    "anon_inode:[eventfd]": "an event loop",
    "/dev/nvidia": "a GPU",
    "/dev/kfd": "a GPU",
}


class ForkServer:
    """Import modules, check that the process can be forked, and fork runners.

    Parameters
    ----------
    connection : socket.socket
        Connection to the supervisor.
    supervisor : int
        Process id of the supervisor.
    """

    def __init__(self, connection: socket.socket, supervisor: int) -> None:
        self.connection = connection
        self.supervisor = supervisor
        self._before = dict(_open())
        self._files: dict[str, tuple[int, int]] = {}

    def serve(self, kind: dict[str, Any] | None = None) -> tuple[dict[str, Any], int, int]:
        """Serve the supervisor; return only in forked runners.

        Parameters
        ----------
        kind : dict, optional
            The imports, if the supervisor does not send them.

        Returns
        -------
        dict
            The request for the runner.
        int
            The descriptor of its leash.
        int
            The process that forked it, which is its parent for a moment.
        """
        self._prepare(kind or json.loads(self._receive()[0]))
        tidy = False
        while True:
            # Takes longer than forking a wave: wait until no request is pending.
            if not tidy and not select.select([self.connection], [], [], _A_MOMENT)[0]:
                tidy = True
                _tidy()
            words, descriptors = self._receive()
            wave = json.loads(words)
            if len(descriptors) < 2 * len(wave):
                for request in wave:
                    self._send(ev="refused", name=request["name"], why="too many open files")
                self._send(ev="done")
            elif (changed := self._changed()) is not None:
                self._send(ev="stale", why=changed)
            elif (middle := os.fork()) == 0:
                return self._fork(wave, descriptors)
            else:
                os.waitpid(middle, 0)
                self._send(ev="done")
            for descriptor in descriptors:
                os.close(descriptor)

    # Imports

    def _prepare(self, kind: dict[str, Any]) -> None:
        sys.path[:0] = [p for p in kind["path"] if p not in sys.path]
        if kind["cwd"]:
            with contextlib.suppress(OSError):
                os.chdir(kind["cwd"])
        if packages := kind.get("packages"):
            self._install(packages)
        for module in (_RUNNER, *kind["preload"]):
            if module != _RUNNER:
                self._send(ev="importing", module=module)
            try:
                importlib.import_module(module)
            except BaseException:
                traceback.print_exc()
                self._send(ev="unfit", module=module, why="cannot be imported", failed=True)
                self._receive()
            if (why := self._unfit()) is not None:
                self._send(ev="unfit", module=module, why=why, failed=False)
                self._receive()
            self._note()
        _warm()
        # Exclude existing objects from later collections, which would copy their pages in forks.
        gc.freeze()
        _flush()
        self._send(ev="ready")

    def _install(self, packages: Any) -> None:
        """Install the packages of the runners, before the first import of any."""
        self._send(ev="importing", module=PACKAGES)
        # With the import path of the message.
        from dask_flame.packages.install import prepare

        try:
            prepare(packages)
        except Exception as error:
            # Runners try again, and say why they fail, or have a folder of their own.
            print(error, file=sys.stderr)
            self._send(ev="unfit", module=PACKAGES, why="cannot be installed", failed=True)
            self._receive()
        self._send(ev="importing", module="")

    def _unfit(self) -> str | None:
        """Return why this process cannot be forked, or None."""
        if others := [t.name for t in threading.enumerate() if t is not threading.main_thread()]:
            return f"starts threads ({', '.join(others)})"
        with warnings.catch_warnings(action="ignore"):  # about forks with threads
            if (probe := os.fork()) == 0:
                os._exit(0)
        os.waitpid(probe, 0)
        if (tasks := len(os.listdir("/proc/self/task"))) > 1:
            return f"starts threads ({tasks - 1} not of Python)"
        if has_children():
            return "starts a process"
        for descriptor, link in _open():
            if self._before.get(descriptor) == link:
                continue
            for beginning, what in _NOT_TO_SHARE.items():
                if link.startswith(beginning):
                    return f"opens {what}"
            if _shares_its_place(descriptor):
                return f"opens a file ({link})"
        if mark_address() is None:
            return "writes over the environment that others see"
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            return "initialises CUDA"
        return None

    # Files

    def _note(self) -> None:
        """Record the state of module files that may be edited: those not in the installation."""
        paths = sysconfig.get_paths()
        kinds = ("stdlib", "platstdlib", "purelib", "platlib")
        folders = [paths[kind] for kind in kinds]
        if "dask_flame.packages.install" in sys.modules:
            folders.append(sys.modules["dask_flame.packages.install"].installed_folder())
        installed = tuple(os.path.join(folder, "") for folder in folders if folder)
        for module in list(sys.modules.values()):
            file = getattr(module, "__file__", None)
            if not isinstance(file, str) or file in self._files:
                continue
            if not file.startswith(installed):
                self._files[file] = _state(file)

    def _changed(self) -> str | None:
        """Return an imported file that has changed since its import, or None."""
        return next((f for f, state in self._files.items() if _state(f) != state), None)

    # Forks

    def _fork(self, wave: list[dict[str, Any]], descriptors: list[int]) -> tuple[Any, int, int]:
        """Fork the runners of a wave; return in each runner, but not in this process."""
        middle = os.getpid()
        for number, request in enumerate(wave):
            try:
                pid = os.fork()
            except OSError as error:
                self._send(ev="refused", name=request["name"], why=str(error))
                continue
            if pid == 0:
                leash, output = descriptors[2 * number : 2 * number + 2]
                os.setsid()
                os.dup2(output, 1)
                os.dup2(output, 2)
                # Detached, or it would be closed again when the number belongs to another file.
                for descriptor in (*descriptors, self.connection.detach()):
                    if descriptor != leash:
                        os.close(descriptor)
                return request, leash, middle
            self._send(ev="forked", name=request["name"], pid=pid)
        os._exit(0)

    # The supervisor

    def _receive(self) -> tuple[bytes, list[int]]:
        try:
            words, descriptors, _, _ = socket.recv_fds(self.connection, LONGEST, 2 * MOST_AT_ONCE)
        except OSError:
            words = b""
        if not words:
            os._exit(0)  # the supervisor is gone, or needs this process no more
        return words, descriptors

    def _send(self, **message: Any) -> None:
        try:
            self.connection.send(json.dumps(message).encode())
        except OSError:
            os._exit(1)


def has_children(proc: Path = Path("/proc")) -> bool:
    """Return whether this single-threaded process has children, including zombies.

    Parameters
    ----------
    proc : Path
        Mount point of procfs. If the kernel lacks CONFIG_PROC_CHILDREN, all processes are
        examined instead.
    """
    try:
        return bool((proc / f"self/task/{os.getpid()}/children").read_text().strip())
    except OSError:
        import psutil

        return bool(psutil.Process().children())


def _open() -> Iterable[tuple[int, str]]:
    """Yield the open descriptors of this process, and the targets of their links."""
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        try:
            yield descriptor, os.readlink(f"/proc/self/fd/{descriptor}")
        except OSError:
            continue  # the descriptor of the listing itself


def _shares_its_place(descriptor: int) -> bool:
    """Return whether forks would share the read position of this descriptor."""
    try:
        regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
        return regular and not fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_APPEND
    except OSError:
        return False


def _state(file: str) -> tuple[int, int]:
    try:
        status = os.stat(file)
    except OSError:
        return (0, 0)
    return (status.st_mtime_ns, status.st_size)


def _warm() -> None:
    """Do once all work that every worker does when it starts, and whose results forks share."""
    import psutil
    from dask.utils import parse_timedelta
    from distributed.versions import get_versions

    from dask_flame.packages.installed import environment
    from dask_flame.runner.start import know_modules

    environment()
    for module in _LATER:
        importlib.import_module(module)
    get_versions()
    psutil.disk_io_counters()
    for time in ("1s", 1, 1.0):
        parse_timedelta(time)
    know_modules()


def _flush() -> None:
    """Flush the output of modules, or every runner would print it again."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    ctypes.CDLL(None).fflush(None)  # the buffers of C


def _tidy() -> None:
    """Collect the garbage left by the imports."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def _become(request: Mapping[str, Any]) -> None:
    """Turn this fork of the template into a runner."""
    write_mark(request["env"][MARK])
    set_command_line(request["name"])
    os.environ.update(request["env"])
    # Each runner needs its own folder for temporary files and its own random numbers. The random
    # module reseeds itself in forks.
    tempfile.tempdir = None
    for name, reseed in (("numpy.random", "seed"), ("torch", "seed")):
        if name in sys.modules:
            getattr(sys.modules[name], reseed)()
    gc.enable()


def main(argv: list[str], kind: dict[str, Any] | None = None) -> NoReturn:
    """Run ``fork_server.py FD SUPERVISOR``; `kind` has the imports, if they are not sent."""
    descriptor, supervisor = int(argv[0]), int(argv[1])
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, 9, 0, 0, 0)
    if os.getppid() != supervisor:
        os._exit(1)
    gc.disable()
    set_command_line("template")
    from dask_flame.runner.__main__ import live

    request, leash, middle = ForkServer(socket.socket(fileno=descriptor), supervisor).serve(kind)
    _become(request)
    # Until the forking process ends, it is the parent, not the supervisor.
    live(leash, {supervisor, middle})


if __name__ == "__main__":
    main(sys.argv[1:])
