"""What is imported to collect the tests is compiled once, and is no load on the tests then."""

from __future__ import annotations

import contextlib
import gc
import importlib
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.kinds import left_out
from tests.support.paths import ROOT


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection(session: pytest.Session) -> Iterator[object]:
    """Keep the bytecode of the tests, also if ``PYTHONDONTWRITEBYTECODE`` is set.

    To rewrite their assertions takes as long as all imports. The tests themselves run with the
    setting as it was.
    """
    setting, sys.dont_write_bytecode = sys.dont_write_bytecode, False
    try:
        _import_in_turn(session.config)
        return (yield)
    finally:
        sys.dont_write_bytecode = setting
        # A full collection of garbage would look at a million objects of the imports each time.
        gc.collect()
        gc.freeze()


def _import_in_turn(config: pytest.Config) -> None:
    """With xdist, begin in each process at other files: one compiles what the others read."""
    worker = getattr(config, "workerinput", None)
    if worker is None:
        return
    files = sorted(_files(config))
    begin = len(files) * int(worker["workerid"].removeprefix("gw")) // worker["workercount"]
    for file in files[begin:] + files[:begin]:
        # What goes wrong here goes wrong again, and is told, when pytest imports the file.
        with contextlib.suppress(Exception, pytest.skip.Exception), warnings.catch_warnings():
            warnings.simplefilter("error")
            importlib.import_module(".".join(file.relative_to(ROOT).with_suffix("").parts))


def _files(config: pytest.Config) -> Iterator[Path]:
    for argument in config.args:
        path = (config.invocation_params.dir / argument.partition("::")[0]).resolve()
        for file in path.rglob("test_*.py") if path.is_dir() else [path]:
            if file.is_relative_to(ROOT / "tests") and not left_out(file, config):
                yield file
