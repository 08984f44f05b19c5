"""Errors that dask-flame raises (all places).

::

    FlameError
    ├── AttachError      (also RuntimeError)  an application cannot be exposed or attached to
    │   └── CellError                         a cell failed in an application
    ├── PoolError        (also ValueError)    an option is not valid, or a pool does not exist
    │   └── PositionalError (also TypeError)  ... because it was given by position
    ├── BackendError                          a backend is unknown or cannot be used here
    ├── ClosedError      (also RuntimeError)  a cluster was used after it had closed
    ├── ForkedError      (also RuntimeError)  a fork of the driver used the driver's cluster
    ├── BootError        (also RuntimeError)  runners could not start
    │   └── BootTimeout  (also CallTimeout)   ... within the boot_timeout of their pool
    ├── BudgetExhausted  (also RuntimeError)  the budget of the cluster is spent
    ├── CallFailed       (also RuntimeError)  a call failed with an error that cannot be raised here
    ├── CallStopped                           dask_flame.stop() has ended a call
    ├── CallTimeout      (also TimeoutError)  a call did not finish within its timeout
    └── RunnerLost       (also KilledWorker)  the runner of a call ended before the call did
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from dask_flame._lazy import attach

if TYPE_CHECKING:
    from dask_flame.core.runner_lost import RunnerLost as RunnerLost


#: Separates the reason of a runner's end from the last lines that it printed.
PRINTED = "; it printed last:\n"


#: The page with a section for each class of errors.
_PAGE = "docs/errors.md"


class FlameError(Exception):
    """Base class of all errors of dask-flame.

    Attributes
    ----------
    help_link : str
        Where the documentation explains errors of this class. Tracebacks end with it.
    """

    help_link = f"{_PAGE}#flameerror"

    def __init_subclass__(cls, *, explained: bool = False, **more: object) -> None:
        # Other subclasses are explained with their base.
        super().__init_subclass__(**more)
        if explained:
            cls.help_link = f"{_PAGE}#{cls.__name__.lower()}"

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self._add_help()

    def _add_help(self) -> None:
        # A note, as tests and programs compare the text of errors.
        self.add_note(f"About this error: {self.help_link} in dask-flame's documentation")


class AttachError(FlameError, RuntimeError, explained=True):
    """An application cannot be exposed, cannot be attached to, or has refused a request."""


class CellError(AttachError, explained=True):
    """A cell failed in the application to which this notebook is attached.

    It is raised as a subclass with the name of the error in the application, which itself does not
    travel.

    Attributes
    ----------
    name : str
        Name of the class of the error.
    value : str
        Its message.
    traceback : list of str
        Its traceback with the lines of the source, as text.
    """

    def __init__(self, name: str, value: str, traceback: list[str]) -> None:
        super().__init__(value)
        self.name = name
        self.value = value
        self.traceback = traceback

    def _render_traceback_(self) -> list[str]:
        return self.traceback


class PoolError(FlameError, ValueError, explained=True):
    """An option of a Pool or a FlameCluster is not valid, or a pool does not exist."""


class PositionalError(PoolError, TypeError, explained=True):
    """An option was given by position; the message has the line with its keyword."""


class BackendError(FlameError, explained=True):
    """A backend is unknown, not installed, or cannot be used here."""


class ClosedError(FlameError, RuntimeError, explained=True):
    """A cluster, or a Client of it, was used after the cluster had closed."""


class ForkedError(FlameError, RuntimeError, explained=True):
    """A process that was forked from the driver used the driver's cluster or its Client."""


class BootError(FlameError, RuntimeError, explained=True):
    """Runners could not start, so the calls that waited for them fail.

    The message contains the error text of the substrate, the exit code and last output of the
    runner, and the setting to change.
    """


class BudgetExhausted(FlameError, RuntimeError, explained=True):
    """The budget of the cluster is spent, so the calls that waited for a runner fail.

    The message contains the figure, and the line that raises the budget. Later calls fail with it
    at once until then.
    """


class CallFailed(FlameError, RuntimeError, explained=True):
    """A call failed with an error that cannot be raised here as it was raised there.

    The call raised a BaseException that is not an :class:`Exception`, such as ``SystemExit``, which
    is then the ``__cause__``; or its error could not be pickled, or could not be unpickled in this
    process, and the message has its text.
    """


class CallStopped(FlameError, explained=True):
    """:func:`dask_flame.stop` has ended a call.

    :func:`dask_flame.report` raises it in the call, at each report after the stop. The call may
    catch it, save its state and return a result. If it leaves the call, it is the error of its
    future. A call that raises it by itself counts as stopped, too.
    """


class CallTimeout(FlameError, TimeoutError, explained=True):
    """A call did not finish in time; the message names the timeout and the state of the call."""


class BootTimeout(BootError, CallTimeout, explained=True):
    """No runner started within the ``boot_timeout`` of its pool, so the calls that waited fail."""

    def __new__(cls, *args: object) -> Self:
        # tblib, which Dask pickles errors with, calls the first one of its bases, RuntimeError's.
        return TimeoutError.__new__(cls, *args)


# RunnerLost derives from an error of distributed, which processes that need only the other errors
# must not import.
__getattr__, __dir__ = attach(__name__, {"RunnerLost": "dask_flame.core.runner_lost"})
