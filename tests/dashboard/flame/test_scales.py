"""Axes of parameters and results, in real JavaScript."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.node_help import Node, node, several

__all__ = ["node"]

pytestmark = pytest.mark.process

SCALE = """(values) => {
  const scale = scaleOf(values);
  return [scale.kind, values.map(scale.place), scale.ticks];
}"""
#: The values that the range of a part of the axis chooses.
CHOSEN = """(values, from, to) => {
  const scale = scaleOf(values);
  const text = withRange("", "x", rangeBetween(scale, from, to));
  const fits = parse(text, ["x"]);
  return values.filter((value) => fits({ parameters: [["x", value]] }));
}"""


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, 2, 50], "linear"),
        ([0.001, 0.01, 1], "log"),
        ([0, 0.01, 100], "linear"),
        ([-1, 1000], "linear"),
        (["relu", "tanh"], "category"),
        ([True, False], "category"),
        ([1, "auto"], "category"),
        ([None, None], "category"),
        ([None, 3], "linear"),
        ([5], "linear"),
    ],
)
def test_kinds_of_axes(node: Node, values: list[Any], kind: str) -> None:
    assert node(SCALE, values)[0] == kind


def test_ticks_are_the_values_if_they_are_few(node: Node) -> None:
    assert node(SCALE, [2, 4, 8])[2] == [[0, "2"], [pytest.approx(1 / 3), "4"], [1, "8"]]
    assert [text for _, text in node(SCALE, [1e-4, 1e-2, 1])[2]] == ["0.0001", "0.01", "1"]
    many = [0.001 * 1.3**i for i in range(40)]
    assert [text for _, text in node(SCALE, many)[2]] == ["0.001", "0.01", "0.1", "1", "10"]
    assert [text for _, text in node(SCALE, list(range(101)))[2]] == [
        "0",
        "20",
        "40",
        "60",
        "80",
        "100",
    ]
    assert node(SCALE, ["b", "a"])[2] == [[0.25, "a"], [0.75, "b"]]


numbers = st.floats(-1e6, 1e6) | st.floats(1e-6, 1e6) | st.integers(-1000, 1000)


@several
@given(values=st.lists(numbers, min_size=1, max_size=30))
def test_numbers_are_on_the_axis_in_their_order(node: Node, values: list[float]) -> None:
    _, places, ticks = node(SCALE, values)
    assert all(-1e-9 <= place <= 1 + 1e-9 for place in places)
    assert [place for _, place in sorted(zip(values, places, strict=True))] == sorted(places)
    assert all(-1e-9 <= place <= 1 + 1e-9 for place, _ in ticks)


@several
@given(
    values=st.lists(numbers, min_size=1, max_size=20)
    | st.lists(st.text("abc, ", min_size=1), min_size=1),
    ends=st.tuples(st.integers(0, 19), st.integers(0, 19)),
)
def test_a_part_of_an_axis_chooses_what_lies_on_it(
    node: Node, values: list[Any], ends: tuple[int, int]
) -> None:
    places = node(SCALE, values)[1]
    low, high = sorted(places[end % len(values)] for end in ends)
    # A little beyond two of the values.
    chosen = node(CHOSEN, values, max(0, low - 1e-5), min(1, high + 1e-5))
    on_it = [v for v, place in zip(values, places, strict=True) if low <= place <= high]
    assert [value for value in on_it if value not in chosen] == []


@several
@given(st.floats(-300, 300), st.floats(1e-3, 50))
def test_a_logarithmic_axis_has_some_round_ticks(node: Node, start: float, length: float) -> None:
    end = min(start + length, 305)
    ticks = node("(start, end) => logTicks(start, end)", start, end)
    major = ticks["major"]
    assert 1 < len(major) <= 11
    assert major == sorted(set(major))
    assert all(start <= tick <= end for tick in [*major, *ticks["minor"]])
    for tick in major:
        digits = f"{10**tick:.9e}".split("e")[0].rstrip("0")
        assert len(digits.replace(".", "")) <= (1 if len(major) < 4 and length > 1 else 6)


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [
        (0.01, 100, [0.01, 0.1, 1, 10, 100]),
        (0.3, 6, [0.5, 1, 2, 5]),
        (2, 3, [2, 2.2, 2.4, 2.6, 2.8, 3]),
        (1e-12, 1e12, [1e-12, 1e-9, 1e-6, 1e-3, 1, 1e3, 1e6, 1e9, 1e12]),
    ],
)
def test_ticks_of_a_logarithmic_axis(
    node: Node, low: float, high: float, wanted: list[float]
) -> None:
    ticks = node("(start, end) => logTicks(start, end)", math.log10(low), math.log10(high))
    assert [10**tick for tick in ticks["major"]] == pytest.approx(wanted)
