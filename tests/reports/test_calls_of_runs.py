"""Every call of a run is known with its state, whether or not it reports."""

from __future__ import annotations

import time
from typing import Any

import pytest
from distributed import Client, Event, LocalCluster

import dask_flame
from dask_flame import Reports
from dask_flame.reports.names import names
from dask_flame.reports.runs import progress
from dask_flame.reports.scheduler.plugin import Reports as Plugin
from dask_flame.reports.wire import NAME
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process


def plugin_of(cluster: Any) -> Plugin:
    plugin: Plugin = cluster.scheduler.plugins[NAME]
    return plugin


def states(plugin: Plugin) -> dict[str, str]:
    calls = plugin.calls()
    return {name: calls[key].state for key, name in names(calls.values()).items()}


def train(rate: float, layers: int = 2) -> None:
    if rate > 0.5:
        raise ValueError("the rate is too high")
    Event("go").wait()
    dask_flame.report.better(skill="max")
    if layers > 2:
        dask_flame.label("deep")
    dask_flame.report(step=25, of=100, skill=0.5)
    Event("end").wait()


def test_calls_wait_fail_and_run_before_they_report(flame: Any) -> None:
    cluster, client = flame(max=2)
    plugin = plugin_of(cluster)
    futures = client.map(train, [0.9, 0.1, 0.2, 0.3], layers=2)
    assert set(names(plugin.calls().values()).values()) <= {
        f"rate={rate}" for rate in (0.9, 0.1, 0.2, 0.3)
    }
    wait_for(lambda: states(plugin).get("rate=0.9") == "failed")
    failed = plugin.calls()[futures[0].key]
    assert failed.why == "ValueError('the rate is too high')"
    assert failed.parameters == {"rate": 0.9, "layers": 2}
    assert failed.runner
    trace = plugin.traceback(futures[0].key)
    assert trace.startswith(f'  File "{__file__}", line ')
    assert 'raise ValueError("the rate is too high")' in trace
    wait_for(lambda: sorted(states(plugin).values()) == ["failed", *["running"] * 2, "waiting"])
    Event("go", client=client).set()
    wait_for(lambda: sum(c.progress == 0.25 for c in plugin.calls().values()) == 2)
    (run,) = plugin.runs()
    assert (run.name, run.total) == ("train", 4)
    calls = list(plugin.calls().values())
    found = progress(calls, time.time(), run.total)
    assert (found.failed, found.running, found.waiting) == (1, 2, 1)
    assert found.left is not None
    assert any(call.better == {"skill": "max"} for call in calls)
    assert all(call.run == run.id for call in calls)
    Event("end", client=client).set()
    wait_for(lambda: sorted(states(plugin).values()) == [*["done"] * 3, "failed"])
    del futures
    assert sorted(states(plugin).values()) == [*["done"] * 3, "failed"]


def test_a_label_names_a_call_everywhere(flame: Any, capsys: pytest.CaptureFixture[str]) -> None:
    cluster, client = flame(max=2)
    Event("go", client=client).set()
    Event("end", client=client).set()
    with dask_flame.run("layers") as run:
        futures = [client.submit(train, 0.1, layers) for layers in (2, 3)]
    read = {r.key: r.name for r in dask_flame.stream(futures)}
    assert read == {futures[0].key: "rate=0.1, layers=2", futures[1].key: "deep"} or read == {
        futures[0].key: "layers=2",
        futures[1].key: "deep",
    }
    dask_flame.watch(futures)
    drawn = capsys.readouterr().out
    assert "deep" in drawn
    assert "layers=2" in drawn
    calls = cluster.reports.calls
    assert names(calls.values())[futures[1].key] == "deep"
    assert {call.run for call in calls.values()} == {run.id}
    assert [found.name for found in plugin_of(cluster).runs()] == ["layers"]


def says(rate: float, layers: int) -> None:
    print("hello")


def test_printed_lines_name_calls_as_well(flame: Any, capsys: pytest.CaptureFixture[str]) -> None:
    _, client = flame(max=1)
    client.gather(client.map(says, [0.1, 0.2], layers=3))
    seen: list[str] = []

    def shown() -> set[str]:
        seen.append(capsys.readouterr().out)
        return set("".join(seen).splitlines())

    wait_for(lambda: {f"[runner-1 rate={rate}] hello" for rate in (0.1, 0.2)} <= shown())


def test_on_a_plain_cluster_too() -> None:
    with (
        LocalCluster(
            n_workers=1,
            processes=False,
            threads_per_worker=1,
            dashboard_address="127.0.0.1:0",
        ) as cluster,
        Client(cluster) as client,
    ):
        client.register_plugin(Reports())
        plugin = plugin_of(cluster)
        futures = client.map(train, [0.1, 0.2])
        # Dask sends a worker more calls than it has threads for.
        wait_for(lambda: list(states(plugin).values()) == ["running", "running"])
        client.cancel(futures[1])
        wait_for(lambda: "cancelled" in states(plugin).values())
        Event("go", client=client).set()
        Event("end", client=client).set()
        client.gather(futures[0])
        wait_for(lambda: states(plugin)["rate=0.1"] == "done")


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(dask_flame.PoolError, match="name="), dask_flame.run(""):
        pass
    with pytest.raises(dask_flame.PoolError, match="text="):
        dask_flame.label("")
    with pytest.raises(dask_flame.PoolError, match="skill="):
        dask_flame.report.better(skill="up")  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match="of must be"):
        dask_flame.report(step=1, of="many", loss=0.5)  # type: ignore[arg-type]
