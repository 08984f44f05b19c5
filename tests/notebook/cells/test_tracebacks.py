"""Tracebacks that travel keep where each frame began and what failed in it."""

from __future__ import annotations

import pickle
import traceback

import pytest
import tblib.pickling_support

from dask_flame.notebook.cells import tracebacks

pytestmark = pytest.mark.unit


def _raise(depth: int) -> None:
    if depth:
        _raise(depth - 1)
    values = [1]
    values[0], values[depth + 3]


def _caught(depth: int) -> BaseException:
    try:
        _raise(depth)
    except IndexError as error:
        try:
            raise KeyError("other") from error
        except KeyError as other:
            return other
    raise AssertionError


def _travelled(error: BaseException) -> BaseException:
    tblib.pickling_support.install(error, error.__cause__)
    there: BaseException = pickle.loads(tracebacks.dumps({"error": error}))["error"]
    return there


def _frames(error: BaseException | None) -> list[tuple[str, str, int, int]]:
    assert error is not None
    return [
        (frame.f_code.co_filename, frame.f_code.co_qualname, frame.f_code.co_firstlineno, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]


def test_every_frame_is_where_it_was() -> None:
    before = _caught(2)
    after = _travelled(before)
    assert _frames(after) == _frames(before)
    assert _frames(after.__cause__) == _frames(before.__cause__)
    assert len(_frames(after.__cause__)) == 4
    # Python underlines the same expressions.
    shown = ["".join(traceback.format_exception(error)) for error in (before, after)]
    assert shown[0] == shown[1]


def test_a_deep_recursion_has_few_codes() -> None:
    before = _caught(500)
    after = _travelled(before).__cause__
    assert after is not None
    codes = {frame.f_code for frame, _ in traceback.walk_tb(after.__traceback__)}
    assert len(_frames(after)) == 502
    assert len(codes) == 3


def test_hidden_frames_at_the_end_are_left_out() -> None:
    def hidden() -> None:
        __tracebackhide__ = True
        raise ValueError

    try:
        hidden()
    except ValueError as error:
        (frame,) = tracebacks.frames_of(error.__traceback__)
        assert frame.name == "test_hidden_frames_at_the_end_are_left_out"
