"""Which lines of what runners print are shown, and when."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from distributed import Event
from hypothesis import given
from hypothesis import strategies as st

from dask_flame.prints.lines import UNFINISHED, LineFilter
from tests.support.waiting import wait_for

TEXT = st.text(alphabet="ab\r\n", max_size=12)


@pytest.mark.unit
@given(st.lists(st.tuples(st.sampled_from(["one", "two"]), TEXT), max_size=20))
def test_however_it_comes_each_line_is_told_once_and_in_order(
    pieces: list[tuple[str, str]],
) -> None:
    lines = LineFilter()
    told: dict[str, list[str]] = {"one": [], "two": []}
    for now, (name, piece) in enumerate(pieces):
        told[name] += lines.add(name, piece, now)
        for who, line in lines.late(now):
            # As far as it has come: what it would be, if it ended now.
            printed = "".join(p for n, p in pieces[: now + 1] if n == who)
            assert line == seen(printed.split("\n")[-1]) + UNFINISHED
    for name, all_told in told.items():
        printed = "".join(p for n, p in pieces if n == name)
        left = lines.finish(name)
        whole = [seen(line) for line in printed.split("\n")]
        assert all_told + (left or [""]) == whole
    assert lines.due() is None


def seen(line: str) -> str:
    """As a terminal shows it where each state covers the one before."""
    return ([part for part in line.split("\r") if part] or [""])[-1]


@pytest.mark.unit
def test_a_line_that_goes_on_is_shown_within_a_second_and_then_ever_more_rarely() -> None:
    lines = LineFilter()
    shown = []
    for tenth in range(1200):
        now = tenth / 10
        assert lines.add("runner-1", ".", now) == []
        shown += [(now, line) for _, line in lines.late(now)]
    times = [at for at, _ in shown]
    assert times[0] <= 1
    assert 12 < len(times) < 18
    assert max(b - a for a, b in itertools.pairwise(times)) <= 10.2
    assert all(line == "." * round(at * 10 + 1) + UNFINISHED for at, line in shown)


@pytest.mark.unit
def test_many_progress_bars_are_no_flood() -> None:
    lines = LineFilter()
    shown = 0
    for second in range(600):
        for runner in range(64):
            assert lines.add(f"runner-{runner}", f"\r{second} of 600", second) == []
        shown += len(lines.late(second))
    assert shown < 64 * 6 + 600
    assert lines.add("runner-1", "\r600 of 600\n", 600) == ["600 of 600"]


@pytest.mark.unit
def test_what_does_not_change_is_not_repeated() -> None:
    lines = LineFilter()
    lines.add("runner-1", "Continue? ", 0)
    assert lines.late(1) == [("runner-1", "Continue? " + UNFINISHED)]
    assert [lines.late(now) for now in range(2, 100)] == [[]] * 98
    assert lines.add("runner-1", "\n", 100) == ["Continue? "]


@pytest.mark.unit
def test_a_line_without_end_fills_no_memory() -> None:
    lines = LineFilter()
    told = [line for _ in range(100) for line in lines.add("runner-1", "x" * 1000, 0)]
    told += lines.finish("runner-1")
    assert "".join(told) == "x" * 100_000
    assert max(map(len, told)) < 20_000
    for step in range(10_000):  # nor does one that is written over
        assert lines.add("runner-2", f"\r{step} {'#' * 1000}", 0) == []


def ticks(gate: Any, show: Callable[..., None]) -> None:
    show("waiting")
    gate.wait()


def write(text: str) -> None:
    print(text, end="", flush=True)


@pytest.mark.process
def test_prints_are_shown_while_the_call_runs(
    flame: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # With this set, Python would do it by itself.
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    _, client = flame(max=1)
    seen = ""

    def shown(what: str) -> bool:
        nonlocal seen
        seen += capsys.readouterr().out
        return what in seen

    gate = Event("gate", client=client)
    whole = client.submit(ticks, gate, print, key="whole")
    wait_for(lambda: shown("[runner-1 whole] waiting\n"), 20, "a print, though nobody flushed it")
    gate.set()
    whole.result()
    gate.clear()
    bar = client.submit(ticks, gate, write, key="bar")
    wait_for(lambda: shown(f"[runner-1 bar] waiting{UNFINISHED}\n"), 20, "a line without end")
    gate.set()
    bar.result()
    wait_for(lambda: shown("[runner-1 bar] waiting\n"), 20, "and then as it was left")


@pytest.mark.unit
def test_a_line_without_an_end_comes_in_parts() -> None:
    lines: LineFilter[str] = LineFilter()
    given = lines.add("a", "x" * 40_000, now=0.0)
    assert [len(line) for line in given] == [16_000, 16_000]
    assert [len(line) for line in lines.finish("a")] == [8_000]
    assert [len(line) for line in lines.add("a", "y" * 20_000 + "\n", now=0.0)] == [16_000, 4_000]
