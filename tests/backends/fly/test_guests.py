"""The smallest machine that is large enough."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_flame.backends.fly.guests import KINDS, guest
from dask_flame.errors import PoolError
from tests.fakes.fly.guests import guest_of

pytestmark = pytest.mark.unit

GIB = 2**30


@given(
    st.none() | st.floats(min_value=0.1, max_value=16),
    st.none() | st.integers(min_value=2**26, max_value=128 * GIB),
    st.none() | st.sampled_from(sorted(KINDS)),
)
def test_a_machine_exists_and_is_as_small_as_can_be(
    cpus: float | None, memory: int | None, kind: str | None
) -> None:
    try:
        found = guest(cpus, memory, kind)
    except PoolError:
        assert kind == "shared"
        assert (cpus or 0) > 8 or (memory or 0) > 16 * GIB
        return
    # Fly has it, as far as the fake knows.
    assert guest_of({"guest": found}) == found
    assert found["cpus"] >= (cpus or 0)
    assert found["memory_mb"] * 2**20 >= (memory or GIB)
    known = KINDS[found["cpu_kind"]]
    for fewer in known.cpus[: known.cpus.index(found["cpus"])]:
        assert fewer < (cpus or 1) or fewer * known.most * 2**20 < (memory or GIB)
    if found["memory_mb"] > found["cpus"] * known.least:
        assert (found["memory_mb"] - known.step) * 2**20 < (memory or GIB)


def test_a_kind_is_the_cheapest_that_fits() -> None:
    assert guest(8, 16 * GIB)["cpu_kind"] == "shared"
    assert guest(8, 17 * GIB)["cpu_kind"] == "performance"
    assert guest(10, None)["cpu_kind"] == "performance"


@pytest.mark.parametrize(
    ("given_", "says"),
    [
        ((17, None, None), 'cpus=17: .*largest is cpus=16, memory="128 GiB", cpu_kind="perf'),
        ((None, 200 * GIB, None), 'memory=.200 GiB.: .*memory="128 GiB"'),
        ((10, None, "shared"), r"cpus=10, cpu_kind='shared': .*largest is cpus=8, memory=\"16 GiB"),
    ],
)
def test_what_fly_has_not_is_refused_with_what_it_has(
    given_: tuple[float | None, int | None, str | None], says: str
) -> None:
    with pytest.raises(PoolError, match=says):
        guest(*given_)
