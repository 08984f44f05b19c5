"""Boots that nobody needs any more, with local runners: who ends at once, and who stays."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import pytest
from distributed import get_worker

from dask_flame import FlameCluster
from dask_flame.scaling.runner_index import Phase
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Options of runners whose boots wait for a file, so that they are seen while they boot."""
    gate = tmp_path / "gate"
    (tmp_path / "slow_to_come.py").write_text(
        f"import os, time\nwhile not os.path.exists({str(gate)!r}):\n    time.sleep(0.01)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with_gate = {"preload": ["slow_to_come"], "idle_timeout": "10m", "boot_timeout": "10m"}
    with dask.config.set({"flame.local.fork": False}):  # each imports it
        yield {"gate": gate, **with_gate}


def counts(cluster: FlameCluster) -> tuple[int, int]:
    """Runners that boot, and that take calls."""
    (fleet,) = cluster.fleets.fleets.values()
    return fleet.count(Phase.BOOTING), fleet.count(Phase.READY)


def whoami(seconds: float) -> str:
    time.sleep(seconds)
    return str(get_worker().name)


def test_calls_that_are_taken_back_take_their_boots_with_them(
    flame: Any, slow: dict[str, Any]
) -> None:
    gate = slow.pop("gate")
    cluster, client = flame(max=6, min=1, concurrency=2, **slow)
    futures = client.map(whoami, [0.0] * 12, pure=False)
    wait_for(lambda: counts(cluster) == (6, 0))
    client.cancel(futures[4:])
    wait_for(lambda: counts(cluster) == (2, 0))
    # Futures that are let go of are no different.
    del futures
    wait_for(lambda: counts(cluster) == (1, 0))  # which is kept at all times
    client.close()
    assert counts(cluster) == (1, 0)
    gate.touch()
    wait_for(lambda: counts(cluster) == (0, 1))


def test_calls_that_come_again_at_once_find_their_boots(flame: Any, slow: dict[str, Any]) -> None:
    gate = slow.pop("gate")
    cluster, client = flame(max=4, **slow)
    for _ in range(3):  # a cell that is run again
        futures = client.map(whoami, [0.0] * 4, pure=False)
        wait_for(lambda: counts(cluster) == (4, 0))
        client.cancel(futures)
    futures = client.map(whoami, [0.1] * 4, pure=False)
    gate.touch()
    client.gather(futures)
    assert cluster.events.counts["boot"] <= 4
    assert counts(cluster)[1] >= 1


def test_boots_whose_calls_others_have_done_stay(flame: Any, slow: dict[str, Any]) -> None:
    gate = slow.pop("gate")
    cluster, client = flame(max=1, **slow)
    gate.touch()
    first = client.submit(whoami, 0.0, pure=False).result()
    gate.unlink()
    cluster.resize(max=4)
    futures = client.map(whoami, [0.3] * 4, pure=False)
    wait_for(lambda: counts(cluster) == (3, 1))
    assert set(client.gather(futures)) == {first}
    time.sleep(1.0)  # there is no event to wait for: nothing is to happen
    assert counts(cluster) == (3, 1)
    gate.touch()
    wait_for(lambda: counts(cluster) == (0, 4))


def test_who_waits_no_longer_and_a_bound_that_is_lowered(flame: Any, slow: dict[str, Any]) -> None:
    slow.pop("gate")
    cluster, _ = flame(max=4, **slow)
    with pytest.raises(TimeoutError):
        cluster.wait_for_workers(3, timeout=0.5)
    assert [len(e.runners) for e in cluster.events if e.kind == "boot"] == [3]
    wait_for(lambda: counts(cluster) == (0, 0))
    cluster.resize(min=4)
    wait_for(lambda: counts(cluster) == (4, 0))
    cluster.resize(min=1)
    wait_for(lambda: counts(cluster) == (1, 0))
