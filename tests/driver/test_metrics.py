"""What Prometheus reads from the scheduler's own endpoint."""

from __future__ import annotations

import re
import urllib.request
from typing import Any

import pytest

from dask_flame import Pool
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process


def scrape(cluster: Any) -> dict[str, float]:
    """The cluster's samples, by name and labels."""
    link = cluster.dashboard_link.removesuffix("/status") + "/metrics"
    with urllib.request.urlopen(link) as answer:
        text = answer.read().decode()
    found = {}
    for line in text.splitlines():
        if line.startswith("dask_flame_") and f'cluster="{cluster.name}"' in line:
            labels, value = line.rsplit(" ", 1)
            found[re.sub(r'cluster="[^"]*",?', "", labels)] = float(value)
    return found


def test_a_pool_can_be_followed_from_its_boot_to_its_end(flame: Any) -> None:
    cluster, client = flame(
        pools={"cpu": Pool(max=2, idle_timeout="100ms"), "gpu": Pool(max=1)},
        dashboard_address="127.0.0.1:0",
    )
    assert len(client.gather(client.map(str, range(4)))) == 4
    wait_for(lambda: not cluster.runners)
    seen = scrape(cluster)
    assert seen['dask_flame_boots_total{pool="cpu"}'] == 2
    assert seen['dask_flame_boots_total{pool="gpu"}'] == 0
    assert seen['dask_flame_registrations_total{pool="cpu"}'] >= 1
    assert sum(v for k, v in seen.items() if "runners_ended" in k) == 2
    assert seen['dask_flame_runner_seconds_total{pool="cpu"}'] > 0.1
    assert seen['dask_flame_runners{phase="ready",pool="cpu"}'] == 0
    assert seen['dask_flame_runners_max{pool="cpu"}'] == 2
    assert seen['dask_flame_demand_slots{pool="cpu"}'] == 0
    assert seen['dask_flame_events_total{kind="boot"}'] == 1
    for phase in ("accepted", "up", "registered"):
        labels = f'{{phase="{phase}",pool="cpu"}}'
        assert seen[f"dask_flame_boot_phases_total{labels}"] >= 1
        assert seen[f"dask_flame_boot_phase_seconds_total{labels}"] > 0
    assert "dask_flame_boots_created" not in str(seen)


def test_clusters_in_one_process_are_told_apart_and_leave(flame: Any) -> None:
    first, _ = flame(max=1, name="first-of-two", dashboard_address="127.0.0.1:0")
    second, _ = flame(max=2, name="second-of-two", dashboard_address="127.0.0.1:0")
    assert scrape(first)['dask_flame_runners_max{pool="default"}'] == 1
    assert scrape(second)['dask_flame_runners_max{pool="default"}'] == 2
    first.close()
    link = second.dashboard_link.removesuffix("/status") + "/metrics"
    with urllib.request.urlopen(link) as answer:
        text = answer.read().decode()
    assert "first-of-two" not in text
    assert "second-of-two" in text
