"""An opened call shows why it failed and what it printed, and can be stopped."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from distributed import Event

import dask_flame
from tests.support.browser_help import Page
from tests.support.waiting import wait_for

pytestmark = pytest.mark.browser


def train(rate: float) -> None:
    print("it begins")
    if rate > 0.5:
        raise ValueError("the rate is too high")
    Event("begun").set()
    while True:
        dask_flame.report(loss=rate)
        time.sleep(0.05)


def test_a_call_is_opened_from_its_row_and_from_the_address(
    flame: Any, visit: Callable[[str], Page]
) -> None:
    cluster, client = flame(max=2, dashboard_address="127.0.0.1:0")
    failing, running = client.map(train, [0.9, 0.1])
    wait_for(lambda: failing.status == "error")
    page = visit(f"{cluster.flame_link}?call={failing.key}")
    page.shows("why it failed", 'raise ValueError("the rate is too high")', "it begins")
    # By the keyboard: the first row is the one that has reported.
    page.do(lambda p: p.keyboard.press("Escape"))
    Event("begun", client=client).wait()
    page.wait("() => daskFlame.calls.latest().some((a) => a.state === 'running')")
    page.read(f"() => daskFlame.choose({{ open: '{running.key}' }})")
    page.shows("stop this call")
    page.do(lambda p: p.once("dialog", lambda dialog: dialog.accept()))
    page.do(lambda p: p.get_by_text("stop this call").click())
    with pytest.raises(dask_flame.CallStopped):
        running.result()
    page.shows("1 stopped")


def test_a_page_that_others_can_open_stops_nothing(
    flame: Any, visit: Callable[[str], Page]
) -> None:
    cluster, client = flame(max=1, dashboard_address="0.0.0.0:0")
    running = client.submit(train, 0.1)
    Event("begun", client=client).wait()
    address = cluster.flame_link
    page = visit(f"{address}?call={running.key}")
    page.shows("running", "runner-1")
    assert "stop this call" not in page.text()
    # Not even by a page that has been changed.
    page.read(
        f"() => {{ Bokeh.documents[0].get_model_by_name('flame-feed').stop = '{running.key}' }}"
    )
    before = len(cluster.reports.calls[running.key].series["loss"])
    wait_for(lambda: len(cluster.reports.calls[running.key].series["loss"]) > before + 20)
    assert running.status == "pending"
