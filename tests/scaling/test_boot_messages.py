from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_flame.core.python_versions import mismatch, of_worker
from dask_flame.scaling.boot_messages import BootMessages

pytestmark = pytest.mark.unit

_texts = st.text("abc :", min_size=1, max_size=80)


@given(st.lists(st.tuples(st.integers(1, 3), _texts), max_size=20))
def test_each_reason_is_told_once_whoever_it_is_of(reasons: list[tuple[int, str]]) -> None:
    told, seen = BootMessages(), set()
    for number, text in reasons:
        runner = f"runner-{number}"
        news = told.shorten("cpu", runner, f"{text} {runner}")
        assert bool(news) == (text not in seen)
        seen.add(text)
    for _, text in reasons[:1]:
        assert told.shorten("gpu", "gpu-1", text)  # another pool's is another story
        told.forget("cpu")
        assert told.shorten("cpu", "runner-9", f"{text} runner-9")


def test_what_was_told_is_not_told_again_within_something_longer() -> None:
    why = "ErrImagePull: failed to resolve reference registry.test/no:1: not found"
    told = BootMessages()
    assert told.shorten("cpu", "cpu-1", why) == why
    longer = f"ImagePullBackOff: Back-off pulling image: {why}; relevant settings: image"
    said = told.shorten("cpu", "cpu-1", longer)
    assert (
        said == "ImagePullBackOff: Back-off pulling image: … (see above); relevant settings: image"
    )
    assert told.shorten("cpu", "cpu-2", longer) == ""


_minors = st.tuples(st.integers(2, 4), st.integers(0, 20))


@given(_minors, _minors, st.integers(0, 20), st.integers(0, 20))
def test_pythons_fit_where_their_minor_versions_are_the_same(
    one: tuple[int, int], other: tuple[int, int], first: int, second: int
) -> None:
    there, driver = (f"{v[0]}.{v[1]}.{micro}" for v, micro in ((one, first), (other, second)))
    said = mismatch(of_worker({"packages": {"python": f"{there}.final.0"}}), driver)
    assert bool(said) == (one != other)
    assert not said or (there in said and driver in said)
    assert mismatch("", driver) == mismatch(of_worker({}), driver) == ""
