"""Packs hold contents by their digests, and a damaged one is seen to be."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_flame.core.packs import DIGEST, MAGIC, Pack, PackError, Packs, build, digest, join

pytestmark = pytest.mark.unit

contents = st.lists(st.binary(max_size=2000), max_size=8)


def packed(items: list[bytes], level: int = 6) -> bytes:
    return build(((digest(item), item) for item in items), level=level)


@given(contents, st.integers(1, 9))
def test_what_goes_in_comes_out(items: list[bytes], level: int) -> None:
    pack = Pack(packed(items, level))
    assert list(pack) == list(dict.fromkeys(map(digest, items)))
    assert len(pack) == len(set(items))
    for item in items:
        assert digest(item) in pack
        assert pack.read(digest(item)) == item


@given(contents, contents)
def test_packs_are_joined_as_they_are(first: list[bytes], second: list[bytes]) -> None:
    packs = [Pack(packed(first)), Pack(packed(second))]
    both = Pack(join((name, pack.compressed(name)) for pack in packs for name in pack))
    assert {both.read(name) for name in both} == {*first, *second}


@given(contents, st.data())
def test_a_pack_that_is_cut_short(items: list[bytes], data: st.DataObject) -> None:
    pack = packed(items)
    cut = pack[: data.draw(st.integers(0, len(pack) - 1))]
    try:
        read = Pack(cut)
    except PackError:
        return
    # It ends between two records.
    assert [read.read(name) for name in read] == list(dict.fromkeys(items))[: len(read)]


@given(contents.filter(bool), st.data())
def test_a_byte_that_has_changed(items: list[bytes], data: st.DataObject) -> None:
    pack = bytearray(packed(items))
    at = data.draw(st.integers(0, len(pack) - 1))
    pack[at] ^= data.draw(st.integers(1, 255))
    try:
        read = Pack(bytes(pack))
        # A byte may have no effect, as in the padding of the compression.
        assert [read.read(digest(item)) for item in items] == items
    except PackError:
        pass


@pytest.mark.parametrize("data", [b"", b"PK", MAGIC[:3], b"x" + MAGIC])
def test_what_is_no_pack(data: bytes) -> None:
    with pytest.raises(PackError, match="no pack"):
        Pack(data)


def test_what_a_pack_lacks() -> None:
    assert len(digest(b"x")) == DIGEST
    pack = Pack()
    assert digest(b"x") not in pack
    with pytest.raises(PackError, match=f"lacks {digest(b'x').hex()}"):
        pack.read(digest(b"x"))


def test_a_content_under_the_digest_of_another() -> None:
    pack = Pack(build([(digest(b"x"), b"y")]))
    with pytest.raises(PackError, match="another digest"):
        pack.read(digest(b"x"))


def test_a_pack_in_a_file_that_is_then_removed(tmp_path: Path) -> None:
    file = tmp_path / "pack"
    file.write_bytes(packed([b"a" * 100_000, b"b"]))
    assert file.stat().st_size < 1000
    pack = Pack.in_file(file)
    file.unlink()
    assert pack.read(digest(b"a" * 100_000)) == b"a" * 100_000


@given(contents, contents)
def test_contents_of_several_packs(some: list[bytes], more: list[bytes]) -> None:
    packs = Packs()
    packs.add("some", Pack(packed(some)))
    packs.add("more", Pack(packed(more)))
    for item in some + more:
        assert packs.read(digest(item)) == item
    with pytest.raises(PackError, match="no pack has"):
        packs.read(digest(b"x" * 3000))
