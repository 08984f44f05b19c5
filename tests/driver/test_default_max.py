"""The default of ``max``: what the backend holds, where it knows that."""

from __future__ import annotations

import pytest

from dask_flame import FlameCluster, Pool
from dask_flame.backends import Backend, MostRunners, RunnerSpec
from dask_flame.backends.local import LocalBackend
from dask_flame.core import open_files
from tests.support.waiting import wait_for


class Sized(LocalBackend):
    """Local processes, of which there is room for `number`."""

    number = 100

    def most_runners(self, spec: RunnerSpec) -> MostRunners | None:
        return MostRunners(self.number, f"there is room for {self.number}")


def grow(backend: Backend, number: int) -> None:
    assert isinstance(backend, Sized)
    backend.number = number
    backend.most_changed()


@pytest.mark.process
def test_pools_without_max_follow_the_backend() -> None:
    pools = {"one": Pool(), "two": Pool(max=3), "three": Pool(min=0, concurrency=2)}
    with FlameCluster(backend=Sized, pools=pools, dashboard_address=None) as cluster:
        assert [pool.max for pool in cluster.pools.values()] == [100, 3, 100]
        assert repr(cluster.events).count("max=100 by default: there is room for 100") == 2
        cluster.loop.add_callback(grow, cluster.backend, 7)
        wait_for(lambda: [pool.max for pool in cluster.pools.values()] == [7, 3, 7])
        wait_for(lambda: "max=7 by default: there is room for 7" in repr(cluster.events))
        cluster.resize("three", max=5)
        cluster.loop.add_callback(grow, cluster.backend, 9)
        wait_for(lambda: [pool.max for pool in cluster.pools.values()] == [9, 3, 5])
        assert "one: none of 0..9" in repr(cluster)


@pytest.mark.process
def test_the_default_is_no_more_than_what_the_driver_may_open_files_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(open_files, "most_runners", lambda: 43)
    pools = {"one": Pool(), "two": Pool(max=3), "three": Pool()}
    with FlameCluster(backend=Sized, pools=pools, dashboard_address=None) as cluster:
        assert [pool.max for pool in cluster.pools.values()] == [20, 3, 20]
        assert "the driver may not open files for more" in repr(cluster.events)
