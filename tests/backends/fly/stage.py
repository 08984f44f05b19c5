"""A backend on the fake Fly whose machines are as cheap as can be, and all that it says."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dask_flame.backends import BackendContext, Ended, RunnerSpec
from dask_flame.backends.fly import FlyBackend
from dask_flame.backends.fly.connection import Connection
from dask_flame.backends.fly.runner_machines import RunnerMachines
from dask_flame.testing import conformance
from tests.support.backend_stage import started_backend

#: An image whose `python` sleeps until it is told to end.
SLEEPS = "registry.fly.io/sleeps:1"
_PROGRAM = """#!/bin/sh
case "$1" in -c) exit 0;; esac
trap 'kill $!; exit 0' TERM
echo sleeping
sleep 600 & wait $!
"""


def sleeping_python(folder: Path) -> dict[str, str]:
    """Return the fake's `pythons` for the image :data:`SLEEPS`."""
    program = folder / "python"
    program.write_text(_PROGRAM)
    program.chmod(0o755)
    return {SLEEPS: str(program)}


@dataclass
class Said(conformance.Said):
    """The reports of a backend, whose cluster is soon lost."""

    stopped: list[str] = field(default_factory=list)

    @property
    def context(self) -> BackendContext:
        return replace(
            super().context, cluster="team", stopped=self.stopped.append, disconnect_grace=1.0
        )

    def of(self, name: str) -> Ended | None:
        """Return the end of a runner, which is said once."""
        assert max(Counter(e.name for e in self.ended).values(), default=1) == 1, self.ended
        return next((e for e in self.ended if e.name == name), None)

    def reached(self, name: str, step: str) -> bool:
        return (name, step) in self.steps


def spec(name: str, **more: Any) -> RunnerSpec:
    """Return a runner that sleeps."""
    base: dict[str, Any] = {
        "name": name,
        "scheduler": "tls://[::1]:1",
        "concurrency": 1,
        "boot_timeout": 60.0,
        "options": {"image": SLEEPS},
    }
    return RunnerSpec(**{**base, **more})


@contextlib.asynccontextmanager
async def started(*expected: RunnerSpec) -> AsyncIterator[tuple[FlyBackend, Said]]:
    """Start a backend, and close it at the end; each end is said once."""
    said = Said()
    async with started_backend(FlyBackend, said.context, expected or [spec("")]) as backend:
        yield backend, said
    said.of("")


def connection_of(backend: FlyBackend) -> Connection:
    """Return the connection of a started backend."""
    assert backend._connection is not None
    return backend._connection


def machines_of(backend: FlyBackend) -> RunnerMachines:
    """Return the machines of a started backend's runners."""
    assert backend._machines is not None
    return backend._machines
