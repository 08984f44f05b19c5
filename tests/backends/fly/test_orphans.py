"""Which machines have lost their drivers, as far as can be told from elsewhere."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_flame.backends.fly.machine_state import BEFORE, ENDED, GONE
from dask_flame.backends.fly.metadata import ALIVE, ALIVE_WITHIN, COMPONENT, OWNER, PROCESS
from dask_flame.backends.fly.orphans import (
    UNSTARTED_WITHIN,
    Observer,
    alive,
    time_of,
    why_orphan,
)

pytestmark = pytest.mark.unit

NOW = 1_800_000_000.0
STATES = sorted({*BEFORE, *ENDED, *GONE, "started", "stopping", "suspending"})
states = st.sampled_from(STATES)
components = st.sampled_from(["runner", "reserve", "scheduler"])
ages = st.floats(0, 10 * UNSTARTED_WITHIN)


def at(when: float) -> str:
    return datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def machine(
    state: str, component: str = "runner", *, silent: float = 0.0, said: float | None = None
) -> Any:
    """A machine that has not changed for some seconds, whose driver last said that it lives."""
    own = {COMPONENT: component, OWNER: "me@laptop:7"}
    own |= {} if said is None else {ALIVE: f"{NOW - said:.0f}"}
    then = at(NOW - silent)
    return {
        "id": "1",
        "state": state,
        "updated_at": then,
        "created_at": then,
        "config": {"metadata": own},
    }


@given(state=states, component=components, silent=ages, said=st.none() | ages)
def test_a_machine_whose_driver_lives_is_no_orphan(
    state: str, component: str, silent: float, said: float | None
) -> None:
    found = machine(state, component, silent=silent, said=said)
    assert why_orphan(found, True, NOW, NOW) == ""


@given(state=states, component=components, silent=ages)
def test_all_of_a_driver_that_has_ended_is_orphaned(
    state: str, component: str, silent: float
) -> None:
    why = why_orphan(machine(state, component, silent=silent), False, NOW, NOW)
    assert bool(why) == (state != "destroyed")
    assert not why or "me@laptop:7" in why


@given(state=states, component=components, silent=ages, said=ages, skew=st.floats(-86400, 86400))
def test_what_moves_or_is_spoken_for_is_no_orphan_from_elsewhere(
    state: str, component: str, silent: float, said: float, skew: float
) -> None:
    found = machine(state, component, silent=silent, said=said)
    # `said` is by the clock of the driver; all other times are by that of the API.
    wall = NOW
    for name in ("updated_at", "created_at"):
        found[name] = at(time_of(found, name) + skew)
    why = why_orphan(found, None, NOW + skew, wall)
    if state not in (*BEFORE, *ENDED) or silent < ALIVE_WITHIN - 2:
        assert component == "reserve" or why == ""
    if component == "reserve":
        late = said > ALIVE_WITHIN + 1
        assert bool(why) == (late and state in (*BEFORE, *ENDED)) or abs(said - ALIVE_WITHIN) <= 1
    elif silent > (UNSTARTED_WITHIN if state in BEFORE else ALIVE_WITHIN) + 2:
        assert bool(why) == (state in (*BEFORE, *ENDED))


def observer(**machines: Any) -> Observer:
    """One on a computer with a single process, whose number is 7."""
    return Observer("here", {7: "100.0"}.get, machines)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("process", "lives"),
    [
        ("here:7:100.0", True),
        ("here:8:100.0", False),
        ("here:7:99.0", False),  # another has the number now
        ("elsewhere:7:100.0", None),  # of the same name, perhaps
        ("elsewhere:8:100.0", None),
        ("here:0:", None),
        ("", None),
    ],
)
def test_a_driver_is_known_by_its_process_on_the_same_computer(
    process: str, lives: bool | None
) -> None:
    own = {OWNER: "me@laptop:7", PROCESS: process}
    assert observer().driver_lives(own, NOW) is lives


def test_a_machine_that_has_started_again_has_none_of_its_processes() -> None:
    """Also for an observer in it, who sees another process with the same number."""
    event = {"type": "start", "status": "started", "timestamp": int((NOW + 60) * 1000)}
    there: Any = {"id": "abc", "state": "started", "events": [event]}
    own = {OWNER: "fly@abc:7", PROCESS: "before:7:100.0"}
    assert observer(abc=there).driver_lives(own, NOW) is False


@pytest.mark.parametrize(
    ("state", "started", "lives"),
    [
        ("started", NOW - 60, None),
        ("started", NOW + 60, False),
        ("suspended", NOW - 60, None),
        ("stopped", NOW - 60, False),
        ("destroyed", NOW - 60, False),
    ],
)
def test_a_driver_in_a_machine_of_the_app(state: str, started: float, lives: bool | None) -> None:
    event = {"type": "start", "status": "started", "timestamp": int(started * 1000)}
    there: Any = {"id": "abc", "state": state, "events": [event]}
    assert observer(abc=there).driver_lives({OWNER: "fly@abc:8"}, NOW) is lives


def test_a_reserve_speaks_for_its_cluster() -> None:
    assert alive([machine("started"), machine("stopped", "reserve", said=60)], NOW)
    assert not alive([machine("stopped", "reserve", said=ALIVE_WITHIN + 60)], NOW)
    assert not alive([machine("started")], NOW)
    assert alive([machine("stopped", "reserve", said=-30)], NOW)  # its clock is ahead
