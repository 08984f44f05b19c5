"""Who may stop calls from the page, and what the page shows of a call that is opened."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import dask
import pytest
from distributed import Event

import dask_flame
from dask_flame.dashboard.flame.actions import details, find, may_stop
from dask_flame.reports.wire import NAME
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process


def asks(**headers: str) -> Any:
    return SimpleNamespace(headers={name.replace("_", "-"): v for name, v in headers.items()})


def test_only_a_page_of_this_machine_that_was_opened_by_itself_can_stop_calls(flame: Any) -> None:
    cluster, _ = flame(max=1, dashboard_address="127.0.0.1:0")
    scheduler = cluster.scheduler
    assert may_stop(scheduler, asks())
    assert may_stop(scheduler, asks(Sec_Fetch_Site="none"))
    assert may_stop(scheduler, asks(Sec_Fetch_Site="same-origin", Origin="http://a", Host="a"))
    # A page of another origin, or an application on another port of this machine.
    assert not may_stop(scheduler, asks(Sec_Fetch_Site="cross-site"))
    assert not may_stop(scheduler, asks(Sec_Fetch_Site="same-site"))
    assert not may_stop(scheduler, asks(Origin="http://evil", Host="localhost:8787"))
    with dask.config.set({"flame.reports.stop": False}):
        assert not may_stop(scheduler, asks())


def test_a_page_of_all_machines_cannot_unless_it_is_configured(flame: Any) -> None:
    cluster, _ = flame(max=1, dashboard_address="0.0.0.0:0")
    assert not may_stop(cluster.scheduler, asks())
    with dask.config.set({"flame.reports.stop": True}):
        assert may_stop(cluster.scheduler, asks())
        assert not may_stop(cluster.scheduler, asks(Sec_Fetch_Site="cross-site"))


def train(rate: float) -> None:
    print("it begins")
    if rate > 0.5:
        raise ValueError("the rate is too high")
    Event("begun").set()
    while True:
        dask_flame.report(loss=rate)
        time.sleep(0.05)


def test_an_opened_call_has_its_traceback_and_its_lines_and_can_be_stopped(flame: Any) -> None:
    cluster, client = flame(max=2)
    reports = cluster.scheduler.plugins[NAME]
    failing, running = client.map(train, [0.9, 0.1])
    wait_for(lambda: failing.key in reports.calls())
    wait_for(lambda: reports.calls()[failing.key].state == "failed")

    def opened() -> Any:
        return details(reports, failing.key)

    wait_for(lambda: any("it begins" in line for line in opened()["lines"]))
    assert 'raise ValueError("the rate is too high")' in opened()["traceback"]
    assert details(reports, "unknown") is None
    Event("begun", client=client).wait()
    key = find(reports, running.key)
    assert key == running.key
    reports.stop(key)
    with pytest.raises(dask_flame.CallStopped):
        running.result()
    wait_for(lambda: reports.calls()[running.key].state == "cancelled")
