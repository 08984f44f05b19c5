"""A call has one name: its label, its own key, or the arguments in which it differs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_flame.reports import CallReports
from dask_flame.reports.names import differing, names

pytestmark = pytest.mark.unit


def call(key: Any, run: str = "r", **about: Any) -> CallReports:
    parameters = about.pop("parameters", {})
    arguments = about.pop("arguments", ", ".join(f"{k}={v!r}" for k, v in parameters.items()))
    about = {"function": "train", **about}
    return CallReports(
        key, "", "waiting", 1, 0.0, None, {}, run=run, arguments=arguments,
        parameters=parameters, **about,
    )  # fmt: skip


def token(n: int) -> str:
    return f"train-{n:032x}"


def test_the_arguments_that_differ_name_calls() -> None:
    calls = [call(token(n), parameters={"rate": r, "layers": 4}) for n, r in enumerate((0.1, 0.2))]
    assert list(names(calls).values()) == ["rate=0.1", "rate=0.2"]
    assert differing(calls) == ["rate"]


def test_runs_are_compared_apart() -> None:
    one = call(token(1), "a", parameters={"rate": 0.1, "layers": 4})
    two = call(token(2), "b", parameters={"rate": 0.1, "layers": 8})
    assert names([one, two])[one.key] == "rate=0.1, layers=4"


def test_a_label_comes_first_and_then_the_users_own_key() -> None:
    calls = [
        call("fast", label="the first", parameters={"rate": 0.1}),
        call("slow", parameters={"rate": 0.2}),
        call(token(3), parameters={"rate": 0.3}),
    ]
    assert list(names(calls).values()) == ["the first", "slow", "rate=0.3"]


def test_without_arguments_there_is_the_function_or_the_key() -> None:
    calls = [call(token(1)), call(token(2), function="")]
    assert list(names(calls).values()) == ["train", "train-000000"]


def test_equal_names_of_a_run_are_told_apart_by_their_keys() -> None:
    calls = [call(f"train-{n}{0:031x}", parameters={"rate": 0.1}) for n in (1, 2)]
    assert list(names(calls).values()) == ["rate=0.1 (train-100000)", "rate=0.1 (train-200000)"]


def test_true_and_one_differ() -> None:
    calls = [call(token(n), parameters={"on": v}) for n, v in enumerate((True, 1))]
    assert differing(calls) == ["on"]


values = st.booleans() | st.integers(-3, 3) | st.sampled_from(["a", "b", None, 0.1])
given_calls = st.lists(
    st.tuples(
        st.dictionaries(st.sampled_from("abc"), values), st.sampled_from("xy"), st.booleans()
    ),
    max_size=12,
)


@given(given_calls)
def test_every_call_has_a_name_that_no_other_of_its_run_has(given: list[Any]) -> None:
    calls = [
        call(token(n << 104) if made else f"own{n}", run, parameters=parameters)
        for n, (parameters, run, made) in enumerate(given)
    ]
    found = names(calls)
    assert list(found) == [c.key for c in calls]
    assert all(found.values())
    assert len({(c.run, found[c.key]) for c in calls}) == len(calls)


@given(
    st.dictionaries(st.sampled_from(["rate", "layers"]), st.integers(), max_size=2),
    st.sampled_from(["", "my label"]),
    st.sampled_from(["", "train"]),
    st.sampled_from(["own", token(1)]),
)
def test_a_call_alone_has_the_name_that_it_has_beside_other_runs(
    parameters: dict[str, int], label: str, function: str, key: str
) -> None:
    one = call(key, "a", parameters=parameters, label=label, function=function)
    other = call(token(2), "b", parameters={"rate": 0.5})
    assert names([one])[key] == names([one, other])[key]
