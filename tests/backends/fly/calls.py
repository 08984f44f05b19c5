"""What tests call in machines, without the imports of the tests (runner)."""

from __future__ import annotations

import os
import time

from dask.distributed import get_worker


def talk(seconds: float) -> None:
    print("here I am", flush=True)
    time.sleep(seconds)


def where() -> tuple[str, str]:
    """Return the machine that this runs in, and the address of the runner (runner)."""
    return os.environ["FLY_MACHINE_ID"], get_worker().address
