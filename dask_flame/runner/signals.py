"""What a call forks has the signals of any process, not those of its runner (runner).

A runner that gets a SIGTERM sees its calls out. A process that a call has forked, a DataLoader's
worker or one of a multiprocessing pool, has to end when it is told to.
"""

from __future__ import annotations

import os
import signal
import threading

_OURS = (signal.SIGTERM, signal.SIGINT)
_mask = threading.local()


def use_usual_signals() -> None:
    """From now on, forks of this process begin with the usual handlers."""
    os.register_at_fork(before=_hold, after_in_parent=_let_through, after_in_child=_begin)


def _hold() -> None:
    # What is sent to a child at once must not meet the handlers that it has inherited.
    _mask.before = signal.pthread_sigmask(signal.SIG_BLOCK, _OURS)


def _let_through() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _mask.before)


def _begin() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _let_through()
