"""Options that backends register: one field says all about each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import dask.config
import pytest

from dask_flame import FlameCluster, Pool, PoolError
from dask_flame.backends import Backend, BackendOptions, Option, RunnerSpec, option
from dask_flame.backends.local import LocalBackend
from dask_flame.core import backend_options
from dask_flame.core.option_checks import one_of, size, whole, word, yes_or_no
from dask_flame.driver.fleets import PoolFleets
from dask_flame.driver.launch import check_taken, with_configured
from dask_flame.errors import BackendError

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


def test_what_is_configured_is_an_option_of_the_pools_that_have_none(
    cloud: type[BackendOptions], offers: type[Backend]
) -> None:
    pools = {"own": Pool(zone="eu-1", disk="1 GiB"), "other": Pool()}
    with dask.config.set({"flame.cloud.zone": "eu-3"}):
        found = with_configured(offers, pools)
        assert {name: pool.options for name, pool in found.items()} == {
            "own": {"zone": "eu-1", "disk": 2**30},
            "other": {"zone": "eu-3"},
        }
        # They are options of the backend that the cluster has.
        assert with_configured(LocalBackend, pools) == pools
    assert with_configured(offers, pools) == pools


def test_the_backend_of_a_cluster_finds_what_is_configured(
    cloud: type[BackendOptions],
) -> None:
    seen: list[Mapping[str, Any]] = []

    class Cloud(LocalBackend):
        name = "cloud"
        Options = cloud

        def expect(self, specs: Sequence[RunnerSpec]) -> None:
            seen.extend(spec.options for spec in specs)
            raise BackendError("that is enough")

    with (
        dask.config.set({"flame.cloud.zone": "eu-3"}),
        pytest.raises(BackendError, match="that is enough"),
    ):
        FlameCluster(backend=Cloud, cores=2, dashboard_address=None)
    assert seen == [{"zone": "eu-3", "cores": 2}]


def test_an_order_of_preference_may_be_configured() -> None:
    @dataclass(frozen=True, init=False, repr=False)
    class RoomOptions(BackendOptions):
        backend: ClassVar[str] = "room"

        bay: str | None = option(word, '"a"', section="room", preference=True)

    class Room(Backend):
        name = "room"
        Options = RoomOptions

    with dask.config.set({"flame.room.bay": ["b", "a"]}):
        pool = with_configured(Room, {"default": Pool()})["default"]
    assert [kind.options for kind in pool.kinds] == [{"bay": "b"}, {"bay": "a"}]


def test_a_setting_that_nobody_has_written_is_not_wrong() -> None:
    @dataclass(frozen=True, init=False, repr=False)
    class RoomOptions(BackendOptions):
        backend: ClassVar[str] = "room"
        settings: ClassVar[Mapping[str, Option]] = {
            "socket": Option(check=word, example='"/run/room"')
        }

        bay: str | None = option(word, '"a"', section="room")

    with dask.config.set({"flame.room.socket": "/s"}):
        RoomOptions.check_settings()
        assert RoomOptions.configured().given == {}
    with dask.config.set({"flame.room.bay": "b"}):
        assert RoomOptions.setting("socket") is None
        RoomOptions.check_settings()
    with (
        dask.config.set({"flame.room.bay": None}),
        pytest.raises(PoolError, match=r"flame\.room\.bay=None .*is not a name"),
    ):
        RoomOptions.check_settings()


@pytest.mark.usefixtures("cloud")
def test_a_default_of_another_package_may_be_none(
    cloud: type[BackendOptions], monkeypatch: pytest.MonkeyPatch
) -> None:
    defaults = {"flame": {"cloud": {"api": None}}}
    monkeypatch.setattr(dask.config, "defaults", [*dask.config.defaults, defaults])
    with dask.config.set({"flame.cloud.api": None}):
        cloud.check_settings()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("zonne", r"flame\.cloud\.zonne .*is no setting; did you mean flame\.cloud\.zone\?"),
        ("a_p_i", r"is no setting; did you mean flame\.cloud\.api\?"),
        ("disk", r"disk is an option of a pool, without a setting; write FlameCluster\(disk="),
        ("gizmo", r"is no setting; there are flame\.cloud\.api, flame\.cloud\.zone"),
    ],
)
def test_a_misspelt_setting_of_another_package_is_refused(
    cloud: type[BackendOptions], name: str, says: str
) -> None:
    with (
        dask.config.set({f"flame.cloud.{name}": "1", "flame.cloud.context": "c"}),
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
