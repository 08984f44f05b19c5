"""Packs give back what was put into them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_flame.code.packs import Pack, Packs, build, digest

pytestmark = pytest.mark.unit

CONTENTS = st.lists(st.binary(max_size=200), max_size=8).map(lambda c: {digest(b): b for b in c})


@given(CONTENTS)
def test_a_pack_has_what_was_put_into_it(contents: dict[bytes, bytes]) -> None:
    pack = Pack(build(contents))
    assert dict(pack) == contents
    assert len(pack) == len(contents)


@given(CONTENTS, CONTENTS)
def test_contents_are_found_in_any_of_several_packs(
    some: dict[bytes, bytes], more: dict[bytes, bytes]
) -> None:
    packs = Packs()
    packs.add("some", Pack(build(some)))
    packs.add("more", Pack(build(more)))
    for key, content in {**some, **more}.items():
        assert packs.content(key) == content
    packs.keep(["more"])
    for key in some.keys() - more.keys():
        with pytest.raises(KeyError):
            packs.content(key)


def test_a_pack_is_read_from_a_file_that_is_then_removed(tmp_path: Path) -> None:
    contents = {digest(b"a" * 100_000): b"a" * 100_000}
    file = tmp_path / "pack"
    file.write_bytes(build(contents))
    assert file.stat().st_size < 1000
    pack = Pack.read(file)
    file.unlink()
    assert dict(pack) == contents
