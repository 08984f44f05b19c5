"""Where the time of a boot goes: the record of each, and what is told of it."""

from __future__ import annotations

from typing import Any

import pytest
from distributed import Event
from hypothesis import given
from hypothesis import strategies as st

from dask_flame.backends.local import LocalBackend
from dask_flame.errors import BootError, BootTimeout
from dask_flame.history.boots import (
    ACCEPTED,
    FIRST_CALL,
    REGISTERED,
    Boot,
    BootLog,
    in_order,
    is_step,
)
from dask_flame.history.journal import BootStepped, RunnerEnded
from dask_flame.history.usage import PoolUsage
from tests.support.waiting import wait_for

STEPS = [ACCEPTED, "up", "image pulled", REGISTERED, FIRST_CALL]


def reached(boots: BootLog, name: str, step: str, now: float) -> tuple[Boot, float] | None:
    """Note that a boot has come to a step, as the control loop does."""
    if (measured := boots.measure(name, step, now)) is not None:
        boot, took = measured
        _, seconds = boot.steps[-1]
        boots.apply(BootStepped(pool=boot.pool, runner=name, step=step, seconds=seconds, took=took))
    return measured


def ended(boots: BootLog, name: str, why: str, seconds: float, *, failed: bool) -> None:
    """Note that a boot is over: it has failed, or nobody needed it any more."""
    how = "failed" if failed else "ended"
    boots.apply(RunnerEnded(at=0, pool="cpu", runner=name, how=how, why=why, seconds=seconds))


def booted(*steps: tuple[str, float], name: str = "r-1", boots: BootLog | None = None) -> BootLog:
    boots = BootLog() if boots is None else boots
    boots.asked([name], "cpu", 100.0, at=1e9)
    for step, after in steps:
        reached(boots, name, step, 100.0 + after)
    return boots


@pytest.mark.unit
def test_a_boot_tells_its_steps() -> None:
    boots = booted((ACCEPTED, 0.002), ("up", 0.0312), (REGISTERED, 0.094), (FIRST_CALL, 12.04))
    (boot,) = boots
    assert repr(boot) == "r-1: accepted 0.002 s, up 0.031, registered 0.094, first call 12.0"
    assert boot.seconds == pytest.approx(0.094)
    assert boot.phases["up"] == pytest.approx(0.0292)
    assert boots.summary() == "median 0.094 s, 0.063 of it until registered"
    assert repr(boots).splitlines() == [repr(boot), boots.summary()]


@pytest.mark.unit
def test_a_boot_that_fails_tells_how_far_it_came() -> None:
    boots = booted((ACCEPTED, 0.01), ("up", 0.05))
    ended(boots, "r-1", "exit code 1", 0.3, failed=True)
    assert boots[-1].story == "accepted after 0.010 s, up after 0.050 s, never registered"
    assert repr(boots[-1]) == "r-1: accepted 0.010 s, up 0.050, failed after 0.300 s: exit code 1"
    assert reached(boots, "r-1", REGISTERED, 200.0) is None
    booted(name="r-2", boots=boots)
    assert boots.how_far(["r-2"]) == "never accepted"
    assert (
        boots.how_far(["r-1", "r-2", "gone"]) == "1 came as far as 'up', 1 came as far as 'asked'"
    )
    ended(boots, "r-2", "not needed", 60, failed=False)
    assert repr(boots[-1]) == "r-2: given up after 60.0 s: not needed"


@pytest.mark.unit
def test_an_empty_record_says_so() -> None:
    boots = BootLog()
    assert repr(boots) == "no boots yet"
    assert (boots.summary(), boots.medians(), boots.how_far([]), list(boots)) == ("", {}, "", [])
    assert repr(booted()[0]) == "r-1: asked for"
    # A runner may register before anything else is known of it.
    assert booted((REGISTERED, 0.0)).summary() == "median 0.000 s, 0.000 of it until registered"


@pytest.mark.unit
def test_medians_are_those_of_a_pool_and_in_order() -> None:
    boots = BootLog()
    for n, pool in enumerate(["cpu", "cpu", "cpu", "gpu"], 1):
        boots.asked([f"r-{n}"], pool, 0, at=0)
        reached(boots, f"r-{n}", ACCEPTED, 1)
        if pool == "gpu":
            reached(boots, f"r-{n}", "image pulled", 9)
        reached(boots, f"r-{n}", REGISTERED, 10 * n)
    assert boots.medians("cpu") == {ACCEPTED: 1, REGISTERED: 19}
    assert list(boots.medians().items())[1:] == [("image pulled", 8), (REGISTERED, 24)]
    assert boots.summary("gpu") == "median 40.0 s, 31.0 of it until registered"


@pytest.mark.unit
def test_what_is_under_way_is_never_forgotten() -> None:
    boots = BootLog(kept=3)
    boots.asked([f"r-{n}" for n in range(10)], "cpu", 0, at=0)
    assert len(boots) == 10
    for n in range(9):
        reached(boots, f"r-{n}", REGISTERED, n)
    assert [b.name for b in boots] == ["r-6", "r-7", "r-8", "r-9"]
    # Even one that was asked for first is shown in its place, and not with what came later.
    reached(boots, "r-6", FIRST_CALL, 20)
    assert boots[0].last == FIRST_CALL
    assert [b.name for b in boots[-2:]] == ["r-8", "r-9"]


@pytest.mark.unit
def test_a_backend_that_says_ever_new_steps_fills_no_memory() -> None:
    boots, ledger = booted(), PoolUsage()
    for n in range(1000):
        reached(boots, "r-1", f"pulled {n} bytes", 101)
        ledger.phase(f"pulled {n} bytes", 0.5)
    assert len(boots[0].steps) == 12
    assert len(ledger.phases) == 21
    assert ledger.phases["other"] == (490.0, 980)
    assert is_step("container started")
    for wrong in ("", "x" * 41, ACCEPTED, "pool", None):
        assert not is_step(wrong)


told = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "never asked for"]),
        st.sampled_from([*STEPS, "failed"]),
        st.floats(-1, 5, allow_nan=False),  # a clock that ran backwards would do no harm
    ),
    max_size=30,
)


@pytest.mark.unit
@given(told)
def test_steps_may_be_told_in_any_order_or_not_at_all(told: list[tuple[str, str, float]]) -> None:
    boots, summed, now = BootLog(), 0.0, 50.0
    boots.asked(["a", "b"], "cpu", now, at=0)
    over: set[str] = set()
    for name, step, later in told:
        now += later
        before = boots.of(name)
        if step == "failed":
            ended(boots, name, "why", now - 50, failed=True)
            if before is not None and before.seconds is None:
                over.add(name)
        elif (noted := reached(boots, name, step, now)) is not None:
            boot, took = noted
            assert boot == boots.of(name)
            assert boot.last == step
            assert took >= 0
            summed += took
        else:
            assert before is None or name in over or before.after(step) is not None
    assert [b.name for b in boots] == ["a", "b"]
    for boot in boots:
        assert bool(boot.ended) == (boot.name in over)
        steps = [step for step, _ in boot.steps]
        assert len(set(steps)) == len(steps)
        assert [t for _, t in boot.steps] == sorted(t for _, t in boot.steps)
        assert all(seconds >= 0 for seconds in boot.phases.values())
        assert sum(boot.phases.values()) == pytest.approx(boot.steps[-1][1] if steps else 0)
        assert boot.name in repr(boot)
    assert summed == pytest.approx(sum(sum(b.phases.values()) for b in boots))
    assert set(boots.medians()) <= set(in_order(boots))
    assert (boots.summary() == "") == all(b.seconds is None for b in boots)


# On a real cluster


@pytest.mark.process
def test_each_step_of_a_boot_is_noted(flame: Any) -> None:
    cluster, client = flame(max=2)
    gate = Event("gate", client=client)
    futures = [client.submit(gate.wait, pure=False) for _ in range(2)]
    wait_for(lambda: len(cluster.boots) == 2 and all(b.after(FIRST_CALL) for b in cluster.boots))
    gate.set()
    assert client.gather(futures) == [True, True]
    for boot in cluster.boots:
        assert {step for step, _ in boot.steps} == {ACCEPTED, "up", REGISTERED, FIRST_CALL}
        (event,) = [e for e in cluster.events if e.kind == "ready" and e.runners == (boot.name,)]
        assert event.numbers["up"] == boot.after("up")
        assert event.numbers[REGISTERED] == boot.seconds
        assert event.numbers["seconds"] == pytest.approx(boot.seconds, abs=1)
        assert f"up {boot.after('up'):.3f}" in event.reason
    phases = cluster._history.usage["default"].phases
    assert {n for _, n in phases.values()} == {2}
    assert cluster.boots.summary().split(",")[0] in cluster._repr_html_()


class Silent(LocalBackend):
    """As one that was written before backends could say how boots fare."""

    def progress(self, name: str, step: str) -> None:
        pass


class Odd(LocalBackend):
    """Says what is not a backend's to say, and of runners that there are not."""

    def progress(self, name: str, step: str) -> None:
        for word in (REGISTERED, "", "x" * 50, "seconds", "kind"):
            super().progress(name, word)
        super().progress("nobody", step)


@pytest.mark.process
@pytest.mark.parametrize(("backend", "more"), [(Silent, set()), (Odd, {"kind"})])
def test_a_backend_may_say_nothing_or_nonsense(flame: Any, backend: Any, more: set[str]) -> None:
    cluster, client = flame(max=1, backend=backend)
    assert client.submit(abs, -1).result() == 1
    (boot,) = cluster.boots
    wait_for(lambda: cluster.boots[0].after(FIRST_CALL) is not None)
    assert {s for s, _ in cluster.boots[0].steps} == {ACCEPTED, REGISTERED, FIRST_CALL} | more
    assert boot.name == "runner-1"


@pytest.mark.process
def test_a_boot_that_fails_says_how_far_it_had_come(flame: Any) -> None:
    cluster, client = flame(max=1, preload=["no_such_module_here"], boot_attempts=1)
    far = r"\(accepted after \d+\.\d+ s, up after \d+\.\d+ s, never registered\); it printed last"
    with pytest.raises(BootError, match=far) as caught:
        client.submit(abs, -1).result()
    assert "no_such_module_here" in str(caught.value)
    failed = next(e for e in cluster.events if e.kind == "failed")
    assert "never registered" in failed.reason
    (boot,) = cluster.boots
    assert boot.failed
    assert "s: exit code 1" in repr(boot)


class Nowhere(LocalBackend):
    """Its runners look for the scheduler where there is none."""

    async def boot(self, specs: Any) -> None:
        from dataclasses import replace

        await super().boot([replace(s, scheduler="tcp://127.0.0.1:1") for s in specs])


@pytest.mark.process
def test_a_boot_that_is_too_slow_says_how_far_it_had_come(flame: Any) -> None:
    cluster, client = flame(max=1, backend=Nowhere, boot_attempts=1, boot_timeout="6s")
    far = r"boot_timeout=6 s \(accepted after \d+\.\d+ s, up after \d+\.\d+ s, never registered\)"
    with pytest.raises(BootTimeout, match=far):
        client.submit(abs, -1).result()
    assert cluster.boots[0].failed
    assert any(e.kind == "retire" and "never registered" in e.reason for e in cluster.events)
