"""Drivers in processes of their own, which tests kill."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import psutil

from tests.support.paths import ROOT
from tests.support.waiting import wait_for


def environment(**more: str) -> dict[str, str]:
    """Return the variables of a process that imports what this one can."""
    path = os.pathsep.join(p for p in (str(ROOT), *sys.path) if p)
    return {**os.environ, "PYTHONPATH": path, **more}


@contextmanager
def driver(
    module: str, *arguments: str, variables: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Run a module as a driver; kill it at the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(**(variables or {})),
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def watchdog_of(process: subprocess.Popen[str]) -> psutil.Process:
    """Return the process beside a driver that ends what is left after its death."""

    def found() -> list[psutil.Process]:
        children = psutil.Process(process.pid).children()
        return [child for child in children if "watchdog" in " ".join(child.cmdline())]

    # A process that has only just begun has no command line for a moment.
    (watchdog,) = wait_for(found)
    return watchdog
