"""Make the errors of calls safe to send and to read (all places).

The error of a call is a user's object. It may contain something that cannot be pickled, raise when
it is shown, end the process when it is raised where distributed does not expect it, or be of a
class that the driver cannot import. The error that is sent instead is always an :class:`Exception`
with a text.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import os
import re
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

#: Frames of a traceback to send, from its beginning and from its end. Pickling recurses for each
#: frame, so that a traceback of a thousand frames exceeds the recursion limit.
_FRAMES = 40
#: Maximum length of an error's text, in characters.
_TEXT = 10_000
#: Maximum number of causes and contexts to send with an error.
_CAUSES = 20

#: Files whose frames at the beginning of a traceback are hidden.
_OURS = (
    os.path.join("dask_flame", "serialization", "packed.py"),
    os.path.join("dask", "_task_spec.py"),
)

_IN_DISTRIBUTED = f"{os.sep}distributed{os.sep}"

#: Errors that set their message or code from their args in ``__init__``, which unpickling does not
#: call.
_BY_ARGS: tuple[Any, ...] = (
    SystemExit,
    StopIteration,
    SyntaxError,
    UnicodeDecodeError,
    UnicodeEncodeError,
    UnicodeTranslateError,
)


class Interrupted(BaseException):
    """Raised inside a call to stop it: its timeout has expired, or it was cancelled.

    Not an :class:`Exception`, so that ``except Exception`` does not catch it.
    """


def text_of(error: BaseException) -> str:
    """Return the class and the message of an error, even if its own methods raise."""
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
    """Return the exception to send to the driver for an error that a call has raised.

    Parameters
    ----------
    error : BaseException
        Its traceback is shortened, and a cycle among its causes is cut.

    Returns
    -------
    Exception
        The error itself, if it is an Exception that can be shown, pickled and unpickled; without
        its causes and attributes that cannot be pickled. Otherwise a
        :class:`dask_flame.errors.CallFailed` with its text, whose ``__cause__`` is the error if it
        can be sent.
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
    """Return distributed's message for an error, whatever the error contains."""
    raised = fit_to_travel(error)
    try:
        return error_message(raised)
    except Interrupted:
        raise
    except BaseException:
        # Pickling can fail now even though it succeeded before.
        return error_message(CallFailed(text_of(error)))


def shielded(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function that runs user code for distributed, so that it raises only Exceptions."""

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
    """Let the futures of an executor finish, whatever is raised in its threads."""
    submit: Any = executor.submit
    if getattr(submit, "args", ()) != (_as_in_a_thread,):
        setattr(executor, "submit", partial(submit, _as_in_a_thread))  # noqa: B010


def _as_in_a_thread(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function in a thread of an executor, and raise only errors that a future can hold.

    A future treats a CancelledError as its own cancellation, and refuses a StopIteration.
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
    """Await a handler of distributed that runs user code on the event loop.

    distributed answers with an error if the handler raises an Exception. Any other BaseException
    would end the event loop, so it is returned as such an answer.
    """
    try:
        return await work if inspect.isawaitable(work) else work
    except (Exception, asyncio.CancelledError, GeneratorExit):
        raise
    except BaseException as error:
        return message_of(error)


def sealed(exception: Serialize, text: str) -> Serialize:
    """Wrap a pickled exception so that a process without its class can read it.

    Parameters
    ----------
    exception : distributed.protocol.Serialize
        The exception, as pickled by distributed.
    text : str
        Text of the :class:`CallFailed` that replaces an exception that cannot be unpickled.

    Returns
    -------
    distributed.protocol.Serialize
    """
    return Serialize(pickle.dumps(_Sealed(_opened, exception.data, text)))


def sealed_error(error: BaseException) -> Serialize:
    """Return an error that any process can unpickle, as itself or as a CallFailed."""
    error = fit_to_travel(error)
    tblib.pickling_support.install(error)
    return Serialize(_Sealed(_opened, cloudpickle.dumps(error), text_of(error)))


def sealed_traceback(tb: Serialize | None) -> Serialize | None:
    """Wrap a pickled traceback so that it becomes None where it cannot be unpickled."""
    return None if tb is None else Serialize(pickle.dumps(_Sealed(_opened_traceback, tb.data)))


class _Sealed:
    """Pickles as a call of a function; unpickling returns the result of that call."""

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
    """Call ``__init__`` again for errors whose attributes tblib does not restore."""
    for kind in _BY_ARGS:
        if isinstance(error, kind) and type(error).__init__ is kind.__init__:
            with contextlib.suppress(Exception):
                kind.__init__(error, *error.args)


def is_surrounding(file: str) -> bool:
    """Return whether a frame of this file is between the worker and the code of a call."""
    return file.endswith(_OURS) or _IN_DISTRIBUTED in file


def _opened_traceback(pickled: bytes) -> TracebackType | None:
    try:
        tb = pickle.loads(pickled)
    except BaseException:
        return None
    while tb is not None and tb.tb_frame.f_code.co_filename.endswith(_OURS):
        tb = tb.tb_next  # a frame between the worker and the user's code
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
    """Remove from an error the attributes and causes that cannot be pickled."""
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
    """Return why an error cannot be sent; empty if it can."""
    try:
        str(error), repr(error)
    except Interrupted:
        raise
    except BaseException as why:
        return f"the error itself is not sent, as it cannot be shown: {text_of(why)}"
    try:
        # distributed installs this as well before it pickles an error.
        tblib.pickling_support.install(*_chain(error))
        # Not assigned: its traceback would keep this frame and its callers, with the call's data.
        fits = isinstance(pickle.loads(pickle.dumps(error)), BaseException)
    except Interrupted:
        raise
    except BaseException as why:
        return f"the error itself is not sent: {text_of(why)}"
    return "" if fits else "it reads back as something else"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and its causes and contexts; cut cycles and very long chains."""
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


def without_own_frames(text: str) -> str:
    """Return the text of a traceback from the first frame on that is neither Dask's nor ours.

    Parameters
    ----------
    text : str
        Frames as :func:`traceback.format_tb` formats them.
    """
    frames = re.split(r'^(?=  File ")', text, flags=re.MULTILINE)
    for i, frame in enumerate(frames):
        if frame.strip() and not any(f'{name}", line' in frame for name in _OURS):
            return "".join(frames[i:])
    return text


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
