"""Options that backends register: one field says all about each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import dask.config
import pytest

from dask_flame import FlameCluster, Pool, PoolError
from dask_flame.backends import Backend, BackendOptions, Option, option
from dask_flame.core import backend_options
from dask_flame.core.option_checks import one_of, size, whole, word, yes_or_no
from dask_flame.driver.fleets import PoolFleets
from dask_flame.driver.launch import check_taken

pytestmark = pytest.mark.process


@pytest.fixture(autouse=True)
def _registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is registered in a test is not known in others."""
    for name in ("_classes", "_points"):
        monkeypatch.setattr(backend_options, name, dict(getattr(backend_options, name)))
    monkeypatch.setattr(backend_options, "_imported", set(backend_options._imported))


@pytest.fixture
def cloud() -> type[BackendOptions]:
    @dataclass(frozen=True, init=False, repr=False)
    class CloudOptions(BackendOptions):
        backend: ClassVar[str] = "cloud"
        makes: ClassVar[str] = "machines"
        settings: ClassVar[Mapping[str, Option]] = {
            "api": Option(check=word, example='"https://cloud.example"', default="https://here")
        }

        zone: str | None = option(word, '"eu-1"', section="cloud", nullable=True)
        disk: int | None = option(size, '"10 GiB"', in_bytes=True)
        keys: Mapping[str, str] | None = option(_mapping, '{"a": "b"}', secret=True)
        cores: int | None = option(partial(whole, least=1), "2", fixed=True)

    return CloudOptions


def _mapping(name: str, value: Any) -> dict[str, str]:
    return dict(value)


@pytest.fixture
def offers(cloud: type[BackendOptions]) -> Iterator[type[Backend]]:
    class Cloud(Backend):
        name = "cloud"
        Options = cloud

    return Cloud


@pytest.mark.usefixtures("cloud")
def test_a_pool_takes_them_checked_and_shown_as_declared() -> None:
    pool = Pool(zone="eu-2", disk="10 GiB", keys={"token": "s3cret"}, max=2)
    assert pool.options == {"zone": "eu-2", "disk": 10 * 2**30, "keys": {"token": "s3cret"}}
    assert repr(pool).endswith("zone='eu-2', disk='10 GiB', keys={token: …})")
    assert pool.replace(zone=None).options.keys() == {"disk", "keys"}
    assert pool.said(["zone", "disk", "keys"]) == {"zone": "eu-2", "disk": "10 GiB"}
    with pytest.raises(PoolError, match=r'disk=.lots. is not a size such as "10 GiB"; write disk='):
        Pool(disk="lots")
    with pytest.raises(PoolError, match=r"unknown option zon; did you mean zone="):
        Pool(zon="eu-2")


@pytest.mark.usefixtures("cloud")
def test_another_back_end_refuses_them_and_says_whose_they_are() -> None:
    with pytest.raises(PoolError) as caught:
        FlameCluster(zone="eu-2")
    assert str(caught.value) == (
        "zone is an option of machines, and backend='local' makes none; leave it out, or write "
        'backend="cloud"'
    )


def test_the_back_end_of_the_cluster_has_the_last_word(
    cloud: type[BackendOptions], offers: type[Backend]
) -> None:
    @dataclass(frozen=True, init=False, repr=False)
    class OtherOptions(BackendOptions):
        backend: ClassVar[str] = "aaa"  # it is asked first
        makes: ClassVar[str] = "boats"

        zone: str | None = option(partial(one_of, words=("sea",)), '"sea"')

    class Other(Backend):
        name = "aaa"
        Options = OtherOptions

    assert Pool(zone="sea").options == Pool(options={"zone": "sea"}).options == {"zone": "sea"}
    pool = Pool(zone="eu-2")  # one of them takes it
    check_taken(offers, pool.options)
    with pytest.raises(PoolError, match=r"zone='eu-2' is not one of 'sea'"):
        check_taken(Other, pool.options)


@pytest.mark.usefixtures("cloud")
def test_one_that_is_fixed_cannot_be_changed_while_the_cluster_runs() -> None:
    fleets = PoolFleets({"default": Pool(cores=2)})
    with pytest.raises(PoolError, match=r"cores cannot be changed .*Pool\(cores=2\)"):
        fleets.resize(None, {"cores": 3})
    assert fleets.resize(None, {"zone": "eu-2"}).options == {"cores": 2, "zone": "eu-2"}


def test_settings_are_read_and_checked_where_they_are_used(cloud: type[BackendOptions]) -> None:
    assert cloud.setting("api") == "https://here"
    assert cloud.configured().given == {}
    with dask.config.set({"flame.cloud.zone": "eu-3", "flame.cloud.api": "https://there"}):
        assert cloud.configured().given == {"zone": "eu-3"}
        assert cloud.setting("api") == "https://there"
        cloud.check_settings()
    for setting, value in {"zone": 3, "api": " "}.items():
        says = rf"flame\.cloud\.{setting}=.*write dask\.config"
        with (
            dask.config.set({f"flame.cloud.{setting}": value}),
            pytest.raises(PoolError, match=says),
        ):
            cloud.check_settings()


def test_a_module_that_cannot_be_imported_harms_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "broken-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[dask_flame.backends]\nbroken = no_such_module:It\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "broken" in backend_options.installed(again=True)
    assert Pool(image="i").options == {"image": "i"}
    with pytest.raises(PoolError, match="unknown option gizmo"):
        Pool(gizmo=1)


def test_options_that_there_are_not(cloud: type[BackendOptions]) -> None:
    with pytest.raises(PoolError, match="unknown option spot; there are zone, disk, keys, cores"):
        cloud(spot=yes_or_no)
    with pytest.raises(PoolError, match="unknown option spot; there are none"):
        BackendOptions(spot=True)
