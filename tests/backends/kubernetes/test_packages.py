"""The packages of pods: compared with the driver's, and installed, wherever the scheduler is."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import distributed
import pytest

from dask_flame import BackendError, BootError, FlameCluster, PoolError
from tests.backends.kubernetes import test_backend
from tests.backends.kubernetes.calls import version
from tests.backends.kubernetes.test_backend import Start
from tests.driver.hosts import test_remote
from tests.support.paths import ROOT
from tests.support.wheels import metadata, unpacked, wheel

pytestmark = pytest.mark.process

kubernetes = test_backend.kubernetes
cluster = test_backend.cluster
outside = test_remote.outside
outer = test_remote.cluster


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that the driver imports ``flamea`` 1.0 from, and that no image has."""
    folder = unpacked(tmp_path / "driver", "flamea", "1.0")
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    importlib.import_module("flamea")
    yield folder
    del sys.modules["flamea"]


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, str]:
    """Variables of pods, which install from the folder ``wheels``."""
    return {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(tmp_path / "wheels"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }


def told(cluster: FlameCluster) -> list[str]:
    return [event.text for event in cluster.events if event.kind == "packages"]


def test_pods_are_compared_and_synced(
    kubernetes: Start, cluster: Any, own: Path, tmp_path: Path, variables: dict[str, str]
) -> None:
    kubernetes()
    flame, client = cluster(max=2)
    assert client.gather(client.map(lambda n: n, range(4))) == [0, 1, 2, 3]
    (said,) = told(flame)
    assert "flamea is missing (the driver has 1.0)" in said
    assert "Build an image with the driver's versions (pip install flamea==1.0)" in said
    # Dask's clients and pages are not sent the packages of each worker.
    assert "tornado" not in str(client.scheduler_info())
    wheel(tmp_path / "wheels", "flamea", "1.0")
    flame, client = cluster(max=2, packages="sync", env=variables)
    assert client.gather(client.map(version, range(4))) == ["1.0"] * 4
    assert told(flame) == []


def test_a_pod_that_would_not_understand_the_driver_executes_nothing(
    kubernetes: Start, cluster: Any, tmp_path: Path
) -> None:
    fake = kubernetes()
    other = metadata(tmp_path / "other", "distributed", "2025.1.0")
    _, client = cluster(max=2, env={"PYTHONPATH": f"{other}:{ROOT}"})
    ran = tmp_path / "ran"
    said = (
        f"has distributed 2025.1.0, and the driver has distributed {distributed.__version__}, "
        '.*write image="IMAGE"'
    )
    with pytest.raises(BootError, match=said):
        client.submit(lambda: ran.touch()).result(timeout=60)
    assert not ran.exists()
    assert fake.requests.count("create", "pods") <= 3  # tried once


def test_a_scheduler_in_a_pod_asks_the_driver(
    outside: Start, outer: Any, own: Path, tmp_path: Path, variables: dict[str, str]
) -> None:
    outside()
    file = wheel(tmp_path / "mine", "flamea", "2.0")
    flame, client = outer(max=2, packages=[str(file)], env={**variables, "PIP_FIND_LINKS": ""})
    os.rename(file, tmp_path / "moved")  # it was sent
    assert client.gather(client.map(version, range(4))) == ["2.0"] * 4
    assert told(flame) == []
    flame.close()
    flame, client = outer(max=2)
    assert client.gather(client.map(lambda n: n, range(4))) == [0, 1, 2, 3]
    (said,) = told(flame)
    assert "flamea is missing (the driver has 1.0)" in said
    big = wheel(tmp_path, "flameb", "1.0", code=f"# {'x' * 600_000}")
    with pytest.raises(PoolError, match=r"cannot be sent to runners on other machines: .* 500 kB"):
        outer(packages=[str(big)])


def test_another_version_of_dask_in_the_schedulers_image(
    outside: Start, outer: Any, tmp_path: Path
) -> None:
    other = metadata(tmp_path / "other", "dask", "2025.1.0")
    outside(env={"PYTHONPATH": f"{other}:{ROOT}"})
    with pytest.raises(BackendError, match=r"the image of the scheduler's pod has dask 2025\.1\.0"):
        outer(max=1)
