"""Options of a pool on Fly; errors have the line to write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask
import pytest

from dask_flame import FlameCluster, Pool
from dask_flame.backends.fly.options import FlyOptions
from dask_flame.errors import PoolError

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("app", "my-runners"),
        ("region", "fra"),
        ("region", ["fra", "ams"]),
        ("cpu_kind", "performance"),
        ("reserve", 8),
        ("reach", "public"),
        ("mounts", {"/data": "vol_abc123"}),
    ],
)
def test_what_is_valid(name: str, value: Any) -> None:
    found = FlyOptions(**{name: value}).given[name]
    assert found == (tuple(value) if isinstance(value, list) else value)
    assert name in repr(FlyOptions(**{name: value}))


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("app", "My App", r"app='My App' is not the name of an app.*; write app=\"my-runners\""),
        ("region", "Frankfurt", r"region='Frankfurt' is not a region.*; write region=\["),
        ("region", [], "region="),
        ("cpu_kind", "fast", "cpu_kind='fast' is not one of 'shared', 'performance'; write"),
        ("reserve", -1, "reserve=-1 is not a whole number of 0 or more; write reserve=8"),
        ("reach", "tunnel", "reach='tunnel' is not one of 'proxy', 'wireguard', 'public'"),
        ("mounts", {"data": "vol_1"}, "made of absolute paths"),
        ("mounts", {"/data": "my-volume"}, "made of ids of volumes"),
        ("mounts", {"/a": "vol_1", "/b": "vol_2"}, "one volume"),
    ],
)
def test_what_is_wrong_is_said_with_a_line_that_works(name: str, value: Any, says: str) -> None:
    with pytest.raises(PoolError, match=says):
        FlyOptions(**{name: value})


def test_a_pool_knows_them_before_a_backend_is_chosen() -> None:
    pool = Pool(region=["fra", "ams"], reserve=2)
    assert pool.options["reserve"] == 2
    assert [kind.text for kind in pool.kinds] == ["fra", "ams"]


def test_the_configuration_may_have_a_list(tmp_path: Path) -> None:
    (tmp_path / "flame.yaml").write_text(
        "flame: {fly: {region: [fra, ams], cpu-kind: [shared, performance]}}"
    )
    found = dask.config.collect([str(tmp_path)], env={})
    with dask.config.set(found):
        options = FlyOptions.configured().given
    assert options["region"] == ("fra", "ams")
    assert options["cpu_kind"] == ("shared", "performance")


def test_a_volume_is_for_one_runner() -> None:
    options: dict[str, Any] = {"backend": "fly", "mounts": {"/data": "vol_abc123"}}
    with pytest.raises(PoolError, match=r"mounts=.* in one machine at a time, and max=2; write ma"):
        FlameCluster(**options, max=2)
    with pytest.raises(PoolError, match="write max=1"):
        FlameCluster(backend="fly", pools={"data": Pool(mounts={"/data": "vol_1"}, max=8)})


def test_the_token_of_the_configuration_is_never_shown() -> None:
    with dask.config.set({"flame.fly.token": 12345678}), pytest.raises(PoolError) as caught:
        FlyOptions.setting("token")
    assert "12345678" not in str(caught.value)
