"""A runner's life from its first moment to its last (runner).

Started as ``python -m dask_flame.runner FD``, or forked from a process that has imported what it
needs (:mod:`dask_flame.backends.local.fork_server`). Its orders come as one line of JSON on the
inherited file descriptor FD, so that no secret is in an argument or in the environment. The same
descriptor, which may be the standard input, is its leash: a line "end" tells it to end in peace;
when the other end closes, for whatever reason, the runner ends at once, and with it what its calls
have started.

A runner ends in one of these ways, and never leaves a process of its own behind:

- the scheduler, or its leash, tells it to: it closes its worker, does what Python does when it
  exits (:mod:`dask_flame.runner.process_exit`), then goes, with exit code 0;
- the scheduler is gone: the same, busy or not;
- a SIGTERM: the substrate takes it away; the scheduler is told, sees it out, and tells it to;
- the leash breaks: at once, busy or not;
- it cannot start: the traceback is the last thing it prints, with exit code 1.
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
    """Run until told to end, or until the leash breaks.

    Parameters
    ----------
    descriptor : int
        The leash.
    parents : collection of int
        Processes one of which is this one's parent as long as it is looked after.
    """
    leash = FileIO(_aside(descriptor) if descriptor == 0 else descriptor)
    line, rest = _line(leash, b"")
    if line is None:
        _nobody_else()
        os._exit(1)
    orders: dict[str, Any] = json.loads(line)
    sys.path[:0] = [p for p in orders["path"] if p not in sys.path]
    if orders["cwd"] != "":
        _go_to(orders["cwd"], orders["directory"])
    scratch = os.path.dirname(orders["directory"])
    with contextlib.suppress(OSError):
        os.makedirs(orders["directory"], exist_ok=True)

    from dask_flame.core.processes import MARK, below
    from dask_flame.core.resource_trackers import kill_but_trackers
    from dask_flame.runner.last_survivor import sweep

    mark = os.environ.get(MARK, "none")

    def end(code: int, *, alone: bool = False) -> NoReturn:
        """End this process and all that was started from it, waiting for no thread."""
        try:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(Exception):
                    stream.flush()
            kill_but_trackers(below(os.getpid()))
            if alone or os.getppid() not in parents:
                sweep(mark, scratch, orders.get("drivers", ""))
        finally:
            os._exit(code)

    # What to do when told to end in peace: at once, until there is a worker to close.
    in_peace: list[Callable[[], None]] = [lambda: end(0)]

    def hold(rest: bytes) -> None:
        with contextlib.suppress(OSError):
            while True:
                line, rest = _line(leash, rest)
                if line is None:
                    break
                if line == _END:
                    in_peace[-1]()
        # The guard lets go of the leash by its death only, and may still be known as the parent.
        end(1, alone=True)

    threading.Thread(target=hold, args=(rest,), name="flame-leash", daemon=True).start()
    code, farewell = 1, None
    try:
        from dask_flame.runner.process_exit import ProcessExit
        from dask_flame.runner.worker import run

        farewell = ProcessExit(end, orders["shutdown_timeout"])
        code = run(orders, farewell, in_peace.append)
    except BaseException:
        traceback.print_exc()
    if farewell is not None:
        farewell(code)
    end(code)


def _aside(descriptor: int) -> int:
    """Return another descriptor of a leash that is the standard input, which calls may read."""
    leash = os.dup(descriptor)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, descriptor)
    os.close(nothing)
    return leash


def _nobody_else() -> None:
    """See to what other runners have left: the guard is dead, before it has said anything."""
    with contextlib.suppress(ImportError):  # where they are is in what was not said
        from dask_flame.core.processes import MARK
        from dask_flame.runner.last_survivor import sweep

        if MARK in os.environ:
            sweep(os.environ[MARK], "", "")


def _go_to(*folders: str | None) -> None:
    """Work in the first of these folders that is there."""
    for folder in folders:
        if folder is not None:
            with contextlib.suppress(OSError):
                os.chdir(folder)
                return


def _line(leash: FileIO, rest: bytes) -> tuple[bytes | None, bytes]:
    """The next line, and what has been read beyond it; None at the leash's end."""
    while b"\n" not in rest:
        chunk = leash.read(1 << 16)
        if not chunk:
            return None, b""
        rest += chunk
    line, _, rest = rest.partition(b"\n")
    return line, rest


if __name__ == "__main__":
    live(int(sys.argv[1]), {os.getppid()})
