"""What tests call in pods, without the imports of the tests (runner)."""

from __future__ import annotations

import importlib
import os
import sys
import time
from pathlib import Path
from typing import Any

from dask.distributed import get_worker

import dask_flame


def whoami(seconds: float = 0.0) -> tuple[str, str | None]:
    time.sleep(seconds)
    return get_worker().name, os.environ.get("TOKEN")


def until(path: str) -> str:
    while not os.path.exists(path):
        time.sleep(0.02)
    return str(get_worker().name)


def use() -> tuple[tuple[int, ...], dict[str, str]]:
    return tuple(dask_flame.devices()), dask_flame.devices().environment


def talk(folder: str) -> None:
    """Print, and again when it is told to."""
    print("before")
    (Path(folder) / "began").touch()
    while not (Path(folder) / "go on").exists():
        time.sleep(0.01)
    print("after, without a newline", end="", flush=True)
    time.sleep(600)


def say(what: str) -> None:
    print(what)
    print("and an error", file=sys.stderr)
    print("no end", end="")


def talk_for(seconds: float) -> None:
    print("here I am", flush=True)
    time.sleep(seconds)


def version(_: Any = None) -> str:
    found: str = importlib.import_module("flamea").__version__
    return found
