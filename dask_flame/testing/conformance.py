"""The tests that every backend has to pass.

A backend opts in with a class and a fixture::

    class TestLocal(BackendConformance):
        @pytest.fixture
        def factory(self):
            return LocalBackend

Runners register at a plain :class:`distributed.Scheduler` that the suite starts, so that what is
tested is the backend and the runner, and nothing of a cluster.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio
from distributed import Client, Scheduler

from dask_flame.backends.base import Backend, Ended, RunnerSpec
from dask_flame.history.boots import is_step

_WITHIN = 60.0


@dataclass
class Stage:
    """A scheduler, a started backend, and what the backend has said."""

    scheduler: Scheduler
    backend: Backend
    ended: list[Ended] = field(default_factory=list)
    steps: list[tuple[str, str]] = field(default_factory=list)
    late: list[tuple[str, str]] = field(default_factory=list)

    def spec(self, name: str, **more: Any) -> RunnerSpec:
        """A runner of this name for the stage's scheduler."""
        base: dict[str, Any] = {
            "name": name,
            "scheduler": self.scheduler.address,
            "concurrency": 1,
            "boot_timeout": _WITHIN,
        }
        return RunnerSpec(**{**base, **more})

    def step(self, name: str, step: str) -> None:
        """The backend says how a boot fares."""
        self.steps.append((name, step))
        if name in {e.name for e in self.ended}:
            self.late.append((name, step))

    async def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait for a condition, with a deadline."""
        deadline = time.monotonic() + _WITHIN
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"not within {_WITHIN:g} s: {what}; ended: {self.ended}")
            await asyncio.sleep(0.02)

    async def registered(self, *names: str) -> None:
        """Wait until these runners have registered."""
        await self.until(lambda: set(names) <= set(self.scheduler.aliases), f"{names} registered")

    async def gone(self, *names: str) -> None:
        """Wait until these runners have been reported as ended, each once."""
        await self.until(lambda: set(names) <= {e.name for e in self.ended}, f"{names} ended")
        counts = Counter(e.name for e in self.ended)
        assert all(counts[name] == 1 for name in names), counts


class BackendConformance:
    """Subclass it, and give it a ``factory`` fixture: what makes a backend from owner and ended."""

    @pytest_asyncio.fixture
    async def stage(self, factory: Callable[..., Backend]) -> AsyncIterator[Stage]:
        ended: list[Ended] = []
        backend = factory("conformance", ended.append)
        blank = RunnerSpec(name="", scheduler="", concurrency=1, boot_timeout=_WITHIN)
        backend.expect([blank])
        try:
            await backend.start()
            where = {"port": 0, **backend.listening}
            async with Scheduler(**where, dashboard_address=":0") as scheduler:
                stage = Stage(scheduler, backend, ended)
                backend.on_step = stage.step
                yield stage
                await backend.close()
        finally:
            await backend.close()
        assert await backend.list() == set()

    @pytest.mark.asyncio
    async def test_runners_boot_register_and_end(self, stage: Stage) -> None:
        names = {"one", "two", "three"}
        await stage.backend.boot([stage.spec(name) for name in names])
        assert await stage.backend.list() == names
        await stage.registered(*names)
        await stage.backend.end(["one", "two"], grace=10)
        assert await stage.backend.list() == {"three"}
        await stage.gone("one", "two")
        await stage.until(lambda: set(stage.scheduler.aliases) == {"three"}, "workers gone")

    @pytest.mark.asyncio
    async def test_what_is_said_of_a_boot_is_said_once_and_of_runners_there_are(
        self, stage: Stage
    ) -> None:
        # A backend need not say anything; it must not say it of others, nor when it is over.
        assert stage.steps == []
        await stage.backend.boot([stage.spec("one"), stage.spec("two")])
        await stage.registered("one", "two")
        await stage.backend.boot([stage.spec("broken", preload=["no_such_module_here"])])
        await stage.gone("broken")
        await stage.backend.end(["one", "two"], grace=10)
        await stage.gone("one", "two")
        assert {name for name, _ in stage.steps} <= {"one", "two", "broken"}
        assert all(is_step(step) for _, step in stage.steps), stage.steps
        assert max(Counter(stage.steps).values(), default=1) == 1
        assert stage.late == []

    @pytest.mark.asyncio
    async def test_boot_does_not_wait_for_the_runner(self, stage: Stage) -> None:
        # Nobody listens there: a boot that waited for registration would never return.
        nowhere = stage.spec("lost", scheduler="tcp://127.0.0.1:1")
        await asyncio.wait_for(stage.backend.boot([nowhere]), _WITHIN)
        assert await stage.backend.list() == {"lost"}
        await stage.backend.end(["lost"])
        await stage.gone("lost")

    @pytest.mark.asyncio
    async def test_ending_is_idempotent(self, stage: Stage) -> None:
        await stage.backend.boot([stage.spec("one")])
        await stage.registered("one")
        end = stage.backend.end
        await asyncio.gather(end(["one", "never was"], grace=10), end(["one"]), end(["one"]))
        await end(["one"])
        await stage.gone("one")

    @pytest.mark.asyncio
    async def test_ending_while_booting(self, stage: Stage) -> None:
        for delay in (0.0, 0.05, 0.2, 0.4):
            name = f"boot-{int(delay * 1000)}"
            await stage.backend.boot([stage.spec(name)])
            await asyncio.sleep(delay)  # at different points of a boot, each as good as any other
            await stage.backend.end([name], grace=5)
            await stage.gone(name)

    @pytest.mark.asyncio
    async def test_a_runner_that_cannot_start_says_why(self, stage: Stage) -> None:
        await stage.backend.boot([stage.spec("broken", preload=["no_such_module_here"])])
        await stage.gone("broken")
        (ended,) = stage.ended
        assert "1" in ended.why
        assert "no_such_module_here" in ended.output

    @pytest.mark.asyncio
    async def test_a_runner_that_dies_is_reported(self, stage: Stage) -> None:
        await stage.backend.boot([stage.spec("one"), stage.spec("two")])
        await stage.registered("one", "two")
        async with Client(stage.scheduler.address, asynchronous=True) as client:
            client.submit(os._exit, 7, workers=["one"], pure=False, retries=0)
            await stage.gone("one")
        assert "7" in stage.ended[0].why
        assert await stage.backend.list() == {"two"}

    @pytest.mark.asyncio
    async def test_a_runner_gets_its_environment_and_its_slots(self, stage: Stage) -> None:
        spec = stage.spec("one", env={"FLAME_TEST": "a=b c"}, concurrency=3, cpus=2)
        await stage.backend.boot([spec])
        await stage.registered("one")
        async with Client(stage.scheduler.address, asynchronous=True) as client:
            seen = await client.submit(lambda: dict(os.environ), pure=False)
        assert seen["FLAME_TEST"] == "a=b c"
        assert seen["OMP_NUM_THREADS"] == "2"
        assert next(iter(stage.scheduler.workers.values())).nthreads == 3

    @pytest.mark.asyncio
    async def test_what_a_runner_prints_is_kept(self, stage: Stage) -> None:
        await stage.backend.boot([stage.spec("one")])
        await stage.registered("one")
        async with Client(stage.scheduler.address, asynchronous=True) as client:
            await client.submit(lambda: print("hello from a runner", flush=True), pure=False)
        text: dict[str, str] = {}
        for _ in range(200):
            text = dict(await stage.backend.logs(["one", "never was"]))
            if "hello" in text.get("one", ""):
                break
            await asyncio.sleep(0.02)
        assert "hello from a runner" in text["one"]
        assert "never was" not in text

    @pytest.mark.asyncio
    async def test_a_runner_ends_when_its_scheduler_is_gone_busy_or_not(self, stage: Stage) -> None:
        await stage.backend.boot([stage.spec("busy"), stage.spec("idle")])
        await stage.registered("busy", "idle")
        async with Client(stage.scheduler.address, asynchronous=True) as client:
            future = client.submit(time.sleep, 600, workers=["busy"], pure=False)
            await stage.until(
                lambda: any(ws.processing for ws in stage.scheduler.workers.values()), "it runs"
            )
            del future
            await stage.scheduler.close()
        await stage.gone("busy", "idle")

    @pytest.mark.asyncio
    async def test_closing_ends_all_at_any_moment_and_more_than_once(self, stage: Stage) -> None:
        await stage.backend.boot([stage.spec("early")])
        await stage.registered("early")
        await stage.backend.boot([stage.spec("late")])
        await asyncio.gather(stage.backend.close(), stage.backend.close())
        await stage.gone("early", "late")
        await stage.backend.close()

    def test_secrets_are_not_shown(self) -> None:
        spec = RunnerSpec(
            name="one",
            scheduler="tls://127.0.0.1:1",
            concurrency=1,
            boot_timeout=1,
            env={"TOKEN": "s3cret"},
            security={"tls_worker_key": "s3cret"},
            config={"password": "s3cret"},
        )
        assert "s3cret" not in repr(spec)
