"""A backend on the Slurm of the tests, and what it has reported."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from dask_flame.backends import Ended, RunnerSpec
from dask_flame.backends.slurm import SlurmBackend
from dask_flame.testing.conformance import Said
from tests.support.backend_stage import started_backend
from tests.support.waiting import until

#: A scheduler that refuses connections.
NOWHERE = "tcp://127.0.0.1:1"
#: All processors of a node of `SlurmWorld`.
WHOLE_NODE = 8


def spec(name: str, **more: Any) -> RunnerSpec:
    """Return a runner whose job needs no scheduler."""
    base: dict[str, Any] = {
        "name": name,
        "scheduler": NOWHERE,
        "concurrency": 1,
        "boot_timeout": 600,
    }
    return RunnerSpec(**{**base, **more})


@contextlib.asynccontextmanager
async def started(*expected: RunnerSpec) -> AsyncIterator[tuple[SlurmBackend, Said]]:
    """Start a backend, and close it."""
    said = Said()
    async with started_backend(SlurmBackend, said.context, expected or [spec("")]) as backend:
        yield backend, said


async def end_of(name: str, said: Said) -> Ended:
    """Return the report of a runner's end."""

    def found() -> list[Ended]:
        return [ended for ended in said.ended if ended.name == name]

    (ended,) = await until(found, within=120, what=f"the end of {name}")
    return ended


def has_step(said: Said, name: str, step: str) -> Callable[[], bool]:
    """Return whether a boot has reached a step."""
    return lambda: (name, step) in said.steps
