"""Nothing on Fly outlives a driver that is killed, not even what does not run."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import dask
import pytest

from dask_flame.backends.fly.metadata import COMPONENT, RESERVE
from tests.backends.fly.world import KNOWN_SPEED
from tests.fakes.fly import FakeFly
from tests.support import drivers
from tests.support.drivers import watchdog_of
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process


@contextmanager
def driver(*names: str, reserve: int = 0) -> Iterator[subprocess.Popen[str]]:
    """Run a driver with these runners; kill it at the end."""
    settings = {
        "DASK_FLAME__FLY__RATE": str(KNOWN_SPEED),
        "DASK_FLAME__FLY__LOGS_API": dask.config.get("flame.fly.logs-api"),
    }
    module = "tests.backends.fly.driver"
    with drivers.driver(module, str(reserve), *names, variables=settings) as process:
        yield process


def reserve_of(fly: FakeFly) -> list[str]:
    there = fly.machines()
    return [m["id"] for m in there if m["config"]["metadata"].get(COMPONENT) == RESERVE]


def test_machines_that_run_are_stuck_or_wait_are_gone_after_a_kill(fly: FakeFly) -> None:
    with driver("a", "b") as process:
        assert process.stdout is not None
        wait_for(lambda: "started" in (process.stdout.readline() if process.stdout else ""))
        fly.stick()
        watchdog = watchdog_of(process)
        process.kill()
        process.wait()
    wait_for(lambda: not fly.left())
    wait_for(lambda: not watchdog.is_running())


def test_the_reserve_goes_with_a_driver_that_is_killed(fly: FakeFly) -> None:
    with driver(reserve=3) as process:
        wait_for(lambda: len(reserve_of(fly)) == 3)
        watchdog = watchdog_of(process)
        process.kill()
        process.wait()
    wait_for(lambda: not fly.left())
    wait_for(lambda: not watchdog.is_running())


@pytest.mark.parametrize("status", [None, 503])
def test_a_machine_that_is_made_while_its_driver_dies_is_gone_too(
    fly: FakeFly, status: int | None
) -> None:
    fly.fail("create", status=status, after=True, hang=1.0)
    with driver("a") as process:
        wait_for(lambda: fly.requests.of("create"))
        watchdog = watchdog_of(process)
        process.kill()
        process.wait()
    wait_for(lambda: not watchdog.is_running())
    wait_for(lambda: not fly.left())


def test_a_watchdog_that_has_found_nothing_left_does_not_wait_for_fly(fly: FakeFly) -> None:
    with driver(reserve=1) as process:
        wait_for(lambda: reserve_of(fly))
        watchdog = watchdog_of(process)
        process.kill()
        process.wait()
    wait_for(lambda: not fly.left())
    looked = len(fly.requests.of("list", status=200))
    wait_for(lambda: len(fly.requests.of("list", status=200)) > looked)
    fly.fail("*", status=None, times=1_000_000)
    wait_for(lambda: not watchdog.is_running())
    fly.calm()
