"""Which driver a cluster has, by the metadata of its machines."""

from __future__ import annotations

from typing import Any

import pytest

from dask_flame.backends.fly.listing import listing
from dask_flame.backends.fly.metadata import (
    CLUSTER,
    COMPONENT,
    DRIVER,
    OWNER,
    PROCESS,
    RUNNER,
    SCHEDULER,
    Identity,
)
from dask_flame.backends.fly.present_driver import (
    mark_in,
    mark_text,
    present,
    scheduler_of,
    taken_over_at,
)
from dask_flame.backends.fly.scheduler_machine import client_address

pytestmark = pytest.mark.unit


def machine(component: str, state: str = "started", **more: str) -> Any:
    own = {
        CLUSTER: "shop-1",
        COMPONENT: component,
        OWNER: "me@laptop:1",
        PROCESS: "pc:1:10",
        **more,
    }
    found = {"metadata": {**own, **more}}
    return {"id": component, "state": state, "config": found, "private_ip": "fdaa::3"}


def test_a_mark_names_the_driver_that_has_taken_over() -> None:
    second = Identity("shop-1", "me@laptop:2", "pc:2:20")
    text = mark_text("1d", second, 60.4)
    there = [machine(RUNNER), machine(SCHEDULER, **{DRIVER: text})]
    assert (mark_in({DRIVER: text}).id, taken_over_at(there)) == ("1d", 60.0)
    assert present(there) == {OWNER: "me@laptop:2", PROCESS: "pc:2:20"}
    assert present([machine(RUNNER)])[PROCESS] == "pc:1:10"
    assert listing("shop-1", there, [], None).driver == "me@laptop:2"
    assert listing("shop-1", there, [], None).made_by == "me@laptop"
    for broken in ("", "1d", "1d me pc soon", f"{text} more"):
        assert mark_in({DRIVER: broken}).id == ""


def test_only_a_scheduler_that_runs_outlives_its_driver() -> None:
    assert scheduler_of([machine(RUNNER), machine(SCHEDULER)]) is not None
    for state in ("created", "stopped", "destroying"):
        assert scheduler_of([machine(RUNNER), machine(SCHEDULER, state)]) is None


def test_the_way_to_a_scheduler() -> None:
    found = machine(SCHEDULER)
    assert client_address("flame", found, "shop-1", 8786, "proxy") == ""
    assert client_address("flame", found, "shop-1", 8786, "wireguard") == "[fdaa::3]:8786"
    host, _, port = client_address("flame", found, "shop-1", 8786, "public").rpartition(":")
    assert host == "flame.fly.dev"
    assert 20_000 <= int(port) < 60_000
