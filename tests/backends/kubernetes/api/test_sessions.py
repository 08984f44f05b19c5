"""Credentials are read to the end, because kr8s opens files in threads."""

from __future__ import annotations

import asyncio

import pytest

from dask_flame.backends.kubernetes.api.sessions import to_its_end

pytestmark = pytest.mark.unit


def test_a_reading_ends_before_its_cancellation_is_seen() -> None:
    async def cancelled() -> list[str]:
        seen = []
        begun, end = asyncio.Event(), asyncio.Event()

        async def read() -> None:
            begun.set()
            await end.wait()
            seen.append("read")

        waiting = asyncio.ensure_future(to_its_end(read(), within=60))
        await begun.wait()
        waiting.cancel()
        asyncio.get_running_loop().call_soon(end.set)
        with pytest.raises(asyncio.CancelledError):
            await waiting
        return seen

    assert asyncio.run(cancelled()) == ["read"]


def test_a_reading_that_hangs_is_cancelled() -> None:
    async def cancelled() -> list[str]:
        seen = []
        begun = asyncio.Event()

        async def hang() -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                seen.append("cancelled")

        waiting = asyncio.ensure_future(to_its_end(hang(), within=0.01))
        await begun.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        return seen

    assert asyncio.run(cancelled()) == ["cancelled"]


def test_an_error_of_the_reading_is_raised() -> None:
    async def fail() -> None:
        raise OSError("no kubeconfig")

    with pytest.raises(OSError, match="no kubeconfig"):
        asyncio.run(to_its_end(fail()))
