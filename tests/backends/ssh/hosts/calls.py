"""What the tests of this folder call on hosts."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from distributed import Client, Event

from tests.support.ssh_hosts import SshHosts


def held(name: str, number: int = 0) -> tuple[int, str]:
    """Say in which home this runs, when the event of this name is set."""
    Event(f"{name}-{number}").set()
    Event(name).wait(timeout=240)
    return number, os.path.expanduser("~")


def alone(gpu_folder: str, seconds: float) -> str:
    """Hold the GPUs that this call sees, and fail if another call holds one of them."""
    mine = os.environ["CUDA_VISIBLE_DEVICES"].split(",")
    paths = [Path(gpu_folder, gpu) for gpu in mine]
    for path in paths:
        path.touch(exist_ok=False)
    time.sleep(seconds)  # as a call does that computes
    for path in paths:
        path.unlink()
    return ",".join(mine)


def release(client: Client, name: str) -> None:
    """Let calls of :func:`held` end."""
    Event(name, client=client).set()


def runs(client: Client, name: str, number: int) -> bool:
    """Wait until a call of :func:`held` runs."""
    return bool(Event(f"{name}-{number}", client=client).wait(timeout=240))


def named(hosts: SshHosts, home: str) -> str:
    """Return the name of the host with this home."""
    return next(name for name, host in hosts.items() if host.home == home)


def shares(*names: str, **more: Any) -> list[Mapping[str, Any]]:
    """Return hosts for ``hosts=``, of one runner each."""
    return [{"host": name, "slots": 1, **more} for name in names]


Make = Callable[..., tuple[Any, Client]]
