"""What the memory of a process is used for."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import pytest

from dask_flame.attached.looking.memory import Memory, memory
from dask_flame.attached.looking.wire import packed, unpacked

pytestmark = pytest.mark.unit


class Basket:
    """Something of which an application has many."""

    def __init__(self) -> None:
        self.items: list[str] = []


class Odd:
    """An object whose size cannot be asked for."""

    def __sizeof__(self) -> int:
        raise RuntimeError("no")


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


def test_types_are_counted_with_their_sizes() -> None:
    baskets = [Basket() for _ in range(3_000)]
    found = memory("shop", most=1_000, limit=60)
    use = next(use for use in found.types if use.name.endswith("test_memory.Basket"))
    assert use.count == len(baskets)
    assert use.size > 3_000 * 16
    assert found.complete
    assert 0 < found.rss <= found.peak


def test_what_the_collector_does_not_know_is_counted_too() -> None:
    texts = [bytes(10_000) for _ in range(500)]
    found = memory(most=1_000, limit=60)
    use = next(use for use in found.types if use.name == "bytes")
    assert use.size >= len(texts) * 10_000


def test_the_time_limit_holds_and_is_told() -> None:
    found = memory(limit=0)
    assert not found.complete
    assert "within the time limit, not all" in repr(found)


def test_an_object_without_a_size_is_counted() -> None:
    odd = [Odd() for _ in range(7)]
    # An object without attributes is known to the collector only through its list.
    found = memory(most=10_000, limit=60)
    use = next(use for use in found.types if use.name.endswith("test_memory.Odd"))
    assert use.count == len(odd)


def test_lines_where_tracemalloc_is_on(traced: None) -> None:
    kept = [bytes(100_000) for _ in range(50)]
    found = memory(limit=0)
    assert found.traced
    assert any(__file__ in use.place and use.size >= 50 * 100_000 for use in found.lines)
    assert len(kept) == 50
    assert unpacked(Memory, packed(found)) == found


def test_without_tracemalloc_the_way_to_have_lines_is_named() -> None:
    found = memory(limit=0)
    assert not found.lines
    assert "tracemalloc.start()" in repr(found)
    assert "tracemalloc.start()" in found._repr_html_()
