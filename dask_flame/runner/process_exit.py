"""The end of a runner's process, as Python's own exit would be, within a limit (runner).

A runner does not leave ``main`` as other programs do: threads of calls may still run, and Python's
own finalization under running threads hangs or crashes in libraries that are not written in Python.
So its steps are done here one by one, each bounded, and ``os._exit`` is the last one.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import io
import multiprocessing
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

#: Seconds that threads and processes which calls have left running have to end, at most.
_LEFT_RUNNING = 5.0
#: Of the time that there is, the part in which all this is to be done: whoever has told the runner
#: to end kills it when all of it is over.
_PART = 0.9
_FILE: Any = io.IOBase.__base__  # itself, and not what is only registered as one
_TEXT: Any = io.TextIOWrapper
_BUFFERED: Any = (io.BufferedWriter, io.BufferedRandom)


class ProcessExit:
    """Ends the process after all that Python does when it exits.

    In Python's order: threads that are not daemons end, then what is registered with
    :mod:`atexit` runs, and with it ``weakref.finalize``; at last files are flushed that are still
    open.

    Parameters
    ----------
    end : callable
        Ends the process at once with an exit code.
    within : float
        Seconds that all this may take: the pool's ``shutdown_timeout``.

    Attributes
    ----------
    broken_off : bool
        Whether calls were running when the runner was told to end. What they have started is not
        waited for then, as they are not.
    """

    def __init__(self, end: Callable[[int], Any], within: float) -> None:
        self.broken_off = False
        self._end = end
        self._within = within
        self._begun = threading.Lock()

    def __call__(self, code: int) -> NoReturn:
        """End the process with this exit code; whoever comes second waits for the first."""
        self._begun.acquire()  # and never released
        if self._within <= 0:
            self._end(code)
        limit = _PART * self._within
        last_resort = threading.Timer(limit, self._give_up, (code, threading.get_ident()))
        last_resort.daemon = True
        last_resort.start()
        for step in (self._await_others, atexit._run_exitfuncs, flush_files):
            try:
                step()
            except BaseException:
                traceback.print_exc()
        self._end(code)
        os._exit(code)

    def _await_others(self) -> None:
        """Let threads and processes end that calls have left running, as Python would."""
        within = 0.0 if self.broken_off else min(_LEFT_RUNNING, self._within / 2)
        due = time.monotonic() + within
        # Among what is registered there is what ends the threads of concurrent.futures. It waits
        # for them, without a limit.
        waiting = threading.Thread(target=_end_executors, name="flame-executors", daemon=True)
        waiting.start()
        waiting.join(within)
        for thread in threading.enumerate():
            if not thread.daemon and thread not in (threading.main_thread(), waiting):
                thread.join(max(0.0, due - time.monotonic()))
        # What is registered with atexit waits for these, without a limit too.
        for child in multiprocessing.active_children():
            if not child.daemon:
                child.join(max(0.0, due - time.monotonic()))
                if child.is_alive():
                    child.kill()

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
    # Private, and where concurrent.futures and others have Python end their threads before what is
    # registered with atexit runs.
    for function in reversed(list(threading._threading_atexits)):  # type: ignore[attr-defined]
        with contextlib.suppress(Exception):
            function()


def flush_files() -> None:
    """Have written what open files of this process still hold back.

    Those of C, too. A file that has more to write at its end, as a compressed one does, is closed.
    """
    gc.collect()
    standard = (sys.stdin, sys.stdout, sys.stderr, sys.__stdin__, sys.__stdout__, sys.__stderr__)
    # By its type alone: to ask a proxy for its class may do anything.
    objects = (thing for thing in gc.get_objects() if issubclass(type(thing), _FILE))
    files = [file for file in objects if not any(file is other for other in standard)]
    for kind, what in ((_TEXT, "flush"), (_FILE, "close"), (_BUFFERED, "flush")):
        for file in files:
            with contextlib.suppress(Exception):
                # Those of Python's own kinds lie beneath others, which may be about to write.
                own = type(file).__module__ == "_io"
                if isinstance(file, kind) and own == (what == "flush") and not file.closed:
                    getattr(file, what)()
    ctypes.CDLL(None).fflush(None)
