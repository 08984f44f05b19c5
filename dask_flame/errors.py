"""Every error that dask-flame raises on purpose (all places).

::

    FlameError
    ├── PoolError        (also ValueError)    an option is wrong, or there is no such pool
    │   └── PositionalError (also TypeError)  ... it was given by position, not by name
    ├── BackendError                          a backend is unknown, or cannot be used here
    ├── ClosedError      (also RuntimeError)  a cluster that has closed is asked for something
    ├── ForkedError      (also RuntimeError)  a fork of the driver uses the driver's cluster
    ├── BootError        (also RuntimeError)  runners could not start
    │   └── BootTimeout  (also CallTimeout)   ... within their pool's boot_timeout
    ├── CallFailed       (also RuntimeError)  a call's end cannot be raised here as it was there
    ├── CallTimeout      (also TimeoutError)  a call was not done within its own timeout
    └── RunnerLost       (also KilledWorker)  a call went down with its runner
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dask_flame._lazy import attach

if TYPE_CHECKING:
    from dask_flame.core.runner_lost import RunnerLost as RunnerLost


#: What stands between why a runner has ended and the last lines that it printed.
PRINTED = "; it printed last:\n"


class FlameError(Exception):
    """What every error of dask-flame derives from."""


class PoolError(FlameError, ValueError):
    """An option of a Pool or a FlameCluster is wrong, or there is no such pool."""


class PositionalError(PoolError, TypeError):
    """An option was given by position; the message has the line that names it."""


class BackendError(FlameError):
    """A backend is unknown, not installed, or cannot be used here."""


class ClosedError(FlameError, RuntimeError):
    """A cluster that has closed, or a Client of it, is asked for something."""


class ForkedError(FlameError, RuntimeError):
    """A process that was forked from the driver uses the driver's cluster, or a Client of it."""


class BootError(FlameError, RuntimeError):
    """Runners could not start, so the calls that waited for them fail.

    The message holds the substrate's own words: the end of what the runner printed, its exit
    code, and the setting to change.
    """


class CallFailed(FlameError, RuntimeError):
    """A call has failed in a way that cannot be raised here as it was there.

    It has ended with what is no :class:`Exception`, such as ``sys.exit()``: ``__cause__`` is that
    then, with its code. Or its error cannot be pickled, or cannot be read in this process: the
    message has its text.
    """


class CallTimeout(FlameError, TimeoutError):
    """A call was not done in time: the message says which clock ran out, and where the call was."""


class BootTimeout(BootError, CallTimeout):
    """No runner came up within its pool's ``boot_timeout``, so the calls that waited fail."""


# It is one of distributed's errors as well, which the processes and the pure parts that need the
# others do without.
__getattr__, __dir__ = attach(__name__, {"RunnerLost": "dask_flame.core.runner_lost"})
