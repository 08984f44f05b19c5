"""Clusters that several tests of a file use, for tests that are not about a cluster's life.

A cluster needs 0.6 seconds of CPU time, most of it to import distributed for its runners. The
fixture ``shared`` lends one to a test, and then to the next test of the file that wants the same
options::

    @pytest.mark.shared_cluster(concurrency=2)
    def test_something(shared):
        cluster, client = shared

All its runners are there before the first test, and stay: a test may end none of them, and leaves
no task, plugin or policy behind. If it does, it fails, and the next test gets a new cluster.
Events, reports and the output of runners are those of all tests so far. The Client is the current
one of the test's thread, and never the default of the process.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from typing import Any

import dask
from distributed import Client

from dask_flame import FlameCluster
from tests.support.waiting import wait_for


class SharedCluster:
    """A cluster with its Client, and what they are like between two tests."""

    def __init__(self, options: dict[str, Any]) -> None:
        if "pools" not in options:
            n = options.get("max", 1)
            options = {**options, "min": n, "max": n}
        self.cluster = FlameCluster(dashboard_address=None, **options)
        self.client: Any = None
        try:
            self.client = Client(self.cluster, set_as_default=False)
            expected = sum(pool.min for pool in self.cluster.pools.values())
            self.client.wait_for_workers(expected, timeout=120)
            self._warm_up()
        except BaseException:
            self.close()
            raise
        self._before = self._state()

    def _warm_up(self) -> None:
        """Have each runner do a call: threads that the first one starts are not of a test."""
        for address, worker in list(self.cluster.scheduler.workers.items()):
            with dask.annotate(pool=self.cluster.fleets.of(str(worker.name)), workers=[address]):
                self.client.submit(print, "ready", pure=False).result(timeout=120)
        self._names = [str(worker.name) for worker in self.cluster.scheduler.workers.values()]
        idle = {"calls": [(0, 0)] * len(self._names), "tasks": []}
        wait_for(
            lambda: {**self._state(), **idle} == self._state(), what="the end of the first calls"
        )

    def _state(self) -> dict[str, Any]:
        scheduler: Any = self.cluster.scheduler
        return {
            "runners": sorted((str(ws.name), ws.pid) for ws in list(scheduler.workers.values())),
            # Calls that were cancelled hold their slot until they have ended.
            "calls": [(load.busy, load.cancelled) for load in map(scheduler.load, self._names)],
            # Those that the Client holds, as they may be on their way to the scheduler.
            "tasks": sorted(
                {*map(str, list(scheduler.tasks)), *map(str, list(self.client.futures))}
            ),
            "plugins": sorted([*scheduler.plugins, *scheduler.worker_plugins]),
            "policy": repr(self.cluster.pools),
        }

    def changes(self) -> dict[str, Any]:
        """Return what is not as it was at first."""
        state = self._state()
        return {name: state[name] for name in state if state[name] != self._before[name]}

    def settle(self, within: float) -> None:
        """Wait until all is as it was at first, and fail if it does not come to that in time."""

        def settled() -> bool:
            if not self.changes():
                return True
            # A Client keeps the errors of its futures, which keep the frames that they were raised
            # in, which keep the futures.
            for state in list(self.client.futures.values()):
                if (error := getattr(state, "exception", None)) is not None:
                    error.__traceback__ = None
            gc.collect()
            return False

        with contextlib.suppress(AssertionError):
            wait_for(settled, within)
        assert not (changes := self.changes()), f"not as it was: {changes}"

    def close(self) -> None:
        if self.client is not None:
            self.client.close()
        self.cluster.close()


class SharedClusters:
    """The shared clusters of a file, by their options."""

    def __init__(self) -> None:
        self._made: dict[str, SharedCluster] = {}

    def get(self, options: dict[str, Any]) -> SharedCluster:
        """Return the cluster with these options; make one if there is none that is as at first."""
        key = repr(sorted(options.items()))
        if key in self._made and self._made[key].changes():
            self._made.pop(key).close()
        if key not in self._made:
            self._made[key] = SharedCluster(options)
        return self._made[key]

    def close(self) -> None:
        while self._made:
            self._made.popitem()[1].close()


@contextlib.contextmanager
def lent(shared: SharedCluster, *, within: float = 60) -> Iterator[tuple[FlameCluster, Client]]:
    """Lend a cluster to a test, which leaves it as it was within so many seconds."""
    with shared.client.as_current():
        yield shared.cluster, shared.client
    shared.settle(within)
