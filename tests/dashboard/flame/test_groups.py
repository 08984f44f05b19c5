"""Groups of calls with the same parameters, and columns of the table, in real JavaScript."""

from __future__ import annotations

import csv
import io
import math
import statistics
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_flame.reports.driver.export import _escaped
from tests.support.node_help import Node, node, several

__all__ = ["node"]

pytestmark = pytest.mark.process


def with_parameters(**parameters: Any) -> dict[str, Any]:
    return {"name": str(parameters), "parameters": [[k, v] for k, v in parameters.items()]}


CALLS = [
    with_parameters(lr=lr, act=act, seed=seed)
    for lr in (0.1, 0.2)
    for act in ("relu", "tanh")
    for seed in (1, 2, 3)
]
GROUPS = """(rows, group, parameters) => {
  const calls = rows.map((row, place) => {
    const call = new Attempt();
    call.take({ metrics: [], ...row, place });
    return call;
  });
  return grouped(calls, group, parameters).map((g) => [g.name, g.members.length]);
}"""


def test_groups_have_a_parameter_in_common_or_differ_in_one(node: Node) -> None:
    names = ["lr", "act", "seed"]
    assert node(GROUPS, CALLS, "lr", names) == [["lr=0.1", 6], ["lr=0.2", 6]]
    over = node(GROUPS, CALLS, "over:seed", names)
    assert over == [[f"lr={lr}, act={act}", 3] for lr in (0.1, 0.2) for act in ("relu", "tanh")]
    assert node(GROUPS, CALLS, "", names) == []
    assert node(GROUPS, CALLS, "gone", names) == []


def test_values_of_different_types_are_different_groups(node: Node) -> None:
    calls = [
        {"parameters": p} for p in ([["x", 1]], [["x", "1"]], [["x", None]], [["x", True]], [])
    ]
    assert [name for name, _ in node(GROUPS, calls, "x", ["x"])] == [
        "x=1", "x=1", "x=None", "x=True", "no x",
    ]  # fmt: skip


numbers = st.floats(-1e9, 1e9)


@several
@given(values=st.lists(numbers | st.sampled_from([math.nan, math.inf, None]), max_size=30))
def test_statistics_are_those_of_python(node: Node, values: list[float | None]) -> None:
    found = node("statistics", values)
    finite = [v for v in values if v is not None and math.isfinite(v)]
    assert found["n"] == len(finite)
    if not finite:
        assert found == {"n": 0, "mean": None, "deviation": None, "low": None, "high": None}
        return
    assert found["mean"] == pytest.approx(statistics.fmean(finite), rel=1e-9, abs=1e-3)
    assert (found["low"], found["high"]) == (min(finite), max(finite))
    if len(finite) > 1:
        assert found["deviation"] == pytest.approx(statistics.stdev(finite), rel=1e-6, abs=1e-3)
    else:
        assert found["deviation"] is None


curves = st.lists(
    st.dictionaries(st.integers(0, 60), numbers, min_size=1, max_size=20), min_size=1, max_size=4
)


@several
@given(curves=curves)
def test_a_mean_curve_is_the_mean_of_the_interpolated_curves(
    node: Node, curves: list[dict[int, float]]
) -> None:
    ordered = [sorted(curve.items()) for curve in curves]
    sent = [{"x": [x for x, _ in c], "y": [y for _, y in c]} for c in ordered]
    found = node("meanCurve", sent)
    assert found["x"] == sorted({x for curve in curves for x in curve})
    for i, x in enumerate(found["x"]):
        there = [c for c in ordered if c[0][0] <= x <= c[-1][0]]
        values = [float(np.interp(x, *zip(*c, strict=True))) for c in there]
        assert found["n"][i] == len(values)
        if values:
            assert found["mean"][i] == pytest.approx(statistics.fmean(values), rel=1e-9, abs=1e-3)
            assert found["low"][i] == pytest.approx(min(values), rel=1e-9, abs=1e-3)
            assert found["high"][i] == pytest.approx(max(values), rel=1e-9, abs=1e-3)


def test_long_curves_are_thinned_and_gaps_stay(node: Node) -> None:
    xs = list(range(10_000))
    found = node(
        "meanCurve", [{"x": xs, "y": [2.0 * x for x in xs]}, {"x": xs, "y": [0.0] * 10_000}]
    )
    assert (len(found["x"]), found["x"][0], found["x"][-1]) == (500, 0, 9999)
    assert found["mean"] == found["x"]
    gap = node("meanCurve", [{"x": [0, 1, 2], "y": [1, math.nan, 3]}, {"x": [0, 2], "y": [5, 5]}])
    assert gap["n"] == [2, 1, 2]
    assert gap["mean"] == [3, 5, 4]


# Columns


COLUMNS = {"parameters": ["lr"], "metrics": ["loss"]}
CSV = "(calls, rows, now) => csvOf(rows, columnsOf({ ...calls, better: new Map() }), now)"


def row(**more: Any) -> dict[str, Any]:
    base = {"name": "a", "key": "k", "state": "done", "runner": "r", "pool": "p", "attempt": 1}
    return base | {"parameters": [["lr", 0.1]], "metrics": [["loss", 0.5, 3, 0.75, 4, 4]]} | more


def test_csv_has_all_columns(node: Node) -> None:
    text = node(CSV, COLUMNS, [row(took=2.5, step=3), row(metrics=[], why="bad", started=0.0)], 9.0)
    first, second = csv.DictReader(io.StringIO(text, newline=""))
    assert (first["call"], first["key"], first["lr"], first["state"]) == ("a", "k", "0.1", "done")
    assert (first["best loss"], first["last loss"], first["duration"]) == ("0.5", "0.75", "2.5")
    assert (second["best loss"], second["why"]) == ("", "bad")


cells = st.text(st.characters(codec="utf-8"), max_size=12) | st.builds(
    "".join,
    st.tuples(
        st.sampled_from('=+-@\t\r\n\uff1d\uff0b\uff0d\uff20,"'),
        st.text(st.characters(codec="utf-8"), max_size=5),
    ),
)


@several
@given(name=cells, value=cells | numbers | st.booleans())
def test_csv_is_read_back_and_holds_no_formula(node: Node, name: str, value: Any) -> None:
    text = node(CSV, COLUMNS, [row(name=name, parameters=[["lr", value]])], 0.0)
    (read,) = csv.DictReader(io.StringIO(text, newline=""))
    assert read["call"] == _escaped(name)
    if isinstance(value, float):
        assert float(read["lr"]) == value
    else:
        assert read["lr"] == str(_escaped(value))


SORT = "(items, descending) => sortedBy(items, (a) => a, descending)"


@several
@given(
    values=st.lists(numbers | st.none() | st.just(math.nan), max_size=20), descending=st.booleans()
)
def test_missing_values_are_last_in_both_directions(
    node: Node, values: list[float | None], descending: bool
) -> None:
    found = node(SORT, values, descending)
    there = [v for v in values if v is not None and not math.isnan(v)]
    assert found[: len(there)] == sorted(there, reverse=descending)


def test_columns_are_chosen(node: Node) -> None:
    columns = "columnsOf({ ...calls, better: new Map() })"
    shown = f"(calls, choices) => shownColumns({columns}, choices).map((c) => c.id)"
    usual = ["state", "best:loss", "last:loss", "p:lr", "step", "duration", "runner"]
    assert node(shown, COLUMNS, []) == usual
    assert node(shown, COLUMNS, ["-step", "+attempt"]) == [
        *(name for name in usual if name != "step"), "attempt",
    ]  # fmt: skip
    toggled = f"""(calls, id, choices) =>
        toggledColumn({columns}.find((c) => c.id === id), choices)"""
    assert node(toggled, COLUMNS, "step", []) == ["-step"]
    assert node(toggled, COLUMNS, "step", ["-step"]) == []
    assert node(toggled, COLUMNS, "attempt", []) == ["+attempt"]


def test_containers_are_left_out_of_the_heads_where_that_is_clear(node: Node) -> None:
    names = ["variant.depth", "variant.lr", "setup.lr", "seed", "odd."]
    heads = "columnsOf(c).filter(({ group }) => group === 'parameter').map(({ head }) => head)"
    calls = "{ parameters, metrics: [], better: new Map() }"
    columns = f"(parameters) => {{ const c = {calls}; return {heads}; }}"
    assert node(columns, names) == ["depth", "variant.lr", "setup.lr", "seed", "odd."]


@pytest.mark.parametrize(
    ("name", "values", "arguments"),
    [
        ("rate=0.1, layer.width=8", "0.1, 8", "rate, layer.width"),
        ("text=a=b, rate=1", "a=b, 1", "text, rate"),
        ("d6-lr0.1", "d6-lr0.1", ""),
        ("two words=3", "two words=3", ""),
    ],
)
def test_names_without_their_arguments_names(
    node: Node, name: str, values: str, arguments: str
) -> None:
    assert node("(name) => [withoutNames(name), argumentNames(name)]", name) == [values, arguments]


def test_the_metrics_that_are_drawn_have_the_first_columns(node: Node) -> None:
    titles = "columnsOf(c).filter(({ of }) => of === 'best').map(({ title }) => title)"
    calls = {"parameters": [], "metrics": ["loss", "accuracy", "speed"], "drawn": ["speed"]}
    columns = f"(calls) => {{ const c = {{ ...calls, better: new Map() }}; return {titles}; }}"
    assert node(columns, calls) == ["speed", "loss", "accuracy"]
