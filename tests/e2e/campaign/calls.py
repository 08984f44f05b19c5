"""What the calls of a case do (runner): work for a while, and write down that they did."""

from __future__ import annotations

import json
import os
import subprocess
import time
import zlib
from pathlib import Path
from typing import Any

from distributed import get_worker

import dask_flame
from tests.e2e.campaign.case import CallPlan


class Meant(Exception):
    """What a call raises that is meant to."""


def value(call: CallPlan, inputs: tuple[int, ...]) -> int:
    """The number that a call's result begins with."""
    return zlib.crc32(repr((call.id, inputs)).encode())


def result(call: CallPlan, inputs: tuple[int, ...]) -> tuple[int, bytes]:
    return value(call, inputs), bytes([call.id % 256]) * call.size


def work(call: CallPlan, folder: str, *inputs: tuple[int, bytes]) -> tuple[int, bytes]:
    """One call, with the results of others."""
    note(folder, call.id, "start")
    if call.child:
        subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        _sleep(call.seconds)
        if call.nested:
            note(folder, call.id, "left")  # it needs no slot while it waits
            inner = dask_flame.call(work_inside, call, folder, pool=call.pool)
            note(folder, call.id, "back")
            if inner != -call.id:
                raise AssertionError(inner)
        if call.raises:
            raise Meant(call.id)
        return result(call, tuple(number for number, _ in inputs))
    finally:
        note(folder, call.id, "end")


def work_inside(call: CallPlan, folder: str) -> int:
    """What a call calls."""
    note(folder, -call.id, "start")
    try:
        _sleep(0.1)
        return -call.id
    finally:
        note(folder, -call.id, "end")


def _sleep(seconds: float) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(left, 0.02))


def note(folder: str, call: int, what: str) -> None:
    """Append a line to what has happened; what is written survives the process."""
    entry: dict[str, Any] = {
        "call": call,
        "what": what,
        "runner": get_worker().name,
        "pid": os.getpid(),
        "at": time.monotonic(),
    }
    file = os.open(Path(folder) / "calls", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.write(file, json.dumps(entry).encode() + b"\n")
    finally:
        os.close(file)
