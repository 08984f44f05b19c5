"""Every test is checked for what it leaves behind; helpers that many tests need."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask.config
import pytest
from distributed import Client
from hypothesis import HealthCheck, settings

from dask_flame import FlameCluster
from dask_flame.testing import nothing_left
from dask_flame.testing.leaks import _SHARED
from tests.support.examples import examples
from tests.support.shared_clusters import SharedCluster, SharedClusters, lent
from tests.support.waiting import wait_for

pytest_plugins = ["tests.support.kinds", "tests.support.collection"]
# Fixtures that tests of the dashboard's pages share; not where few of these files are, as in the
# pod of tests/e2e/real_kubernetes.
if (Path(__file__).parent / "support" / "browser_help.py").exists():
    pytest_plugins.append("tests.support.browser_help")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("campaign")
    group.addoption(
        "--campaign",
        type=int,
        metavar="N",
        help="fault cases to play (default: 24, and 5 of each other --campaign-backend)",
    )
    group.addoption(
        "--campaign-backend",
        choices=("local", "kubernetes", "outside", "fly"),
        help="what their runners are: processes (with --campaign or --campaign-seed the default), "
        "pods of the fake Kubernetes, with a driver in it or outside, or machines of the fake Fly",
    )
    group.addoption(
        "--adopters",
        type=int,
        default=3,
        metavar="N",
        help="drivers that are killed one after the other, each followed by another (default: 3)",
    )
    group.addoption("--campaign-seed", type=int, metavar="S", help="seed of the first (default: 0)")
    group.addoption(
        "--odd-calls",
        type=int,
        metavar="N",
        help="odd things that calls are given, return or raise (default: always the same 100)",
    )


# Whether an example is quick depends on what else this machine does.
settings.register_profile(
    "ours", max_examples=examples(25), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("ours")


@pytest.fixture(scope="session", autouse=True)
def _own_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Temporary folders of these tests, and of what they start, are not mixed with others'."""
    folder = str(tmp_path_factory.mktemp("temporary"))
    os.environ["TMPDIR"] = tempfile.tempdir = folder


def _threads() -> set[threading.Thread]:
    return {t for t in threading.enumerate() if not t.name.startswith(_SHARED)}


@pytest.fixture(autouse=True)
def _clean(request: pytest.FixtureRequest, _shared_cluster: SharedCluster | None) -> Iterator[None]:
    if request.node.get_closest_marker("unit"):
        # It starts no process and no socket: tests/support/kinds.py sees to that. To look at all
        # processes would take longer than the test.
        before = set(threading.enumerate())
        yield
        wait_for(lambda: not _threads() - before, what="the end of the threads that it started")
        return
    # Where a machine is busy, what was told to end takes its time.
    # The browser of the tests starts more processes of its own at any time.
    with nothing_left(within=60, owners=("chromium",)):
        yield


#: Variables that only this project reads. Nothing but a user sets them.
_OURS = ("DASK_FLAME", "FLY_")


@pytest.fixture(autouse=True)
def _same_environment() -> Iterator[None]:
    """Undo changes of the environment, which later tests and their processes would inherit.

    Libraries set variables when they are imported, which any test may be the first to do, and
    nannies of Dask set some for good. A test that changes a variable of ours fails.
    """
    before = _environment()
    yield
    after = _environment()
    names = sorted({name for name, _ in before.items() ^ after.items()})
    for name in names:
        if name in before:
            os.environ[name] = before[name]
        else:
            del os.environ[name]
    ours = [name for name in names if name.startswith(_OURS)]
    assert not ours, f"the test has left changes in the environment: {', '.join(ours)}"


def _environment() -> dict[str, str]:
    """Return the environment without what pytest notes in it itself."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}


@pytest.fixture(autouse=True)
def _checked() -> Iterator[None]:
    """distributed checks its own invariants at each transition; ports are free ones."""
    with dask.config.set(
        {
            "distributed.scheduler.validate": True,
            "distributed.worker.validate": True,
            "distributed.comm.timeouts.connect": "10s",
        }
    ):
        yield


@pytest.fixture
def flame() -> Iterator[Callable[..., tuple[FlameCluster, Client]]]:
    """Makes a cluster and its client, and closes both."""
    made: list[Any] = []

    def make(**options: Any) -> tuple[FlameCluster, Client]:
        options.setdefault("dashboard_address", None)
        cluster = FlameCluster(**options)
        made.append(cluster)
        client = Client(cluster)
        made.append(client)
        return cluster, client

    yield make
    for thing in reversed(made):
        thing.close()


@pytest.fixture(scope="module")
def _shared_clusters() -> Iterator[SharedClusters]:
    with nothing_left(within=60, owners=("chromium",)):
        clusters = SharedClusters()
        yield clusters
        clusters.close()


@pytest.fixture
def _shared_cluster(request: pytest.FixtureRequest, _checked: None) -> SharedCluster | None:
    """The shared cluster that a test wants: it is made before `_clean` looks at what there is."""
    if "shared" not in request.fixturenames:
        return None
    clusters: SharedClusters = request.getfixturevalue("_shared_clusters")
    marker = request.node.get_closest_marker("shared_cluster")
    return clusters.get({} if marker is None else marker.kwargs)


@pytest.fixture
def shared(_shared_cluster: SharedCluster) -> Iterator[tuple[FlameCluster, Client]]:
    """A cluster and its client that other tests of the file use too: see its module."""
    with lent(_shared_cluster) as made:
        yield made
