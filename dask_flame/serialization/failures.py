"""The errors by which calls fail: made fit to be sent, and read without harm (all places).

An error is an object of the user's. It may hold something that cannot be pickled, refuse to be
shown, end the process when it is raised where distributed does not expect it, or be of a class that
the driver does not have. What is sent in its place is always an :class:`Exception` with a text.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import os
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Executor
from functools import partial
from types import TracebackType
from typing import Any

import cloudpickle
import tblib.pickling_support
from distributed.core import ErrorMessage, error_message
from distributed.protocol import Serialize, pickle

from dask_flame.errors import CallFailed

#: Frames of a traceback that travel: so many of its beginning, and of its end. Pickling nests once
#: for each frame, so that a traceback of a thousand frames reaches the recursion limit.
_FRAMES = 40
#: Longest text of an error, in characters.
_TEXT = 10_000
#: Causes and contexts of an error that travel with it.
_CAUSES = 20

#: Files of which the frames at the beginning of a traceback are not the user's.
_OURS = (
    os.path.join("dask_flame", "serialization", "packed.py"),
    os.path.join("dask", "_task_spec.py"),
)

#: Errors of which message or code are made of their args when they are made, and not again when
#: they are read.
_BY_ARGS: tuple[Any, ...] = (
    SystemExit,
    StopIteration,
    SyntaxError,
    UnicodeDecodeError,
    UnicodeEncodeError,
    UnicodeTranslateError,
)


class Interrupted(BaseException):
    """Raised inside a call that is to stop: its timeout ran out, or nobody wants it any more.

    Not an :class:`Exception`, so that ``except Exception`` does not hold it up.
    """


def text_of(error: BaseException) -> str:
    """Return the class and the message of an error, whatever its own methods do."""
    name = type(error).__name__
    try:
        said = str(error)
    except Interrupted:
        raise
    except BaseException as why:
        return f"{name} (its message cannot be shown: {type(why).__name__})"
    said = said if len(said) <= _TEXT else said[:_TEXT] + "…"
    return f"{name}: {said}" if said else name


def fit_to_travel(error: BaseException) -> Exception:
    """Return the exception by which the driver learns of an error that a call has raised.

    Parameters
    ----------
    error : BaseException
        Its traceback is shortened, and a circle among its causes is cut.

    Returns
    -------
    Exception
        The error itself, if it is an Exception that can be shown, pickled and read back, without
        what it came from if that cannot. Otherwise
        a :class:`dask_flame.errors.CallFailed` with its text: its ``__cause__`` is the error where
        that can travel.
    """
    for each in _chain(error):
        each.__traceback__ = _shortened(each.__traceback__)
    why = _why_not(error) and _why_not(_relieved(error))
    if not why and isinstance(error, Exception):
        return error
    said = text_of(error)
    if not isinstance(error, Exception):
        said = f"the call {_raised(error)}: it has failed, and its runner goes on"
    failed = CallFailed(f"{said} ({why})" if why else said)
    failed.__cause__ = None if why else error
    return failed.with_traceback(error.__traceback__)


def message_of(error: BaseException) -> ErrorMessage:
    """Return distributed's message of an error, whatever that is made of."""
    raised = fit_to_travel(error)
    try:
        return error_message(raised)
    except Interrupted:
        raise
    except BaseException:
        # It could be pickled a moment ago.
        return error_message(CallFailed(text_of(error)))


def shielded(function: Callable[..., Any]) -> Callable[..., Any]:
    """Have a function, which runs code of the user's for distributed, raise Exceptions alone."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            result = function(*args, **kwargs)
        except (Exception, Interrupted, asyncio.CancelledError):
            raise
        except BaseException as error:
            raised = fit_to_travel(error)
        else:
            return _shielded(result) if inspect.iscoroutine(result) else result
        raise raised

    return call


async def _shielded(work: Coroutine[Any, Any, Any]) -> Any:
    try:
        return await work
    except (Exception, Interrupted, asyncio.CancelledError, GeneratorExit):
        raise
    except BaseException as error:
        raised = fit_to_travel(error)
    raise raised


def answer_always(executor: Executor) -> None:
    """Have the futures of this executor end, whatever is raised in its threads."""
    submit: Any = executor.submit
    if getattr(submit, "args", ()) != (_as_in_a_thread,):
        setattr(executor, "submit", partial(submit, _as_in_a_thread))  # noqa: B010


def _as_in_a_thread(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call this in a thread of an executor, of which the future can hold what it raises.

    A future takes a CancelledError for its own end, and refuses a StopIteration.
    """
    try:
        return function(*args, **kwargs)
    except StopIteration as error:
        raised: Exception = RuntimeError(f"it has raised {text_of(error)}")
        raised.__cause__ = error
    except (Exception, Interrupted):
        raise
    except BaseException as error:
        raised = fit_to_travel(error)
    raise raised


async def unharmed(work: Any) -> Any:
    """Return what a handler of distributed's returns, which runs code of the user's on its loop.

    Such a handler answers with an error where an Exception is raised in it. Anything else would end
    the loop: here it is such an answer too.
    """
    try:
        return await work if inspect.isawaitable(work) else work
    except (Exception, asyncio.CancelledError, GeneratorExit):
        raise
    except BaseException as error:
        return message_of(error)


def sealed(exception: Serialize, text: str) -> Serialize:
    """Wrap a pickled exception so that it can be read where its class cannot be.

    Parameters
    ----------
    exception : distributed.protocol.Serialize
        Of the bytes that distributed has made of it.
    text : str
        What is read where the exception cannot be.
    """
    return Serialize(pickle.dumps(_Sealed(_opened, exception.data, text)))


def sealed_error(error: BaseException) -> Serialize:
    """Return what any process reads as the error, or as a CallFailed with its text."""
    error = fit_to_travel(error)
    tblib.pickling_support.install(error)
    return Serialize(_Sealed(_opened, cloudpickle.dumps(error), text_of(error)))


def sealed_traceback(tb: Serialize | None) -> Serialize | None:
    """Wrap a pickled traceback so that it is left out where it cannot be read."""
    return None if tb is None else Serialize(pickle.dumps(_Sealed(_opened_traceback, tb.data)))


class _Sealed:
    """Pickles as a call of this function: what is read back is what that returns."""

    def __init__(self, function: Any, *args: Any) -> None:
        self._reduced = function, args

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self._reduced


def _opened(pickled: bytes, text: str) -> Exception:
    try:
        error = pickle.loads(pickled)
    except BaseException as why:
        return CallFailed(f"{text} (the error itself cannot be read here: {text_of(why)})")
    if not isinstance(error, Exception):
        return CallFailed(text)
    for each in _chain(error):
        _restore(each)
    return error


def _restore(error: BaseException) -> None:
    """Give an error what tblib, by which distributed pickles it, leaves out: all but its args."""
    for kind in _BY_ARGS:
        if isinstance(error, kind) and type(error).__init__ is kind.__init__:
            with contextlib.suppress(Exception):
                kind.__init__(error, *error.args)


def _opened_traceback(pickled: bytes) -> TracebackType | None:
    try:
        tb = pickle.loads(pickled)
    except BaseException:
        return None
    while tb is not None and tb.tb_frame.f_code.co_filename.endswith(_OURS):
        tb = tb.tb_next  # between the worker and the user's own code
    return tb if isinstance(tb, TracebackType) else None


def _raised(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        try:
            code = repr(error.code)
        except Exception:
            code = "…"
        return (
            f"has exited with SystemExit({code}) before it returned a value (write return in place "
            "of sys.exit(); of a click command, command(args, standalone_mode=False))"
        )
    return f"has ended with {text_of(error)}, which is not an Exception"


def _relieved(error: BaseException) -> BaseException:
    """Take from an error what cannot be sent with it: attributes, and what it came from."""
    lost = []
    for name, value in list(getattr(error, "__dict__", {}).items()):
        try:
            pickle.loads(pickle.dumps(value))
        except Interrupted:
            raise
        except BaseException:
            with contextlib.suppress(Exception):
                del error.__dict__[name]
                lost.append(f"its {name}")
    for each, what in ((error.__cause__, "its cause"), (error.__context__, "what it came from")):
        if each is not None and _why_not(each):
            lost.append(f"{what} ({text_of(each)})")
            error.__cause__ = error.__context__ = None
    if lost:
        with contextlib.suppress(Exception):
            error.add_note(f"Left out, as it cannot be pickled: {', '.join(lost)}.")
    return error


def _why_not(error: BaseException) -> str:
    """Return why this error cannot be sent; empty where it can."""
    try:
        str(error), repr(error)
    except Interrupted:
        raise
    except BaseException as why:
        return f"the error itself is not sent, as it cannot be shown: {text_of(why)}"
    try:
        # As distributed does before it pickles an error: with its traceback and its causes.
        tblib.pickling_support.install(*_chain(error))
        # Not kept: its traceback holds this frame, and those beneath it, with what the call had.
        fits = isinstance(pickle.loads(pickle.dumps(error)), BaseException)
    except Interrupted:
        raise
    except BaseException as why:
        return f"the error itself is not sent: {text_of(why)}"
    return "" if fits else "it reads back as something else"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it came from; cut off what would never end."""
    seen: set[int] = set()
    todo = [error]
    while todo:
        each = todo.pop()
        seen.add(id(each))
        for name in ("__cause__", "__context__"):
            other = getattr(each, name)
            if other is None:
                continue
            if id(other) in seen or len(seen) >= _CAUSES:
                suppressed = each.__suppress_context__
                setattr(each, name, None)
                each.__suppress_context__ = suppressed
            else:
                todo.append(other)
        yield each


def _shortened(tb: TracebackType | None) -> TracebackType | None:
    frames = []
    while tb is not None:
        frames.append(tb)
        tb = tb.tb_next
    if len(frames) > 2 * _FRAMES:
        frames = frames[:_FRAMES] + frames[-_FRAMES:]
        short: TracebackType | None = None
        for frame in reversed(frames):
            short = TracebackType(short, frame.tb_frame, frame.tb_lasti, frame.tb_lineno)
        return short
    return frames[0] if frames else None
