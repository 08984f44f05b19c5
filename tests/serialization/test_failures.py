"""Whatever an error is made of, what is sent in its place is an Exception that says as much."""

from __future__ import annotations

import pickle
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from distributed.core import clean_exception, error_message
from hypothesis import given
from hypothesis import strategies as st

from dask_flame.errors import CallFailed
from dask_flame.serialization.failures import (
    Interrupted,
    fit_to_travel,
    sealed,
    sealed_error,
    sealed_traceback,
    text_of,
)

pytestmark = pytest.mark.unit


def raiser(kind: type[BaseException]) -> Callable[..., Any]:
    def method(*args: Any, **kwargs: Any) -> Any:
        raise kind("a method of it")

    return method


_KINDS = st.sampled_from([ValueError, RecursionError, SystemExit, KeyboardInterrupt, GeneratorExit])
_BASES = st.sampled_from([Exception, ValueError, OSError, KeyError, BaseException, SystemExit])
_METHODS = st.sampled_from(["__str__", "__repr__", "__reduce__", "__reduce_ex__", "__getstate__"])
_HELD: Any = st.sampled_from(
    [
        threading.Lock(),
        sys.stdout,
        lambda: 3,
        sys._getframe(),
        sys,
        (n for n in range(3)),
        type("Local", (), {}),
        "text",
        "x" * 20_000,
        None,
    ]
)


@st.composite
def errors(draw: Any, depth: int = 2) -> BaseException:
    """Errors of odd classes, holding odd things, raised in odd ways, that come from one another."""
    methods = {name: raiser(draw(_KINDS)) for name in draw(st.sets(_METHODS, max_size=2))}
    kind: Any = type("Odd", (draw(_BASES),), methods)
    error: BaseException = kind(*draw(st.lists(_HELD, max_size=2)))
    if draw(st.booleans()):
        error.held = draw(_HELD)  # type: ignore[attr-defined]
    if depth and draw(st.booleans()):
        cause = draw(errors(depth - 1))
        error.__cause__ = cause
        if draw(st.booleans()):
            cause.__context__ = error

    def fall(n: int) -> None:
        if n:
            fall(n - 1)
        raise error

    with pytest.raises(kind) as caught:
        fall(draw(st.sampled_from([0, 3, 200])))
    assert caught.value is error
    return error


@given(errors())
def test_an_error_reaches_the_driver_as_an_exception(error: BaseException) -> None:
    fit = fit_to_travel(error)
    assert isinstance(fit, Exception)
    assert str(fit)[:10] or isinstance(error, Exception)
    if isinstance(error, Exception) and fit is not error:
        assert isinstance(fit, CallFailed)
        assert "Odd" in str(fit)
    try:
        raise fit
    except Exception as raised:
        message = error_message(raised)
    exception = sealed(message["exception"], message["exception_text"])
    tb = sealed_traceback(message["traceback"])
    _, read, _ = clean_exception(exception.data, tb and tb.data)
    assert isinstance(read, Exception)
    assert isinstance(pickle.loads(pickle.dumps(sealed_error(error).data)), Exception)


@given(errors())
def test_text_of_an_error_is_short_and_names_its_class(error: BaseException) -> None:
    text = text_of(error)
    assert text.startswith("Odd")
    assert len(text) < 11_000


def test_an_exception_that_can_travel_is_sent_as_it_is() -> None:
    for error in (ValueError(3), KeyError("k"), OSError(2, "no", "file"), UnicodeError("x")):
        assert fit_to_travel(error) is error


def test_what_an_error_came_from_is_left_out_where_it_cannot_be_sent() -> None:
    for came in ("__cause__", "__context__"):
        error = ValueError(3)
        setattr(error, came, KeyError(threading.Lock()))
        assert fit_to_travel(error) is error
        assert error.__cause__ is error.__context__ is None
    error = ValueError(threading.Lock())
    error.__cause__ = KeyError()
    assert isinstance(fit_to_travel(error), CallFailed)


def test_what_is_to_stop_a_call_is_passed_on() -> None:
    class Stops(Exception):
        def __str__(self) -> str:
            raise Interrupted

    with pytest.raises(Interrupted):
        fit_to_travel(Stops())


def test_what_cannot_be_read_is_read_as_its_text() -> None:
    broken = sealed(sealed_error(ValueError()), "ValueError('why')")
    broken.data = pickle.dumps(pickle.loads(broken.data)) and broken.data.replace(
        b"dask_flame.serialization.failures", b"dask_flame.serialization.failurez"
    )
    with pytest.raises(ModuleNotFoundError):
        pickle.loads(broken.data)
    _, read, _ = clean_exception(broken.data)
    assert isinstance(read, Exception)


def test_code_and_message_survive() -> None:
    for error, name, value in (
        (SystemExit(3), "code", 3),
        (StopIteration(4), "value", 4),
        (SyntaxError("bad", ("file", 1, 2, "line")), "lineno", 1),
        (UnicodeDecodeError("utf8", b"x", 0, 1, "why"), "reason", "why"),
    ):
        read: Any = pickle.loads(pickle.dumps(sealed_error(error).data))
        read = read.__cause__ if isinstance(error, SystemExit) else read
        assert type(read) is type(error)
        assert getattr(read, name) == value
        assert str(read) == str(error)
