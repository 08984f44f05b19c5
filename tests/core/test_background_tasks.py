"""Tasks that nobody waits for are kept until they end, and can be cancelled."""

from __future__ import annotations

import asyncio

import pytest

from dask_flame.core.background_tasks import BackgroundTasks, cancel_all

pytestmark = pytest.mark.unit


def test_tasks_are_kept_until_they_end() -> None:
    async def main() -> None:
        tasks, end = BackgroundTasks(), asyncio.Event()

        async def wait() -> None:
            await end.wait()

        first, second = tasks.start(wait()), tasks.keep(asyncio.create_task(wait()))
        assert set(tasks) == {first, second}
        end.set()
        await asyncio.wait([first, second])
        await asyncio.sleep(0)
        assert not list(tasks)

    asyncio.run(main())


def test_cancelled_tasks_have_ended() -> None:
    async def main() -> list[str]:
        tasks, said = BackgroundTasks(), list[str]()

        async def tidy_up() -> None:
            try:
                await asyncio.sleep(600)
            finally:
                await asyncio.sleep(0)
                said.append("tidied up")

        tasks.start(tidy_up())
        await asyncio.sleep(0)
        await cancel_all([*tasks, None])
        return said

    assert asyncio.run(main()) == ["tidied up"]
