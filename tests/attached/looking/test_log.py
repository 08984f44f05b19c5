"""The log of a process, while somebody reads it."""

from __future__ import annotations

import logging
import logging.handlers
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dask_flame.attached.looking.log import Log, LogTap, _Handler
from dask_flame.attached.looking.wire import packed, unpacked
from tests.support.waiting import wait_for

pytestmark = pytest.mark.unit
logger = logging.getLogger("shop")
alone = logging.getLogger("shop.access")


@pytest.fixture
def tap() -> Iterator[LogTap]:
    tap = LogTap("shop", kept=5)
    tap.open()
    alone.propagate = False
    yield tap
    tap.close()
    alone.propagate = True
    every = [logging.getLogger(), *map(logging.getLogger, list(logging.root.manager.loggerDict))]
    assert not [h for each in every for h in each.handlers if isinstance(h, _Handler)]


def test_records_are_read_once_in_order(tap: LogTap) -> None:
    logger.warning("one %s", 1)
    logger.error("two")
    found = tap.read()
    assert [(line.level, line.logger, line.text) for line in found] == [
        ("WARNING", "shop", "one 1"),
        ("ERROR", "shop", "two"),
    ]
    assert not tap.read(found.lines[-1].number).lines
    assert unpacked(Log, packed(found)) == found


def test_a_logger_that_does_not_propagate_is_followed_and_none_counts_twice(tap: LogTap) -> None:
    tap.read()  # it has become such a one after the start
    alone.warning("GET /basket")
    logger.warning("other")
    assert [line.text for line in tap.read()] == ["GET /basket", "other"]


def test_only_the_last_lines_are_kept_and_the_loss_is_told(tap: LogTap) -> None:
    for i in range(12):
        logger.warning("line %s", i)
    found = tap.read(2)
    assert [line.text for line in found] == [f"line {i}" for i in range(7, 12)]
    assert found.lost == 5
    assert "5 lines were dropped" in repr(found)


def test_a_reader_is_woken_by_the_next_line_and_by_the_end(tap: LogTap) -> None:
    found: list[Log] = []
    reader = threading.Thread(target=lambda: found.append(tap.read(within=60)))
    reader.start()
    logger.warning("wake up")
    reader.join()
    assert [line.text for line in found[0]] == ["wake up"]
    reader = threading.Thread(target=lambda: found.append(tap.read(1, within=600)))
    reader.start()
    tap.close()
    reader.join()
    tap.open()


def test_tracebacks_are_there_and_secrets_are_not(tap: LogTap) -> None:
    try:
        raise ValueError("a basket without a bottom")
    except ValueError:
        logger.exception("password=hunter2-hunter2 for %s", "shop")
    text = tap.read().lines[0].text
    assert "hunter2" not in text
    assert "ValueError: a basket without a bottom" in text


def test_a_record_that_cannot_be_formatted_harms_nobody(tap: LogTap) -> None:
    raised, logging.raiseExceptions = logging.raiseExceptions, False
    try:
        logger.warning("%s %s", "one")
    finally:
        logging.raiseExceptions = raised
    assert tap.read().lines[0].text == "%s %s"


def test_earlier_lines_come_from_files_and_buffers(tap: LogTap, tmp_path: Path) -> None:
    assert "no earlier ones" in tap.earlier().since
    file = logging.FileHandler(tmp_path / "shop.log")
    buffer = logging.handlers.MemoryHandler(10)
    for handler in (file, buffer):
        logger.addHandler(handler)
    try:
        logger.warning("token=abcdefgh12345678 before")
        found = tap.earlier()
        assert len(found) == 2
        assert all("before" in line.text and "abcdefgh" not in line.text for line in found)
        assert {line.number for line in found} == {0}
    finally:
        for handler in (file, buffer):
            logger.removeHandler(handler)
            handler.close()


def test_a_forked_child_logs_even_if_the_lock_was_held(tap: LogTap) -> None:
    with tap._lock:
        tap._pid = os.getpid() + 1  # as in a child
        logger.warning("from a child")
        tap._pid = os.getpid()
    assert not tap.read().lines


def test_without_readers_nothing_stays() -> None:
    tap = LogTap()
    before = list(logging.getLogger().handlers)
    tap.open()
    tap.open()
    tap.close()
    assert logging.getLogger().handlers != before
    tap.close()
    wait_for(lambda: logging.getLogger().handlers == before)
