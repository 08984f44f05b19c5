"""What test_direct_transfer.py calls on runners, without the imports of its tests (runner)."""

from __future__ import annotations

import os
from typing import Any

from distributed.worker import get_worker

LARGE = 8_000_000


def make(nbytes: int = LARGE) -> bytes:
    return os.urandom(nbytes)


def name() -> str:
    return str(get_worker().name)


def only_on_a_runner(pid: int) -> str:
    if os.getpid() != pid:
        raise ZeroDivisionError("not here")
    return "here"


class Homesick:
    """Cannot be read but where it was made."""

    def __reduce__(self) -> Any:
        return only_on_a_runner, (os.getpid(),)
