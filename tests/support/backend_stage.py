"""A backend alone, without a cluster, for as long as a test needs it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TypeVar

from dask_flame.backends import Backend, BackendContext, RunnerSpec

B = TypeVar("B", bound=Backend)


@contextlib.asynccontextmanager
async def started_backend(
    make: Callable[[BackendContext], B], context: BackendContext, expected: Sequence[RunnerSpec]
) -> AsyncIterator[B]:
    """Start a backend that expects such runners, and close it at the end."""
    backend = make(context)
    backend.expect(expected)
    try:
        await backend.start()
        yield backend
    finally:
        await backend.close()
