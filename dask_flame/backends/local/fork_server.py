"""The process that local runners are forked from, with all they need imported (runner).

A fresh interpreter takes half a second of CPU to import distributed, and seconds for torch; a fork
takes milliseconds, and shares the memory until one of the two writes to it. The price is that what
cannot be forked must not be here: threads other than this one, sockets, event loops, the state of a
GPU. After each import that is looked at, and a template that finds any of it says so and is not
used. OpenBLAS has threads from the moment when it is loaded, but puts them away in a fork and
starts them again when it needs them: so the look follows a fork.

A wave of runners is forked by a child that ends when it has done so. They are thereby orphans,
which the kernel hands to the guard, their nearest ancestor that is a subreaper: it is their parent
as if it had started them. Linux only.

The first one is forked from the guard when that starts; others are started, as ``template.py FD
GUARD``. Messages of JSON go both ways over the socket FD, which keeps their boundaries. To it: what
to import, unless it was forked, then waves of runners, with the descriptors of their leashes and
outputs. From it: ``importing`` for each module; ``ready`` or ``unfit``; for each wave ``forked`` or
``refused`` for each of its runners and ``done``, or ``stale`` when a file has changed that was
imported here.
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

from dask_flame.core.processes import MARK, rename, rewrite, room

if __name__ == "__main__":
    del sys.path[0]

#: Bytes of the longest message: less than a socket's buffer takes.
LONGEST = 1 << 17
#: Runners of a wave; each comes with two file descriptors, of which a process may have 256.
MOST_AT_ONCE = 50

_PR_SET_PDEATHSIG = 1
#: What a runner is.
_RUNNER = "dask_flame.runner.worker"
#: Seconds without a word, after which what could wait is done.
_A_MOMENT = 0.1
#: What a process has open that a fork must not share, by what its links in /proc begin with.
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
    """Imports, looks, and forks.

    Parameters
    ----------
    connection : socket.socket
        To the guard.
    guard : int
        The guard's process.
    """

    def __init__(self, connection: socket.socket, guard: int) -> None:
        self.connection = connection
        self.guard = guard
        self._before = dict(_open())
        self._files: dict[str, tuple[int, int]] = {}

    def serve(self, orders: dict[str, Any] | None = None) -> tuple[dict[str, Any], int, int]:
        """Serve the guard; returns in forked runners only.

        Parameters
        ----------
        orders : dict, optional
            What to import, where the guard will not say it.

        Returns
        -------
        dict
            The runner's request.
        int
            Its leash.
        int
            The process that has forked it, its parent for a moment.
        """
        self._prepare(orders or json.loads(self._hear()[0]))
        tidy = False
        while True:
            # It takes longer than a wave: not while somebody waits for the first one.
            if not tidy and not select.select([self.connection], [], [], _A_MOMENT)[0]:
                tidy = True
                _tidy()
            words, descriptors = self._hear()
            wave = json.loads(words)
            if len(descriptors) < 2 * len(wave):
                for request in wave:
                    self._say(ev="refused", name=request["name"], why="too many open files")
                self._say(ev="done")
            elif (changed := self._changed()) is not None:
                self._say(ev="stale", why=changed)
            elif (middle := os.fork()) == 0:
                return self._fork(wave, descriptors)
            else:
                os.waitpid(middle, 0)
                self._say(ev="done")
            for descriptor in descriptors:
                os.close(descriptor)

    # Imports

    def _prepare(self, orders: dict[str, Any]) -> None:
        sys.path[:0] = [p for p in orders["path"] if p not in sys.path]
        if orders["cwd"]:
            with contextlib.suppress(OSError):
                os.chdir(orders["cwd"])
        for module in (_RUNNER, *orders["preload"]):
            if module != _RUNNER:
                self._say(ev="importing", module=module)
            try:
                importlib.import_module(module)
            except BaseException:
                traceback.print_exc()
                self._say(ev="unfit", module=module, why="cannot be imported", failed=True)
                self._hear()
            if (why := self._unfit()) is not None:
                self._say(ev="unfit", module=module, why=why, failed=False)
                self._hear()
            self._note()
        _warm()
        # What is here now is not looked through again, in no process: that would copy its pages.
        gc.freeze()
        _flush()
        self._say(ev="ready")

    def _unfit(self) -> str | None:
        """Why this process cannot be forked, if it cannot."""
        if others := [t.name for t in threading.enumerate() if t is not threading.main_thread()]:
            return f"starts threads ({', '.join(others)})"
        with warnings.catch_warnings(action="ignore"):  # of threads
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
        if room() is None:
            return "writes over the environment that others see"
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            return "initialises CUDA"
        return None

    # Files

    def _note(self) -> None:
        """Remember the files of modules that may be edited: those outside of the installation."""
        paths = sysconfig.get_paths()
        kinds = ("stdlib", "platstdlib", "purelib", "platlib")
        installed = tuple(os.path.join(paths[kind], "") for kind in kinds)
        for module in list(sys.modules.values()):
            file = getattr(module, "__file__", None)
            if not isinstance(file, str) or file in self._files:
                continue
            if not file.startswith(installed):
                self._files[file] = _state(file)

    def _changed(self) -> str | None:
        """A file that is not any more what was imported."""
        return next((f for f, state in self._files.items() if _state(f) != state), None)

    # Forks

    def _fork(self, wave: list[dict[str, Any]], descriptors: list[int]) -> tuple[Any, int, int]:
        """Fork the runners of a wave; returns in each of them, not in this process."""
        middle = os.getpid()
        for number, request in enumerate(wave):
            try:
                pid = os.fork()
            except OSError as error:
                self._say(ev="refused", name=request["name"], why=str(error))
                continue
            if pid == 0:
                leash, output = descriptors[2 * number : 2 * number + 2]
                os.setsid()
                os.dup2(output, 1)
                os.dup2(output, 2)
                # Detached, lest it is closed a second time, when its number is another file's.
                for descriptor in (*descriptors, self.connection.detach()):
                    if descriptor != leash:
                        os.close(descriptor)
                return request, leash, middle
            self._say(ev="forked", name=request["name"], pid=pid)
        os._exit(0)

    # The guard

    def _hear(self) -> tuple[bytes, list[int]]:
        try:
            words, descriptors, _, _ = socket.recv_fds(self.connection, LONGEST, 2 * MOST_AT_ONCE)
        except OSError:
            words = b""
        if not words:
            os._exit(0)  # the guard is gone, or has no more use for this
        return words, descriptors

    def _say(self, **message: Any) -> None:
        try:
            self.connection.send(json.dumps(message).encode())
        except OSError:
            os._exit(1)


def has_children(proc: Path = Path("/proc")) -> bool:
    """Whether this process, which has one thread, has children, dead ones too.

    Parameters
    ----------
    proc : Path
        Where the kernel tells it in one line, if it was built to (CONFIG_PROC_CHILDREN). Otherwise
        all processes are looked through.
    """
    try:
        return bool((proc / f"self/task/{os.getpid()}/children").read_text().strip())
    except OSError:
        import psutil

        return bool(psutil.Process().children())


def _open() -> Iterable[tuple[int, str]]:
    """The descriptors of this process, and what they are."""
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        try:
            yield descriptor, os.readlink(f"/proc/self/fd/{descriptor}")
        except OSError:
            continue  # the listing's own


def _shares_its_place(descriptor: int) -> bool:
    """Whether a fork would read on where this process, or another fork, has read up to."""
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
    """Have done once what every worker does when it starts, and keeps."""
    import psutil
    from dask.utils import parse_timedelta
    from distributed.versions import get_versions

    from dask_flame.runner.worker import know_modules

    importlib.import_module("dask_flame.reports.runner.report")  # a worker's plugin, and first call
    get_versions()
    psutil.disk_io_counters()
    for time in ("1s", 1, 1.0):
        parse_timedelta(time)
    know_modules()


def _flush() -> None:
    """Have printed what modules have printed, lest every runner prints it too."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    ctypes.CDLL(None).fflush(None)  # what is not Python's


def _tidy() -> None:
    """Let go of what the imports have left behind."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def _become(request: Mapping[str, Any]) -> None:
    """Make a runner of what was a copy of the template."""
    rewrite(request["env"][MARK])
    rename(request["name"])
    os.environ.update(request["env"])
    # Each runner has a folder for temporary files, and random numbers, of its own. The random
    # module sees to itself.
    tempfile.tempdir = None
    for name, reseed in (("numpy.random", "seed"), ("torch", "seed")):
        if name in sys.modules:
            getattr(sys.modules[name], reseed)()
    gc.enable()


def main(argv: list[str], orders: dict[str, Any] | None = None) -> NoReturn:
    """``template.py FD GUARD``; what to import, where the guard will not say it."""
    descriptor, guard = int(argv[0]), int(argv[1])
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, 9, 0, 0, 0)
    if os.getppid() != guard:
        os._exit(1)
    gc.disable()
    rename("template")
    from dask_flame.runner.__main__ import live

    request, leash, middle = ForkServer(socket.socket(fileno=descriptor), guard).serve(orders)
    _become(request)
    # Until its parent ends, this is not the guard's own.
    live(leash, {guard, middle})


if __name__ == "__main__":
    main(sys.argv[1:])
