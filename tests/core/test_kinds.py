"""Kinds of runner: combinations in order of preference, and the price of each."""

from __future__ import annotations

from itertools import product
from typing import Any

import dask.config
import pytest
from distributed import Security
from hypothesis import given
from hypothesis import strategies as st

from dask_flame import FlameCluster, Pool, PoolError
from dask_flame.backends.kubernetes import KubernetesBackend
from dask_flame.core.kinds import Kind, kinds_of, price_of
from dask_flame.driver.launch import capacity_wait, check_taken, of_kind, runner_spec

pytestmark = pytest.mark.unit

_gpus = st.lists(st.sampled_from(["H100", "A100", "L4", "T4"]), unique=True, min_size=1)


@given(gpus=_gpus, spot=st.sampled_from([None, True, False, "prefer", [False, True]]))
def test_each_combination_is_a_kind_and_the_last_option_changes_first(
    gpus: list[str], spot: Any
) -> None:
    kinds = Pool(spot=spot, gpu_kind=gpus).kinds
    orders = {"prefer": [True, False], None: [None]}
    spots = spot if isinstance(spot, list) else orders.get(spot, [spot])
    wanted = [{"gpu_kind": g, "spot": s} for g, s in product(gpus, spots)]
    assert [dict(kind.options) for kind in kinds] == [
        {name: value for name, value in each.items() if value is not None} for each in wanted
    ]
    assert len({kind.text for kind in kinds}) == len(kinds)
    assert Pool(gpu_kind=gpus, spot=spot, image="a").abridged.kinds == kinds


def test_a_pool_without_such_options_has_one_kind() -> None:
    assert kinds_of({}) == (Kind(),)
    assert Pool(image="a").kinds == (Kind(),)
    assert Kind().text == ""
    assert Pool(gpu_kind="A100").kinds == (Kind(("A100",), {"gpu_kind": "A100"}),)
    assert Pool(spot=False).kinds[0].text == "on demand"


def test_a_backend_sees_one_value() -> None:
    pool = Pool(gpu_kind=["H100", "A100"], spot="prefer", image="img")
    spec = runner_spec("one", pool, of="gpu", scheduler="tls://x:1", security=Security())
    assert spec.options == {"image": "img", "gpu_kind": "H100", "spot": True}
    assert spec.kind == "H100, spot"
    assert (spec.capacity_wait, spec.last_kind) == (60, False)
    other = of_kind(spec, pool, "A100, on demand")
    assert other.options == {"image": "img", "gpu_kind": "A100", "spot": False}
    assert other.last_kind
    assert of_kind(spec, pool, "no longer there").kind == "H100, spot"
    one = runner_spec("one", Pool(spot=True), of="cpu", scheduler="", security=Security())
    assert (one.kind, one.capacity_wait) == ("spot", None)


def test_an_order_is_for_options_and_backends_that_have_them() -> None:
    options = Pool(gpu_kind=["H100", "A100"]).options
    check_taken(KubernetesBackend, options)
    with pytest.raises(PoolError, match="gpu_kind is an option of pods"):
        FlameCluster(gpu_kind=["H100", "A100"], backend="local")
    assert "gpu_kind=('H100', 'A100')" in repr(Pool(gpu_kind=["H100", "A100"]))
    assert "spot='prefer'" in repr(Pool(spot="prefer"))


@pytest.mark.parametrize(
    ("option", "value", "line"),
    [
        ("gpu_kind", {"H100", "A100"}, 'gpu_kind=["A100", "H100"]'),
        ("gpu_kind", {"H100": 4}.keys(), 'gpu_kind=["H100"]'),
        ("gpu_kind", {1: "H100"}.values(), 'gpu_kind=["NVIDIA-A100-SXM4-40GB"]'),
        ("gpu_kind", (kind for kind in ["H100", "A100"]), 'gpu_kind=["NVIDIA-A100-SXM4-40GB"]'),
        ("gpu_kind", {3}, 'gpu_kind=["NVIDIA-A100-SXM4-40GB"]'),
        ("region", frozenset(), 'region=["fra", "ams"]'),
        ("spot", {True}, "spot=[True]"),
    ],
)
def test_an_order_needs_a_list(option: str, value: Any, line: str) -> None:
    with pytest.raises(PoolError, match="is no order of preference, which is a list") as caught:
        Pool(**{option: value})
    assert str(caught.value).endswith(f"; write {line}")
    Pool(**eval(f"dict({line})"))


def test_the_wait_is_shorter_than_a_boot() -> None:
    pool = Pool(gpu_kind=["H100", "A100"], boot_timeout="10m")
    assert capacity_wait(pool) == 300
    with dask.config.set({"flame.capacity-wait": "9m"}):
        assert capacity_wait(pool) == 540
        with pytest.raises(PoolError, match=r"flame\.capacity-wait=540 s .*boot_timeout=\"1080s\""):
            capacity_wait(pool.replace(boot_timeout="9m"))
        # Nothing else is asked for, so that nothing depends on it.
        assert capacity_wait(Pool(gpu_kind="A100")) == 540


# Prices


def test_the_price_with_the_most_parts_applies() -> None:
    prices = {"H100": 4.0, "spot": 1.0, "H100, spot": 1.5}
    pool = Pool(gpu_kind=["H100", "A100"], spot=True, price=prices)
    assert pool.price_of("H100, spot") == 1.5
    assert pool.price_of("A100, spot") == 1.0
    assert pool.price_of("H100, on demand") == 4.0
    assert pool.price_of("L4, on demand") is None
    assert Pool(price=2).price_of("anything") == 2
    assert Pool().price_of("") is None
    assert Pool(gpu_kind="H100", price={"H100": 4}).price == {"H100": 4.0}
    joined = Pool(gpu_kind="H100", spot="prefer", price={"H100,spot": 1, "on demand": 2})
    assert joined.price_of("H100, spot") == 1
    assert hash(pool) == hash(pool.replace(price=3))  # a mapping has no hash


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"gpu_kind": ["H100", "A100"], "price": {"H100": 4}},
            r'the kind "A100" has no price; write price={"H100": 4, "A100": …} with a number',
        ),
        (
            {"gpu_kind": "H100", "spot": "prefer", "price": {"spot": 1}},
            r'the kind "H100, on demand" has no price; write .*"H100, on demand": …}',
        ),
        (
            {"gpu_kind": "H100", "spot": True, "price": {"H100": 4, "spot": 1}},
            r'the kind "H100, spot" has 2 prices, of "H100" \(4\) and of "spot" \(1\); write ',
        ),
        (
            {"gpu_kind": ["H100", "A100"], "spot": "prefer", "price": {"H100": 1.23456789}},
            r'"A100, spot" has no price \(and 1 more\); write price={"H100": 1.23456789, "A100, s',
        ),
        ({"price": {"H100": 4}}, "this pool has one kind of runner; write price=4"),
        ({"price": {"H100": 4, "A100": 2}}, "this pool has one kind of runner; write price=…"),
        ({"gpu_kind": "a", "price": {"a": 0}}, "not a number, or a mapping of kinds to numbers"),
        ({"gpu_kind": "a", "price": {"a": "4"}}, "not a number, or a mapping of kinds to numbers"),
        ({"gpu_kind": "a", "price": {3: 4}}, "not a number, or a mapping of kinds to numbers"),
        ({"gpu_kind": "a", "price": {}}, "not a number, or a mapping of kinds to numbers"),
        ({"gpu_kind": "a", "price": [4]}, "not a number"),
    ],
)
def test_a_kind_without_a_price_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(PoolError, match=says) as caught:
        Pool(**options)
    said = str(caught.value)
    line = said.partition("; write ")[2].partition(" with a number")[0]
    name, _, value = line.partition("=")
    if "not a number" in said:
        return
    if "…" in value:
        with pytest.raises(SyntaxError):
            eval(value)  # it cannot be taken for a price
        value = value.replace("…", "3")
    Pool(**{**options, name: eval(value)})  # the line to type works


def test_a_changed_order_needs_prices_too() -> None:
    pool = Pool(gpu_kind=["H100", "A100"], price={"H100": 4, "A100": 2})
    with pytest.raises(PoolError, match='the kind "L4" has no price'):
        pool.replace(gpu_kind=["H100", "L4"])
    assert pool.replace(gpu_kind=["H100", "L4"], price=3).price == 3
    with (
        dask.config.set({"flame.pool.price": {"H100": 4}}),
        pytest.raises(PoolError, match=r"flame\.pool\.price=.* is not a number"),
    ):
        Pool(gpu_kind="H100")


_parts = st.lists(st.sampled_from(["H100", "A100", "ams", "fra", "spot"]), unique=True, min_size=1)
_texts = _parts.map(", ".join)


@given(prices=st.dictionaries(_texts, st.floats(0.1, 10), min_size=1), kind=_texts)
def test_a_price_applies_only_to_what_it_names(prices: dict[str, float], kind: str) -> None:
    found = price_of(prices, kind)
    fits = {key: set(key.split(", ")) <= set(kind.split(", ")) for key in prices}
    assert (found is None) == (not any(fits.values()))
    if found is not None:
        most = max(len(key.split(", ")) for key in prices if fits[key])
        assert found in [
            price for key, price in prices.items() if fits[key] and len(key.split(", ")) == most
        ]
