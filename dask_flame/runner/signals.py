"""Give processes forked by a call the default signal handlers, not the runner's (runner).

At a SIGTERM a runner finishes its calls. A process forked by a call, such as a worker of a
DataLoader or of a multiprocessing pool, must end instead.
"""

from __future__ import annotations

import os
import signal
import threading

_OURS = (signal.SIGTERM, signal.SIGINT)
_mask = threading.local()


def use_usual_signals() -> None:
    """Restore the default signal handlers in forks of this process from now on."""
    os.register_at_fork(before=_hold, after_in_parent=_let_through, after_in_child=_begin)


def _hold() -> None:
    # Block signals to the child until it has dropped the inherited handlers.
    _mask.before = signal.pthread_sigmask(signal.SIG_BLOCK, _OURS)


def _let_through() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _mask.before)


def _begin() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _let_through()
