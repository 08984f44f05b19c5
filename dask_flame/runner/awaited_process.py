"""End the child process that a call waits for, so that the call can be interrupted (runner).

The interpreter raises an exception in a thread only when the thread runs Python code again. A call
in ``subprocess.run`` does so when its child has ended, hours later perhaps. Only the process that
the thread waits for at this moment is ended: others that the call has started may be meant to go
on, or belong to other calls on the runner.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from multiprocessing import popen_fork

import psutil

#: The methods in which every wait of the module subprocess ends: those of ``run``, ``call`` and
#: ``check_output``, and of a ``with`` block over a process.
_WAITS = frozenset({subprocess.Popen.wait.__code__, subprocess.Popen.communicate.__code__})
#: Those in which the modules subprocess and multiprocessing start a process, by any method.
_STARTS = frozenset({subprocess.Popen.__init__.__code__, popen_fork.Popen.__init__.__code__})


def awaited_process(thread: int) -> subprocess.Popen[bytes] | None:
    """Return the child process that a thread waits for, or None.

    Parameters
    ----------
    thread : int
        Identifier of the thread.
    """
    frame = sys._current_frames().get(thread)
    while frame is not None:
        if frame.f_code in _WAITS:
            process: subprocess.Popen[bytes] = frame.f_locals["self"]
            return process
        frame = frame.f_back
    return None


def starts_process(thread: int) -> bool:
    """Return whether a thread is in the middle of starting a child process.

    If an exception is raised there, nobody knows of the process, and it stays.
    """
    frame = sys._current_frames().get(thread)
    while frame is not None:
        if frame.f_code in _STARTS:
            return True
        frame = frame.f_back
    return False


def end_awaited_process(thread: int, *, kindly: bool) -> None:
    """End the child process that a thread waits for, if there is one, with all its descendants.

    Parameters
    ----------
    thread : int
        Identifier of the thread.
    kindly : bool
        Whether to ask them to end (SIGTERM), or to kill them.
    """
    process = awaited_process(thread)
    if process is None or process.returncode is not None:
        return
    number = signal.SIGTERM if kindly else signal.SIGKILL
    # A shell does not pass signals on, and its children hold the pipes that the call reads.
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                child.send_signal(number)
    with contextlib.suppress(OSError):
        process.send_signal(number)
