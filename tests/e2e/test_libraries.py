"""Libraries that are built on Dask, from pools that have no runner until there is demand."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import joblib
import numpy as np
import pytest
from distributed import Client, LocalCluster, get_client, get_worker
from sklearn.base import BaseEstimator
from sklearn.model_selection import GridSearchCV

import dask_flame
from dask_flame import FlameCluster, Pool
from dask_flame.driver.launch import settings
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process

Flame = Callable[..., tuple[FlameCluster, Client]]


# Dask itself, inside a call


def delayed() -> Any:
    return dask.delayed(abs)(-3).compute()


def several() -> Any:
    return sum(dask.compute(*(dask.delayed(abs)(-i) for i in (1, 2))))


def collection() -> Any:
    return int(da.ones((6, 6), chunks=3).sum().compute() / 12)


def persisted() -> Any:
    return dask.delayed(abs)(-3).persist().compute()


def deep(depth: int = 3) -> Any:
    return depth and 1 + dask.delayed(deep)(depth - 1, dask_key_name=f"deep-{depth}").compute()


def in_threads() -> Any:
    return dask.delayed(abs)(-3).compute(scheduler="threads")


async def coroutine() -> Any:
    return await get_client().compute(dask.delayed(abs)(-3))


@pytest.mark.parametrize(
    "function", [delayed, several, collection, persisted, deep, in_threads, coroutine]
)
def test_a_call_that_uses_dask(function: Any, flame: Flame) -> None:
    """The one runner boots for it, so that nothing has told Dask there of a client before."""
    cluster, client = flame(max=1, concurrency=1)
    assert client.submit(function).result(timeout=60) == 3
    assert client.submit(function, pure=False).result(timeout=60) == 3
    assert len([e for e in cluster.events if e.kind == "ready"]) == 1


def test_a_scheduler_that_the_user_has_chosen_counts_on_runners(flame: Flame) -> None:
    _, client = flame(max=1)

    def chosen() -> Any:
        return dask.config.get("scheduler", None), dask.delayed(abs)(-3).compute()

    with dask.config.set(scheduler="threads"):
        assert client.submit(chosen).result(timeout=60) == ("threads", 3)


def test_what_is_for_the_drivers_clients_alone_stays_there(flame: Flame) -> None:
    preload = {"distributed.client.preload": ["/nowhere/mine.py"]}
    _, client = flame(max=1)
    with dask.config.set(preload):
        assert client.submit(delayed).result(timeout=60) == 3
        sent = settings()
    assert "scheduler" not in sent
    assert "preload" not in sent["distributed"]["client"]
    assert sent["distributed"]["client"]["heartbeat"]
    with dask.config.set(scheduler="Distributed"):
        assert "scheduler" not in settings()
    with dask.config.set(scheduler="synchronous"):
        assert settings()["scheduler"] == "synchronous"


# joblib and scikit-learn


def where() -> str:
    """The runner that this is on; empty in the driver."""
    try:
        return str(get_worker().name)
    except ValueError:
        return ""


def meet(folder: Path, others: int, value: Any = None) -> Any:
    """Return when calls have been on so many runners, or slots, at a time: the value, or where."""
    name = f"{where()}-{threading.get_ident()}"
    (folder / name).touch()
    wait_for(lambda: len(list(folder.iterdir())) >= others, within=60, what=f"{others} at once")
    return where() if value is None else value


def met(folder: Path) -> set[str]:
    return {file.name.rpartition("-")[0] for file in folder.iterdir()}


@pytest.mark.parametrize("how", ["name", "client", "backend", "older"])
def test_joblib_uses_all_runners_that_there_may_be(how: str, flame: Flame, tmp_path: Path) -> None:
    _, client = flame(max=4)
    context = {
        "name": lambda: joblib.parallel_config("dask"),
        "client": lambda: joblib.parallel_config("dask", client=client),
        "backend": contextlib.nullcontext,
        "older": lambda: joblib.parallel_backend("dask"),
    }[how]
    with context():
        parallel = joblib.Parallel(n_jobs=-1, **({"backend": "dask"} if how == "backend" else {}))
        done = parallel(joblib.delayed(meet)(tmp_path, 4) for _ in range(8))
    assert set(done) == {f"runner-{n}" for n in range(1, 5)}


class Meeting(BaseEstimator):  # type: ignore[misc]
    """Fits when so many runners do at once."""

    def __init__(self, folder: Path = Path(), alpha: int = 0) -> None:
        self.folder = folder
        self.alpha = alpha

    def fit(self, x: Any, y: Any) -> Meeting:
        if where():
            meet(self.folder, 4)
        self.fitted_ = True
        return self

    def score(self, x: Any, y: Any) -> float:
        return float(self.alpha)


def test_a_grid_search_uses_four_runners(flame: Flame, tmp_path: Path) -> None:
    flame(max=4)
    x, y = np.ones((30, 2)), np.arange(30)
    with joblib.parallel_config("dask"):
        search = GridSearchCV(Meeting(tmp_path), {"alpha": [1, 2, 3]}, n_jobs=-1).fit(x, y)
    assert search.best_params_ == {"alpha": 3}
    assert met(tmp_path) == {f"runner-{n}" for n in range(1, 5)}


def test_joblib_counts_the_slots_of_the_pool_that_its_calls_go_to(flame: Flame) -> None:
    cluster, client = flame(
        pools={
            "cpu": Pool(max=3, concurrency=2),
            "gpu": Pool(max=2, concurrency=4, resources={"GPU": 2}),
        }
    )

    def counted(**options: Any) -> int:
        with joblib.parallel_config("dask", **options):
            return int(joblib.effective_n_jobs(-1))

    assert counted() == 6
    with dask_flame.on("gpu"):
        assert counted() == 8
        assert counted(client=client, resources={"GPU": 1}) == 4
        with joblib.parallel_config("dask"):
            done = joblib.Parallel()(joblib.delayed(where)() for _ in range(4))
    assert {name.partition("-")[0] for name in done} == {"gpu"}
    assert counted(resources={"GPU": 1}) == 4
    cluster.resize("cpu", max=100)
    assert counted() == 200
    cluster.adapt(minimum=0, maximum=5)
    assert counted() == 10
    assert client.ncores().keys() == {f.address for f in cluster.scheduler.workers.values()}


def test_joblib_after_all_runners_have_gone(flame: Flame, tmp_path: Path) -> None:
    cluster, _ = flame(max=2, idle_timeout="0.2s")
    rows = np.ones((2000, 2))  # what joblib scatters
    with joblib.parallel_config("dask"):
        for n in range(3):
            folder = tmp_path / str(n)
            folder.mkdir()
            parallel = joblib.Parallel(n_jobs=-1)
            done = parallel(joblib.delayed(meet)(folder, 2, rows) for _ in range(4))
            assert sum(part.sum() for part in done) == 4 * rows.sum()
            assert "" not in met(folder)
            wait_for(lambda: not cluster.fleets.members)


def test_joblib_scatters_though_a_runner_takes_longer_to_boot_than_a_connection(
    flame: Flame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "takes_a_while.py").write_text("import time; time.sleep(5)")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    rows = np.ones((2000, 2))
    with dask.config.set({"distributed.comm.timeouts.connect": "3s", "flame.local.fork": False}):
        _, client = flame(max=1, preload=["takes_a_while"])
        with pytest.raises(TimeoutError):
            client.scatter(rows, timeout=0.3)
        with joblib.parallel_config("dask"):
            done = joblib.Parallel(n_jobs=-1)(joblib.delayed(np.sum)(rows) for _ in range(2))
    assert done == [4000.0] * 2


def test_joblib_sends_calls_to_a_pool_with_one_slot(flame: Flame) -> None:
    """And a call there that uses joblib has its own done where it is."""

    def outer() -> list[str]:
        with joblib.parallel_config("dask"):
            assert joblib.effective_n_jobs(-1) == 1
            return list(joblib.Parallel(n_jobs=-1)(joblib.delayed(where)() for _ in range(3)))

    flame(max=1)
    with joblib.parallel_config("dask"):
        done = joblib.Parallel(n_jobs=-1)(joblib.delayed(outer)() for _ in range(2))
    assert done == [["runner-1"] * 3] * 2


def test_joblib_inside_a_call_uses_all_runners(flame: Flame, tmp_path: Path) -> None:
    _, client = flame(max=2)

    def outer() -> set[str]:
        with joblib.parallel_config("dask"):
            parallel = joblib.Parallel(n_jobs=-1)
            return set(parallel(joblib.delayed(meet)(tmp_path, 2) for _ in range(4)))

    # The outer call has left its slot while it waits.
    assert client.submit(outer).result(timeout=90) == {"runner-1", "runner-2"}


def test_joblib_may_be_imported_after_the_cluster_was_made() -> None:
    code = """
import sys
from distributed import Client
from dask_flame import FlameCluster

with FlameCluster(max=3, dashboard_address=None) as cluster, Client(cluster):
    finders = len(sys.meta_path)
    assert "joblib" not in sys.modules
    import joblib
    assert len(sys.meta_path) == finders - 1
    with joblib.parallel_config("dask"):
        print(joblib.effective_n_jobs(-1))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=90)
    assert done.stdout == "3\n", done.stderr


def test_joblib_on_other_clusters_is_as_ever(flame: Flame) -> None:
    flame(max=5)
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=3, processes=False, dashboard_address=":0"
        ) as cluster,
        Client(cluster) as client,
        joblib.parallel_config("dask", client=client),
    ):
        assert joblib.effective_n_jobs(-1) == 3
        assert joblib.Parallel(n_jobs=-1)(joblib.delayed(abs)(-x) for x in range(5)) == [*range(5)]
