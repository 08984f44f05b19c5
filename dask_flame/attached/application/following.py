"""Follow work until it ends, its time limit is over, or it does not stop (application)."""

from __future__ import annotations

import time
from collections.abc import Callable

from dask_flame.attached.application.interruption import Work

#: Seconds after which work that does not react to interrupts is left alone.
GIVE_UP = 5.0
#: Seconds between two interrupts of work that goes on.
_INSIST = 0.1
#: Seconds for which output is collected before it is sent.
_COLLECT = 0.03


def follow(
    work: Work,
    *,
    timeout: float | None,
    detached: Callable[[], bool],
    pass_on: Callable[[], None] | None = None,
) -> str:
    """Wait until work has ended, or does not react to being interrupted.

    Parameters
    ----------
    work : Work
    timeout : float, optional
        Time limit, in seconds.
    detached : callable
        Whether the notebook has gone, or is detached.
    pass_on : callable, optional
        Sends the output so far; called often.

    Returns
    -------
    str
        Why it was stopped: empty, ``cancel``, ``timeout`` or ``detach``. It may have been
        interrupted without that, and go on.
    """
    begun = time.monotonic()
    why, since = "", 0.0
    while not work.done.wait(_COLLECT if pass_on is not None or why else 0.2):
        if pass_on is not None:
            pass_on()
        work.watch()
        now = time.monotonic()
        if not why:
            if detached():
                why = "detach"
            elif work.canceled:
                why = "cancel"
            elif timeout is not None and now - begun > timeout:
                why = "timeout"
            since = now
        if why:
            if now - since > GIVE_UP:
                break
            work.interrupt(every=_INSIST)
        elif work.blocked_for() > GIVE_UP:
            break
    return why
