"""The kinds of local runners: which of them the supervisor may start with."""

from __future__ import annotations

from typing import Any

import pytest

from dask_flame.backends.local.runner_kinds import RunnerKinds, kind
from dask_flame.backends.specs import RunnerSpec

pytestmark = pytest.mark.unit


def first(**more: Any) -> dict[str, Any] | None:
    kinds = RunnerKinds()
    kinds.of(RunnerSpec(name="", scheduler="", concurrency=1, boot_timeout=60, **more))
    return kinds.first()


def test_a_pool_may_set_variables_to_the_values_that_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dask_flame.backends.local.runner_kinds.sys.platform", "linux")
    monkeypatch.setenv("FLAME_A", "1")
    monkeypatch.delenv("FLAME_B", raising=False)
    assert first() is not None
    assert first(secrets={"FLAME_A": "1"}) is not None
    assert first(env={"FLAME_A": "1"}, secrets={"FLAME_A": "2"}) is None
    assert first(env={"FLAME_B": "1"}) is None
    monkeypatch.setenv("FLAME_A", "2")
    assert first(env={"FLAME_A": "1"}) is None


def test_variables_of_a_pool_are_known_by_name() -> None:
    spec = RunnerSpec(
        name="", scheduler="", concurrency=1, boot_timeout=60, env={"A": "1"}, secrets={"B": "2"}
    )
    assert kind(spec)["own"] == ["A", "B"]
    assert kind(spec)["env"].items() >= {("A", "1"), ("B", "2")}


def test_a_key_does_not_tell_what_it_is_made_of() -> None:
    """It is in a command line, where others could compare it with what they guess."""
    spec = RunnerSpec(name="", scheduler="", concurrency=1, boot_timeout=60, secrets={"PIN": "1"})
    one, other = RunnerKinds(), RunnerKinds()
    assert one.of(spec)[0] == one.of(spec)[0]
    assert one.of(spec)[0] != other.of(spec)[0]
