"""The life of a runner's process, from start to exit (runner).

The process is started as ``python -m dask_flame.runner FD``, or forked from a process with the
imports done (:mod:`dask_flame.backends.local.fork_server`). Its launch configuration arrives as one
line of JSON on the inherited file descriptor FD, so that no secret is in an argument or in the
environment. The same descriptor, which may be the standard input, is its leash: on a line "end" the
runner ends in an orderly way; when the other end closes, for whatever reason, the runner ends at
once, together with everything that its calls have started.

A runner ends in one of these ways, and never leaves a process of its own behind:

- the scheduler, or a line on its leash, asks it to end: it closes its worker, does what Python does
  when it exits (:mod:`dask_flame.runner.process_exit`), and exits with code 0;
- the scheduler is gone: the same, busy or not;
- a SIGTERM, when the substrate reclaims the machine: the scheduler is notified, moves its results
  away, and asks it to end;
- the leash breaks: at once, busy or not;
- it cannot start: the traceback, or the words of an installer, are its last output, and its exit
  code is 1.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import traceback
from collections.abc import Callable, Collection
from io import FileIO
from typing import Any, NoReturn

_END = b"end"


def live(descriptor: int, parents: Collection[int]) -> NoReturn:
    """Run until asked to end, or until the leash breaks.

    Parameters
    ----------
    descriptor : int
        The leash.
    parents : collection of int
        Process ids, one of which is this process's parent as long as its supervisor lives.
    """
    leash = FileIO(_aside(descriptor) if descriptor == 0 else descriptor)
    line, rest = _line(leash, b"")
    if line is None:
        _nobody_else()
        os._exit(1)
    launch_config: dict[str, Any] = json.loads(line)
    sys.path[:0] = [p for p in launch_config["path"] if p not in sys.path]
    if launch_config["cwd"] != "":
        _go_to(launch_config["cwd"], launch_config["directory"])
    scratch = os.path.dirname(launch_config["directory"])

    from dask_flame.core.own_folders import make_own
    from dask_flame.core.processes import MARK, below
    from dask_flame.core.resource_trackers import kill_but_trackers
    from dask_flame.runner.last_survivor import sweep

    with contextlib.suppress(OSError):
        make_own(launch_config["directory"])
    mark = os.environ.get(MARK, "none")
    ending = threading.Lock()

    def end(code: int, *, alone: bool = False) -> NoReturn:
        """End this process and all its descendants, without waiting for threads."""
        try:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(Exception):
                    stream.flush()
            # And never released: a second thread would kill the child process of `sweep`, which
            # cleans up after this process.
            ending.acquire()
            kill_but_trackers(below(os.getpid()))
            if alone or os.getppid() not in parents:
                sweep(mark, scratch, launch_config.get("drivers", ""))
        finally:
            os._exit(code)

    # The action on a line "end": exit at once, until there is a worker to close.
    in_peace: list[Callable[[], None]] = [lambda: end(0)]

    def hold(rest: bytes) -> None:
        with contextlib.suppress(OSError):
            while True:
                line, rest = _line(leash, rest)
                if line is None:
                    break
                if line == _END:
                    in_peace[-1]()
        # Only the supervisor's death breaks the leash, and it may still be known as the parent.
        end(1, alone=True)

    threading.Thread(target=hold, args=(rest,), name="flame-leash", daemon=True).start()
    code, process_exit = 1, None
    try:
        if not install(launch_config, launch_config["directory"]):
            end(code)
        from dask_flame.runner.process_exit import ProcessExit
        from dask_flame.runner.start import run

        process_exit = ProcessExit(end, launch_config["shutdown_timeout"])
        code = run(launch_config, process_exit, in_peace.append)
    except BaseException:
        with contextlib.suppress(Exception):  # the reader of its output may have died
            traceback.print_exc()
    try:
        if process_exit is not None:
            process_exit(code)
    finally:
        end(code)


def install(launch_config: dict[str, Any], scratch: str) -> bool:
    """Install the packages of this runner; return False, and print why, if that fails.

    Parameters
    ----------
    launch_config : dict
        As the runner has received it.
    scratch : str
        The runner's folder.
    """
    from dask_flame.packages.install import InstallFailed, prepare

    try:
        prepare(launch_config.get("packages"), scratch)
    except InstallFailed as error:
        _keep(f"{error}\n", launch_config)
        return False
    except BaseException:
        traceback.print_exc()
        return False
    return True


def _keep(text: str, launch_config: dict[str, Any]) -> None:
    """Write a text to the runner's log.

    The driver shows its last line once, as the reason why runners cannot boot.
    """
    try:
        from dask_flame.prints.runner import framing
        from dask_flame.runner.failure_lines import keep

        framing.install(launch_config)
        keep(text)
    except ImportError:  # Dask itself may be what could not be installed
        sys.stderr.write(text)


def _aside(descriptor: int) -> int:
    """Return another descriptor of a leash that is the standard input, which calls may read."""
    leash = os.dup(descriptor)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, descriptor)
    os.close(nothing)
    return leash


def _nobody_else() -> None:
    """Clean up after other runners: the supervisor died before it sent the launch configuration."""
    with contextlib.suppress(ImportError):  # sys.path is part of the launch configuration
        from dask_flame.core.processes import MARK
        from dask_flame.runner.last_survivor import sweep

        if MARK in os.environ:
            sweep(os.environ[MARK], "", "")


def _go_to(*folders: str | None) -> None:
    """Change to the first of these folders that exists."""
    for folder in folders:
        if folder is not None:
            with contextlib.suppress(OSError):
                os.chdir(folder)
                return


def _line(leash: FileIO, rest: bytes) -> tuple[bytes | None, bytes]:
    """Return the next line, and the bytes read beyond it; None at the end of the leash."""
    while b"\n" not in rest:
        chunk = leash.read(1 << 16)
        if not chunk:
            return None, b""
        rest += chunk
    line, _, rest = rest.partition(b"\n")
    return line, rest


if __name__ == "__main__":
    live(int(sys.argv[1]), {os.getppid()})
