"""The packages of local runners: compared with the driver's, and installed."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import dask
import distributed
import pytest

from dask_flame import BootError, FlameCluster
from dask_flame.history.events import Event
from tests.support.paths import ROOT
from tests.support.wheels import metadata, unpacked, wheel

pytestmark = pytest.mark.process

Flame = Callable[..., tuple[FlameCluster, Any]]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runners have a cache of their own, and find packages only in the folder ``wheels``."""
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that the driver imports ``flamea`` 1.0 from."""
    folder = unpacked(tmp_path / "driver", "flamea", "1.0")
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    importlib.import_module("flamea")
    yield folder
    for name in ("flamea", "flameb"):
        sys.modules.pop(name, None)


def importing(*folders: Path) -> dict[str, str]:
    """The variables of runners that import from these folders first."""
    return {"PYTHONPATH": os.pathsep.join(map(str, [*folders, ROOT]))}


def told(cluster: FlameCluster) -> list[Event]:
    return [event for event in cluster.events if event.kind == "packages"]


def version_of(name: str) -> str:
    version: str = importlib.import_module(name).__version__
    return version


def folders(tmp_path: Path) -> list[Path]:
    return [f for f in (tmp_path / "cache/dask-flame/packages").glob("*") if f.is_dir()]


# Comparing


def test_runners_with_the_drivers_packages_are_not_compared(flame: Flame, own: Path) -> None:
    cluster, client = flame(max=2)
    assert client.gather(client.map(lambda _: version_of("flamea"), range(4))) == ["1.0"] * 4
    assert told(cluster) == []
    # Nor has the driver looked for its own packages.
    assert cluster._packages._imported._state is None


def test_another_version_is_reported_once(
    flame: Flame, own: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = metadata(unpacked(tmp_path / "other", "flamea", "2.0"), "flameb", "2.0")
    # Each call has a runner of its own.
    cluster, client = flame(max=3, single_use=True, env=importing(other, own))
    with caplog.at_level(logging.WARNING, "dask_flame"):
        assert client.gather(client.map(lambda _: version_of("flamea"), range(4))) == ["2.0"] * 4
    (event,) = told(cluster)
    assert "flamea 2.0 (the driver has 1.0)" in event.text
    assert "pip install flamea==1.0" in event.text
    (line,) = [r.getMessage() for r in caplog.records if "flamea" in r.getMessage()]
    assert line.endswith('packages="ignore" compares nothing')
    # A runner that registers later is compared with all that the driver has imported by then.
    unpacked(own, "flameb", "1.0")
    importlib.invalidate_caches()
    importlib.import_module("flameb")
    assert client.submit(int).result() == 0
    _, event = told(cluster)
    assert "flameb 2.0 (the driver has 1.0)" in event.text
    assert "flamea" not in event.text


@pytest.mark.parametrize(
    ("name", "version"),
    [("distributed", "2025.1.0"), ("msgpack", "0.6.2")],
)
def test_a_runner_that_would_not_understand_the_driver_executes_nothing(
    flame: Flame, tmp_path: Path, name: str, version: str
) -> None:
    mine = importlib.metadata.version(name)
    other = metadata(tmp_path / "other", name, version)
    cluster, client = flame(max=2, env=importing(other))
    ran = tmp_path / "ran"
    futures = client.map(lambda n: ran.write_text(str(n)), range(4))
    said = f"has {name} {version}, and the driver has {name} {mine}, which .*{name}=={mine}"
    with pytest.raises(BootError, match=said):
        client.gather(futures)
    assert not ran.exists()
    assert told(cluster) == []
    logs = str(cluster.get_logs())
    assert f"has {name} {version}" in logs
    assert "Traceback" not in logs


def test_nothing_is_compared_where_the_user_wants_that(flame: Flame, tmp_path: Path) -> None:
    other = metadata(tmp_path / "other", "distributed", "2025.1.0")
    with dask.config.set({"flame.packages": False}):
        cluster, client = flame(max=1, env=importing(other))
    assert client.submit(lambda: distributed.__version__).result() == distributed.__version__
    assert told(cluster) == []


# Installing


def test_sync_installs_what_differs_once(flame: Flame, own: Path, tmp_path: Path) -> None:
    wheel(tmp_path / "wheels", "flamea", "1.0")
    other = unpacked(tmp_path / "other", "flamea", "2.0")
    options: Mapping[str, Any] = {"max": 2, "packages": "sync", "env": importing(other, own)}
    for _ in range(2):
        cluster, client = flame(**options)
        assert client.gather(client.map(lambda _: version_of("flamea"), range(4))) == ["1.0"] * 4
        assert told(cluster) == []
        (folder,) = folders(tmp_path)
        assert {f.name for f in folder.glob("*.dist-info")} == {"flamea-1.0.dist-info"}
        (tmp_path / "wheels/flamea-1.0-py3-none-any.whl").unlink(missing_ok=True)


def test_sync_with_nothing_different_costs_nothing(flame: Flame, own: Path, tmp_path: Path) -> None:
    cluster, client = flame(max=1, packages="sync")
    assert client.submit(version_of, "flamea").result() == "1.0"
    assert cluster._packages._imported._state is None
    assert not (tmp_path / "cache").exists()


def test_a_list_is_installed_with_what_it_needs(flame: Flame, own: Path, tmp_path: Path) -> None:
    wheel(tmp_path / "wheels", "flamea", "2.0")
    local = wheel(tmp_path, "flameb", "1.0", needs=["flamea>=2", "tornado"])
    cluster, client = flame(max=2, packages=["flamea==2.0", str(local)])

    def versions(_: int) -> tuple[str, str]:
        return version_of("flamea"), version_of("flameb")

    assert client.gather(client.map(versions, range(2))) == [("2.0", "1.0")] * 2
    # The user has chosen this version.
    assert told(cluster) == []
    (folder,) = folders(tmp_path)
    assert {f.name for f in folder.glob("*.dist-info")} == {
        "flamea-2.0.dist-info",
        "flameb-1.0.dist-info",  # and not tornado, which is there
    }


@pytest.mark.parametrize("fork", [True, False])
def test_preloaded_modules_are_the_installed_ones(
    flame: Flame, own: Path, tmp_path: Path, fork: bool
) -> None:
    wheel(tmp_path / "wheels", "flamea", "2.0", code="import os\nwhere = os.getpid()\n")
    with dask.config.set({"flame.local.fork": fork}):
        _, client = flame(max=1, packages=["flamea==2.0"], preload=["flamea"])
        version, where, pid = client.submit(
            lambda: (version_of("flamea"), sys.modules["flamea"].where, os.getpid())
        ).result()
    assert version == "2.0"
    # Imported by the process that runners are forked from.
    assert (where != pid) is (fork and sys.platform == "linux")


def test_a_list_that_is_satisfied_needs_no_installer(
    flame: Flame, own: Path, tmp_path: Path
) -> None:
    _, client = flame(max=1, packages=["flamea==1.0", f"distributed=={distributed.__version__}"])
    assert client.submit(version_of, "flamea").result() == "1.0"
    assert not (tmp_path / "cache").exists()


def test_the_words_of_the_installer_reach_the_calls(
    flame: Flame, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: Any
) -> None:
    wheel(tmp_path / "wheels", "flamea", "1.0")
    secret = "https://me:hunter2@localhost:1/simple"
    _, client = flame(
        max=2, packages=["flamea==7.0"], env={"PIP_EXTRA_INDEX_URL": secret, "PIP_RETRIES": "0"}
    )
    with pytest.raises(BootError) as error:
        client.gather(client.map(abs, range(2)))
    # Each runner fails, and the reason is shown once.
    assert "No matching" not in "".join(capfd.readouterr())
    reason = "packages= could not be installed by pip: No matching distribution found for flamea"
    assert caplog.text.count(reason) == 1
    said = str(error.value)
    assert "No matching distribution found for flamea==7.0" in said
    assert "pip.conf" in said
    assert "hunter2" not in said
    assert "hunter2" not in str(client.cluster.events)


def test_a_home_that_cannot_be_written_to(flame: Flame, own: Path, tmp_path: Path) -> None:
    wheel(tmp_path / "wheels", "flamea", "2.0")
    (tmp_path / "file").touch()
    env = {"XDG_CACHE_HOME": str(tmp_path / "file")}
    _, client = flame(max=1, packages=["flamea==2.0"], env=env)
    folder = client.submit(lambda: importlib.import_module("flamea").__file__).result()
    # In the runner's own folder, which ends with it.
    assert "/runner-1/packages/" in folder


def test_credentials_are_not_in_the_manifest(flame: Flame) -> None:
    line = "flamea @ https://me:hunter2@localhost:1/flamea-1.0-py3-none-any.whl"
    cluster, _ = flame(max=1, packages=[line])
    assert "hunter2" not in str(cluster.manifest())
    assert "flamea" in str(cluster.manifest())
