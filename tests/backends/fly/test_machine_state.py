"""What the states and events of a machine mean."""

from __future__ import annotations

from typing import Any, cast

import pytest

from dask_flame.backends.fly.api.types import Machine
from dask_flame.backends.fly.machine_state import ended_well, has_ended, why_ended

pytestmark = pytest.mark.unit


def machine(state: str, *events: dict[str, Any], **more: Any) -> Machine:
    """Return a machine with these events, the latest first."""
    numbered = [
        {"timestamp": 1000 - number, "status": "", **event} for number, event in enumerate(events)
    ]
    return cast("Machine", {"id": "1", "state": state, "events": numbered, **more})


def exit(**event: Any) -> dict[str, Any]:
    return {"type": "exit", "status": "stopped", "request": {"exit_event": event}}


@pytest.mark.parametrize(
    ("event", "why"),
    [
        ({"exit_code": 0, "signal": -1, "guest_signal": -1}, "exit code 0"),
        ({"exit_code": 3}, "exit code 3"),
        ({"exit_code": 137, "signal": 9}, "killed by SIGKILL"),
        ({"exit_code": 143}, "killed by SIGTERM"),
        ({"exit_code": -1, "signal": -1, "guest_signal": 11}, "killed by SIGSEGV"),
        ({"exit_code": 255, "signal": 127}, "killed by signal 127"),
        ({"exit_code": 1, "error": "no such file"}, "exit code 1: no such file"),
        (
            {"exit_code": 137, "oom_killed": True},
            "ran out of memory (limit 2048 MiB); relevant settings: memory",
        ),
    ],
)
def test_reasons_of_an_exit(event: dict[str, Any], why: str) -> None:
    config = {"guest": {"cpu_kind": "shared", "cpus": 1, "memory_mb": 2048}}
    for state in ("stopped", "destroying", "destroyed"):
        ended = machine(state, {"type": "destroy"}, exit(**event), {"type": "start"}, config=config)
        assert why_ended(ended) == why
        assert has_ended(ended)
        assert ended_well(ended) == (why == "exit code 0")


def test_a_running_machine_that_is_destroyed_is_killed_for_that() -> None:
    killed = exit(exit_code=137, signal=9, requested_stop=True)
    found = machine(
        "destroyed", {"type": "destroy"}, killed, {"type": "destroy"}, {"type": "start"}
    )
    assert why_ended(found) == "its machine was destroyed by somebody else"
    assert why_ended(found, ending=True) == "killed by SIGKILL"
    alone = machine(
        "destroyed", {"type": "destroy"}, killed, {"type": "start"}, {"type": "destroy"}
    )
    assert why_ended(alone) == "killed by SIGKILL"


def test_the_exit_may_be_told_by_the_monitor() -> None:
    told = {"type": "exit", "request": {"MonitorEvent": {"exit_event": {"exit_code": 2}}}}
    assert why_ended(machine("stopped", told)) == "exit code 2"


def test_an_exit_of_an_earlier_life_does_not_count() -> None:
    again = machine("started", {"type": "start"}, {"type": "update"}, exit(exit_code=0))
    assert not has_ended(again)
    destroyed = machine("destroying", {"type": "start"}, {"type": "update"}, exit(exit_code=0))
    assert not has_ended(destroyed)
    assert why_ended(destroyed) == "its machine was destroyed by somebody else"


def test_ends_without_an_exit() -> None:
    assert why_ended(None) == "its machine was destroyed by somebody else"
    assert why_ended(None, ending=True) == "ended by force"
    assert why_ended(machine("destroyed"), ending=True) == "ended by force"
    assert why_ended(machine("suspended")) == "its machine is suspended"
    failed = machine("failed", {"type": "launch", "request": {"error": "no such image"}})
    assert why_ended(failed) == "its machine has failed: no such image"


@pytest.mark.parametrize("state", ["created", "starting", "started", "stopping", "replacing"])
def test_states_of_machines_that_have_not_ended(state: str) -> None:
    assert not has_ended(machine(state, {"type": "launch"}))
