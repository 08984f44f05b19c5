"""The kinds of test, which ``-m`` chooses by: each test says one of them, and keeps to it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

#: ``unit`` starts no process, socket or cluster; ``process`` does; ``browser`` drives Chromium.
KINDS = ("unit", "process", "browser")
_STARTS = {
    "os.exec",
    "os.fork",
    "os.forkpty",
    "os.posix_spawn",
    "os.system",
    "socket.bind",
    "socket.connect",
    "subprocess.Popen",
}
#: The audit events of the unit test that runs; None between unit tests.
_started: list[str] | None = None
_hooked = False


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _started is not None and event in _STARTS:
        _started.append(f"{event} {arguments}"[:200])


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With ``-m unit``, leave out the files without such a test: their imports take seconds."""
    return True if left_out(collection_path, config) else None


def left_out(path: Path, config: pytest.Config) -> bool:
    """Whether ``-m`` chooses no test of this file, as far as its text tells."""
    if config.option.markexpr != "unit" or not path.name.startswith("test_"):
        return False
    return not path.is_dir() and not _says_unit(path)


def _says_unit(path: Path) -> bool:
    return "mark.unit" in path.read_text(encoding="utf-8")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse tests without a kind, and tests with several."""
    unseen = {i.path for i in items if i.get_closest_marker("unit") and not _says_unit(i.path)}
    if unseen:
        raise pytest.UsageError(f"write `mark.unit` in the file of a unit test: {unseen}")
    wrong = [
        f"{item.nodeid}: {' and '.join(found) or 'none'}"
        for item in items
        if len(found := [kind for kind in KINDS if item.get_closest_marker(kind)]) != 1
    ]
    if wrong:
        rule = f"each test has exactly one of the marks {', '.join(KINDS)}"
        raise pytest.UsageError("\n".join([rule, *wrong]))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Record what a unit test starts."""
    global _started, _hooked
    if item.get_closest_marker("unit") is None:
        return (yield)
    if not _hooked:
        # There is no way to remove it again.
        sys.addaudithook(_audit)
        _hooked = True
    _started = []
    try:
        return (yield)
    finally:
        _started = None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Fail a unit test that has started a process or opened a connection."""
    result = yield
    if _started:
        pytest.fail(f"a unit test starts nothing: {_started}; mark it `process`")
    return result
