"""Which call of a local runner runs alone, as its supervisor sees it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dask_flame.prints.frames import NOBODY
from dask_flame.prints.sole_call import SoleCall, unread

pytestmark = pytest.mark.unit


def test_whose_it_is_is_seen_by_another(tmp_path: Path) -> None:
    path = str(tmp_path / "whose")
    with pytest.raises(FileNotFoundError):
        SoleCall(path, write=False)
    mine = SoleCall(path, write=True)
    theirs = SoleCall(path, write=False)
    assert theirs.read() == NOBODY
    for call, name in ((3, "rate=0.1"), (12345, "\U0001f600" * 96), (4, "")):
        mine.set(call, name)
        assert theirs.read() == (call, name)
    mine.set(0, "")
    assert theirs.read() == NOBODY
    mine.close()
    theirs.close()
    with pytest.raises(TypeError):
        SoleCall(path, write=False)._memory[0] = 1  # a reader cannot write


def test_whether_somebody_has_yet_to_read() -> None:
    read, write = os.pipe()
    try:
        assert not unread(write)
        os.write(write, b"a")
        assert unread(write)
        os.read(read, 9)
        assert not unread(write)
    finally:
        os.close(read)
        os.close(write)
    with open(os.devnull, "w") as nothing:
        assert not unread(nothing.fileno())
