"""A folder is removed by the process that has promised to, else by one that waits for that."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dask_flame.core import folder_locks
from tests.support.waiting import wait_for

pytestmark = pytest.mark.unit


class Waiting:
    """A thread that waits for the end of a folder's holder."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.looks = 0
        self.removed: bool | None = None
        look = folder_locks._supervised

        def counted(descriptor: int) -> bool:
            self.looks += 1
            return look(descriptor)

        monkeypatch.setattr(folder_locks, "_supervised", counted)
        self.thread = threading.Thread(target=self._wait, args=(str(folder),))
        self.thread.start()

    def _wait(self, folder: str) -> None:
        self.removed = folder_locks.remove_when_released(folder, 60, unless_supervised=True)


@pytest.fixture
def held(tmp_path: Path) -> Iterator[tuple[Path, list[int]]]:
    folder = tmp_path / "folder"
    folder.mkdir()
    descriptors = folder_locks.hold(str(folder))
    yield folder, descriptors
    for descriptor in descriptors:
        os.close(descriptor)


Held = tuple[Path, list[int]]


def test_two_that_wait_do_not_take_each_other_for_the_supervisor(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_locks, "_SURE", 0.0)
    folder, descriptors = held
    other = os.open(folder / ".supervised", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)  # as the other one looks
        waiting = Waiting(folder, monkeypatch)
        wait_for(lambda: waiting.looks > 3 or not waiting.thread.is_alive())
        while descriptors:
            os.close(descriptors.pop())
        waiting.thread.join()
    finally:
        os.close(other)
    assert waiting.removed
    assert not folder.exists()


def test_a_supervised_folder_is_left_to_its_supervisor(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_locks, "_SURE", 0.2)
    folder, _ = held
    promise = folder_locks.supervise(str(folder))
    try:
        waiting = Waiting(folder, monkeypatch)
        waiting.thread.join()
    finally:
        os.close(promise)
    assert waiting.removed is False
    assert folder.exists()


def test_a_supervisor_that_dies_at_once_is_no_supervisor(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_locks, "_SURE", 30.0)
    folder, descriptors = held
    promise = folder_locks.supervise(str(folder))
    waiting = Waiting(folder, monkeypatch)
    wait_for(lambda: waiting.looks > 3 or not waiting.thread.is_alive())
    os.close(promise)
    while descriptors:
        os.close(descriptors.pop())
    waiting.thread.join()
    assert waiting.removed
