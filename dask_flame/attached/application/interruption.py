"""Interrupt code in a thread by an exception, and never code beside it (application).

CPython can raise an exception in another thread, at the next moment when that thread runs Python
code. It must hit a cell, and not what the thread does before or after it: therefore the exception
is requested only while the cell is known to run, and withdrawn if it is still pending when the cell
ends.

The exception can come between any two calls, so also after the acquisition of a lock that is never
released then, because the thread ends. Code of dask-flame that a cell calls is therefore
:func:`shielded`. The standard library's code around locks is avoided as far as that is possible.

Where the thread is, is read from its frames: from the names of functions, and from the last
instruction. What an instruction means is known of CPython 3.11 to 3.13 with its interpreter lock,
and was tried there. In others, no instruction is read: an interrupt waits until the thread is in
one place, as in a call of C code, or for the whole patience, and then comes outside of those
functions. It may be half a second late, and hits a lock more easily.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dis import opname
from types import FrameType
from typing import Any, Protocol, TypeVar

T = TypeVar("T")

# Both calls keep the interpreter lock, so that nothing runs between a check and the request.
_request_exception = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_ulong, ctypes.py_object)(
    ("PyThreadState_SetAsyncExc", ctypes.pythonapi)
)
_withdraw_exception = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)(
    ("PyThreadState_SetAsyncExc", ctypes.pythonapi)
)

#: Files with functions that acquire and release locks of the application. An exception in one of
#: these functions would leave its log, for example, locked for ever.
_DELICATE = frozenset(
    {
        *(module.__file__ for module in (contextlib, logging, queue, threading)),
        os.path.join(os.path.dirname(logging.__file__), "handlers.py"),
        "<frozen importlib._bootstrap>",
    }
)
_LOCKING = frozenset(
    {"__enter__", "__exit__", "acquire", "release", "_acquireLock", "_releaseLock"}
    | {"_acquire_restore", "_release_save"}
)
#: Seconds to wait until a thread is in a place where it surely does not lock, and then until it has
#: left such a function.
_PATIENCE, _LONGER = 0.3, 0.3
#: Seconds between two looks at it.
_LOOK = 0.0005
#: Looks at which a thread is in the same place, so that it is in a call of C code.
_BLOCKED = 20
#: Beginnings of the names of instructions that call functions.
_CALLS = ("CALL", "PRECALL", "CACHE")


def _knows_instructions() -> bool:
    """Return whether the instructions of this interpreter are known."""
    has_lock = getattr(sys, "_is_gil_enabled", lambda: True)()
    known = (3, 11) <= sys.version_info[:2] <= (3, 13)
    return sys.implementation.name == "cpython" and known and has_lock


_KNOWS_INSTRUCTIONS = _knows_instructions()


def _may_lock(frame: FrameType, *, blocked: bool) -> bool:
    """Return whether an exception in a frame could come between a lock's acquisition and release.

    A function that is called and has not begun is not seen yet, only the call.
    """
    if _locks(frame):
        return True
    if blocked:
        return False
    if not _KNOWS_INSTRUCTIONS:
        return True
    return opname[frame.f_code.co_code[frame.f_lasti]].startswith(_CALLS)


def _locks(frame: FrameType) -> bool:
    code = frame.f_code
    return code.co_name in _LOCKING and code.co_filename in _DELICATE


class Guard:
    """Calls functions that another thread may interrupt, one at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = False
        self._requested = False
        # Where the thread was when an interrupt was requested, and since when.
        self._requested_at: tuple[tuple[int, int], float] | None = None
        self._thread = 0
        self._since = 0.0
        self._shields = 0
        self._put_off = False

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """Call a function; afterwards no exception is or will be raised in this thread."""
        result: Any = None
        error: BaseException | None = None
        thread = threading.get_ident()
        before = _guards.get(thread)
        if before is self:  # a task that is started at once, inside of a step
            return function(*args)
        self._shields, self._put_off = 0, False
        _guards[thread] = self
        try:
            with self._lock:
                self._thread, self._since = thread, time.monotonic()
                self._requested_at = None
                self._inside = True
            result = function(*args)
        except BaseException as raised:
            error = raised
        # The interpreter raises a pending exception after calls and at backward jumps.
        while self._inside:
            try:
                with self._lock:  # no exception is requested while this is held, or later
                    self._inside = False
            except KeyboardInterrupt:
                continue
        if self._requested:
            self._withdraw()
        if before is None:
            _guards.pop(thread, None)
        else:
            _guards[thread] = before
        if error is not None:
            try:
                raise error
            finally:
                del error  # it refers to this frame
        return result  # type: ignore[no-any-return]

    def interrupt(self) -> bool:
        """Raise KeyboardInterrupt in the function, which may catch it; return whether it runs."""
        due = time.monotonic() + _PATIENCE
        before, looks = (0, 0), 0
        while True:
            with self._lock:
                if not self._inside:
                    return False
                if self._shields:
                    self._put_off = True
                    return True
                frame, place = self._place()
                looks = looks + 1 if place == before else 0
                # The exception is raised where the thread is now: it waits for the interpreter
                # lock, which this thread hardly gives away from here on.
                now = time.monotonic()
                if (
                    frame is None
                    or not _may_lock(frame, blocked=looks > _BLOCKED)
                    or (now > due and not _locks(frame))
                    or now > due + _LONGER
                ):
                    self._requested = True
                    if self._requested_at is None or self._requested_at[0] != place:
                        self._requested_at = place, now
                    _request_exception(self._thread, KeyboardInterrupt)
                    return True
                del frame
            before = place
            time.sleep(_LOOK)

    def blocked_for(self) -> float:
        """Return for how many seconds the thread has not moved since it was interrupted.

        While it is in a call of C code, no exception is raised in it. A function that has caught
        the exception is elsewhere.
        """
        with self._lock:
            if not self._inside or self._requested_at is None:
                return 0.0
            place, since = self._requested_at
            if self._place()[1] != place:
                self._requested_at = None
                return 0.0
            return time.monotonic() - since

    def _place(self) -> tuple[FrameType | None, tuple[int, int]]:
        """Return the frame that the thread is in, and what identifies its instruction there."""
        frame = sys._current_frames().get(self._thread)
        return frame, (0, 0) if frame is None else (id(frame), frame.f_lasti)

    def after_fork(self) -> None:
        """Replace the lock, which another thread may have held."""
        self._lock = threading.Lock()

    def shield(self) -> None:
        """Put off exceptions in this thread, which is inside, until :meth:`unshield`."""
        held = False
        try:
            with self._lock:
                self._shields += 1
                held = True
            # What was requested before is raised here at the latest.
            for _ in range(2):
                pass
        except BaseException:
            if held:
                self._shields -= 1
            raise

    def unshield(self) -> None:
        """Raise what was put off."""
        with self._lock:
            self._shields -= 1
        if not self._shields and self.put_off():
            raise KeyboardInterrupt

    def put_off(self) -> bool:
        """Return once whether an exception was put off."""
        with self._lock:
            put_off, self._put_off = self._put_off, False
        return put_off

    def inside_for(self) -> float:
        """Return for how many seconds the function has run; 0 if it does not."""
        with self._lock:
            return time.monotonic() - self._since if self._inside else 0.0

    def _withdraw(self) -> None:
        """Withdraw an exception that may be pending in this thread.

        CPython until 3.12 forgets a request only when it raises the exception.
        """
        self._requested = False
        try:
            _withdraw_exception(threading.get_ident(), None)
            _request_exception(threading.get_ident(), KeyboardInterrupt)
            for _ in range(1_000):
                pass
        except KeyboardInterrupt:
            pass


#: The guards that call a function now, by their threads.
_guards: dict[int, Guard] = {}


def after_fork() -> None:
    """Forget the other threads in a forked process, where nobody interrupts anything."""
    for guard in _guards.values():
        guard.after_fork()
    _guards.clear()


class shielded:  # noqa: N801
    """Put off the interruption of the cell that calls this, until the end of the block."""

    def __init__(self) -> None:
        self._guard = _guards.get(threading.get_ident())

    def __enter__(self) -> shielded:
        if self._guard is not None:
            self._guard.shield()
        return self

    def __exit__(self, *_: object) -> None:
        if self._guard is not None:
            self._guard.unshield()

    def interrupted(self) -> bool:
        """Return once whether an interrupt was put off, which then is not raised."""
        return self._guard is not None and self._guard.put_off()


class Elsewhere(Protocol):
    """A part of some work in another thread, such as that of an event loop."""

    def interrupt(self) -> bool:
        """Interrupt it; return False if it has ended before."""

    def blocked_for(self) -> float:
        """Return for how many seconds it has not moved since it was interrupted."""

    def watch(self) -> None: ...


class Work:
    """A function that runs in a thread of its own.

    Parameters
    ----------
    function : callable
        Called without arguments.
    name : str
        Name of the thread.
    around : context manager, optional
        Entered around the function in its thread, and never interrupted.

    Attributes
    ----------
    done : threading.Event
        Set when the function has ended.
    result : object
        What it has returned.
    error : BaseException or None
        What it has raised.
    on_end : callable or None
        Called in its thread when it has ended.
    canceled : bool
        Whether nobody wants its result any more.
    elsewhere : Elsewhere or None
        The part of it that its thread waits for.
    """

    def __init__(
        self,
        function: Callable[[], Any],
        name: str,
        *,
        around: AbstractContextManager[object] | None = None,
    ) -> None:
        self.done = threading.Event()
        self.result: Any = None
        self.error: BaseException | None = None
        self.on_end: Callable[[], object] | None = None
        self.canceled = False
        self.elsewhere: Elsewhere | None = None
        self._function: Callable[[], Any] | None = function
        self._around = around or contextlib.nullcontext()
        self._guard = Guard()
        self._wanted = True
        self._first = self._last = 0.0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def interrupt(self, *, every: float = 0.0) -> None:
        """Raise KeyboardInterrupt in the function, which may catch it.

        Parameters
        ----------
        every : float
            Do nothing if this was called less than so many seconds ago.
        """
        self._wanted = False
        now = time.monotonic()
        if now - self._last < every:
            return
        self._first, self._last = self._first or now, now
        elsewhere = self.elsewhere
        if elsewhere is None or not elsewhere.interrupt():
            self._guard.interrupt()

    def blocked_for(self) -> float:
        """Return for how many seconds it was in one call of C code since :meth:`interrupt`."""
        if not self._first:
            return 0.0
        elsewhere = self.elsewhere
        blocked = self._guard.blocked_for() if elsewhere is None else elsewhere.blocked_for()
        # The part in another thread may have been interrupted for its own sake before.
        return min(blocked, time.monotonic() - self._first)

    def watch(self) -> None:
        """Look after the part of it in another thread; to be called repeatedly."""
        if (elsewhere := self.elsewhere) is not None:
            elsewhere.watch()

    def _run(self) -> None:
        _current.set(self)
        function, self._function = self._function, None
        assert function is not None
        try:
            with self._around:
                self.result = self._guard.call(self._wanted_call, function)
        except BaseException as error:
            self.error = error
        finally:
            del function
            self._around = contextlib.nullcontext()
            if self.on_end is not None:
                self.on_end()
            self.done.set()

    def _wanted_call(self, function: Callable[[], Any]) -> Any:
        # An interrupt that came before the guard's call has found nothing to interrupt.
        if not self._wanted:
            raise KeyboardInterrupt
        return function()


_current: ContextVar[Work | None] = ContextVar("dask_flame_attached_work", default=None)


def current_work() -> Work | None:
    """Return the work in whose context this code runs."""
    return _current.get()
