"""The limit of a cell's output."""

from __future__ import annotations

import pytest

from dask_flame.core.output_limit import DISPLAY, LAST, OutputLimit

pytestmark = pytest.mark.unit


def test_nothing_is_changed_below_the_limit() -> None:
    limit = OutputLimit(burst=10, rate=1)
    written = ["one\n", "two", "\rtwo\n", "", "end"]
    pieces = [piece for text in written for piece in limit.text("stdout", text, now=0.0)]
    assert [text for _, text in pieces] == ["one\n", "two", "\rtwo\n", "end"]
    assert limit.end() == []


def test_the_end_has_the_last_lines_and_how_many_are_missing() -> None:
    limit = OutputLimit(burst=3, rate=1)
    for number in range(100):
        # As `print` writes: the text, and then the end of the line.
        for text in (str(number), "\n"):
            limit.text("stdout", text, now=0.0)
    said, *last = limit.end()
    assert said[0] == "stderr"
    assert said[1].startswith("\n… 87 lines not shown: ")
    assert "".join(text for _, text in last) == "".join(f"{n}\n" for n in range(90, 100))
    assert LAST == 10


def test_after_a_pause_a_line_is_whole() -> None:
    limit = OutputLimit(burst=2, rate=1)
    limit.text("stdout", "1\n2\n3\n4", now=0.0)
    said, line = limit.text("stdout", " is four\n", now=9.0)
    assert said[1].startswith("… 1 line not shown")
    assert line == ("stdout", "4 is four\n")


def test_what_was_cut_within_a_line_is_ended_before_the_message() -> None:
    limit = OutputLimit(burst=1, rate=1)
    (kept,) = limit.text("stdout", "x" * 1_000, now=0.0)
    assert kept[1] == "x" * 100
    assert limit.text("stdout", "\n", now=0.1) == []
    assert limit.end()[0][1].startswith("\n… ")


def test_text_without_lines_is_limited_too() -> None:
    limit = OutputLimit(burst=10, rate=1)
    shown = sum(len(t) for _ in range(5_000) for _, t in limit.text("stdout", "x", now=0.0))
    assert 1_000 <= shown < 1_200
    assert sum(len(text) for _, text in limit.end()) < 2_000


def test_displays_are_limited_by_number_and_size() -> None:
    limit = OutputLimit(burst=10 * DISPLAY, rate=1)
    shown = [limit.display(50, now=0.0)[1] for _ in range(30)]
    assert shown == [True] * 10 + [False] * 20
    assert limit.end()[0][1].startswith("… 20 displays not shown")
    limit = OutputLimit(burst=10 * DISPLAY, rate=1)
    assert sum(limit.display(1_000_000, now=0.0)[1] for _ in range(30)) == 2
