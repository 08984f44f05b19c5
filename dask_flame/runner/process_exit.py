"""End a runner's process in the way Python exits, within a time limit (runner).

A runner does not return from ``main``: threads of calls may still run, and Python's finalization
under running threads hangs or crashes in libraries not written in Python. Its steps are therefore
performed here one by one, each within a limit, and ``os._exit`` is the last one.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import io
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

#: Maximum number of seconds to wait for threads and processes left running by calls.
_LEFT_RUNNING = 5.0
#: Fraction of the limit within which to finish: the process is killed when the limit expires.
_PART = 0.9
_FILE: Any = io.IOBase.__base__  # the base class itself, without its registered subclasses
_TEXT: Any = io.TextIOWrapper
_BUFFERED: Any = (io.BufferedWriter, io.BufferedRandom)


class ProcessExit:
    """End the process after the steps of Python's own exit.

    In Python's order: threads that are not daemons end, then functions registered with
    :mod:`atexit` run, ``weakref.finalize`` among them; finally, open files are flushed.

    Parameters
    ----------
    end : callable
        Ends the process at once with an exit code.
    within : float
        Limit for all steps, in seconds: the pool's ``shutdown_timeout``.

    Attributes
    ----------
    broken_off : bool
        Whether calls were running when the runner was asked to end. In that case the threads and
        processes that calls have started are not waited for.
    """

    def __init__(self, end: Callable[[int], Any], within: float) -> None:
        self.broken_off = False
        self._since: float | None = None
        self._end = end
        self._within = within
        self._begun = threading.Lock()

    def begin(self) -> None:
        """Start the limit, before steps of the exit that are not performed here."""
        self._since = time.monotonic()

    def __call__(self, code: int) -> NoReturn:
        """End the process with this exit code; later callers wait for the first."""
        self._begun.acquire()  # and never released
        if self._within <= 0:
            self._end(code)
        spent = 0.0 if self._since is None else time.monotonic() - self._since
        limit = max(0.0, _PART * self._within - spent)
        last_resort = threading.Timer(limit, self._give_up, (code, threading.get_ident()))
        last_resort.daemon = True
        last_resort.start()
        for step in (self._await_others, atexit._run_exitfuncs, flush_files):
            try:
                step()
            except BaseException:
                with contextlib.suppress(Exception):  # the reader of the output may have died
                    traceback.print_exc()
        self._end(code)
        os._exit(code)

    def _await_others(self) -> None:
        """Wait for threads and processes left running by calls, as Python would."""
        within = 0.0 if self.broken_off else min(_LEFT_RUNNING, self._within / 2)
        due = time.monotonic() + within
        # One of these functions joins the threads of concurrent.futures, without a limit.
        waiting = threading.Thread(target=_end_executors, name="flame-executors", daemon=True)
        waiting.start()
        waiting.join(within)
        for thread in threading.enumerate():
            if not thread.daemon and thread not in (threading.main_thread(), waiting):
                thread.join(max(0.0, due - time.monotonic()))
        # A function registered with atexit waits for these, also without a limit.
        for child in multiprocessing.active_children():
            if not child.daemon:
                child.join(max(0.0, due - time.monotonic()))
                if child.is_alive() and child.pid is not None:
                    # Not by its own method, which loky's processes lack. It was not reaped.
                    with contextlib.suppress(OSError):
                        os.kill(child.pid, signal.SIGKILL)

    def _give_up(self, code: int, thread: int) -> None:
        with contextlib.suppress(Exception):
            frames = traceback.extract_stack(sys._current_frames()[thread])
            own = max(n for n, frame in enumerate(frames) if frame.filename == __file__)
            where = "".join(traceback.format_list(frames[own + 1 :])) or "  beneath Python"
            print(
                "what runs when Python exits (atexit, weakref.finalize) did not end within "
                f"shutdown_timeout={self._within:g} s, and was broken off here:\n{where}",
                file=sys.stderr,
                flush=True,
            )
        self._end(code)


def _end_executors() -> None:
    # Private: concurrent.futures and others use it to end their threads before the functions
    # registered with atexit run.
    for function in reversed(list(threading._threading_atexits)):  # type: ignore[attr-defined]
        with contextlib.suppress(Exception):
            function()


def flush_files() -> None:
    """Flush the open files of this process, including those of C.

    Files that write a trailer at their end, such as compressed ones, are closed.
    """
    gc.collect()
    standard = (sys.stdin, sys.stdout, sys.stderr, sys.__stdin__, sys.__stdout__, sys.__stderr__)
    # Uses only the type: asking a proxy for its class may run any code.
    objects = (thing for thing in gc.get_objects() if issubclass(type(thing), _FILE))
    files = [file for file in objects if not any(file is other for other in standard)]
    for kind, what in ((_TEXT, "flush"), (_FILE, "close"), (_BUFFERED, "flush")):
        for file in files:
            with contextlib.suppress(Exception):
                # Python's own files may lie beneath others, which write to them when closed.
                own = type(file).__module__ == "_io"
                if isinstance(file, kind) and own == (what == "flush") and not file.closed:
                    getattr(file, what)()
    ctypes.CDLL(None).fflush(None)
