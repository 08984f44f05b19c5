"""Backends that break one promise each, on the one in examples/: for the tests of the suite."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from importlib import util
from pathlib import Path
from typing import Any, ClassVar

from dask_flame.backends import Ended, RunnerSpec, runner_command
from dask_flame.errors import BackendError
from tests.support.paths import ROOT


def _example() -> Any:
    place = ROOT / "examples" / "backend-subprocess" / "dask_flame_subprocess.py"
    found = util.spec_from_file_location("example_of_a_backend", place)
    assert found is not None
    assert found.loader is not None
    module = util.module_from_spec(found)
    sys.modules[found.name] = module
    found.loader.exec_module(module)
    return module


_module = _example()
Right = _module.SubprocessBackend


class Faraway(Right):
    """A substrate that can be out of reach."""

    away: ClassVar[bool] = False

    def reach(self) -> None:
        if self.away:
            raise BackendError("nobody answers")

    async def boot(self, specs: Sequence[RunnerSpec]) -> None:
        self.reach()
        await super().boot(specs)

    async def end(self, names: Collection[str], *, grace: float = 0) -> None:
        self.reach()
        await super().end(names, grace=grace)

    async def list(self) -> set[str]:
        self.reach()
        return await super().list()

    async def close(self) -> None:
        self.closed = True
        await Right.end(self, [*self.children])

    async def really_close(self) -> None:
        """End what a broken method has left."""
        await Faraway.close(self)


@contextlib.asynccontextmanager
async def outage(backend: Any) -> AsyncIterator[None]:
    """Put a :class:`Faraway` out of reach."""
    backend.away = True
    try:
        yield
    finally:
        backend.away = False


#: Called when the test cannot pass any more, so that nobody waits until the suite gives up.
hopeless: Callable[[], None] = lambda: None  # noqa: E731


class ClosesInWordsOnly(Faraway):
    """Its `close` reports ends, and ends nothing."""

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        self.left: list[Any] = []

    def over(self, name: str, life: Any) -> None:
        if name in self.children:
            super().over(name, life)

    async def close(self) -> None:
        self.closed = True
        for name in [*self.children]:
            hopeless()
            self.left.append(self.children.pop(name))
            self.ended(Ended(name=name, why="ended"))

    async def really_close(self) -> None:
        await super().really_close()
        await asyncio.gather(*(child.end(0) for child in self.left))
        for child in self.left:
            child.printed.close()


class KnowsNoGrace(Faraway):
    """Its `end` always ends by force."""

    async def end(self, names: Collection[str], *, grace: float = 0) -> None:
        await super().end(names)


class KeepsTheFirstGrace(Faraway):
    """Its `end` waits for the first grace, whatever another call says."""

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        self.ending: dict[str, asyncio.Task[None]] = {}

    def end(self, names: Collection[str], *, grace: float = 0) -> Any:
        if self.ending:
            hopeless()
        return self.end_all(names, grace)

    async def end_all(self, names: Collection[str], grace: float) -> None:
        for name in names:
            if name not in self.ending and name in self.children:
                ends = self.children[name].end(grace)
                self.ending[name] = asyncio.ensure_future(ends)
        await asyncio.gather(*(asyncio.shield(self.ending[n]) for n in names if n in self.ending))


class LeavesConfigurations(Faraway):
    """Nobody removes its files with configurations, which hold private keys."""

    async def boot(self, specs: Sequence[RunnerSpec]) -> None:
        await super().boot(specs)
        for spec in specs:
            file = Path(tempfile.mkdtemp(prefix="left-")) / "config.json"
            file.write_bytes(runner_command(spec, str(file.parent)).config)

    async def close(self) -> None:
        await super().close()
        hopeless()


def hold(leash: int) -> None:
    """Have another process hold a leash."""
    subprocess.Popen(["sleep", "600"], stdin=leash)


class HasNothingBesideTheDriver(Faraway):
    """Its runners outlive a driver that is killed."""

    async def boot(self, specs: Sequence[RunnerSpec]) -> None:
        await super().boot(specs)
        for spec in specs:
            child = self.children[spec.name]
            await child.started.wait()
            hold(child.leash.get_extra_info("pipe").fileno())


class LeavesConfigurationsOfTheKilled(LeavesConfigurations):
    """Only its `close` removes files with configurations."""


class EndsInSilence(Faraway):
    """Its `end` returns while the substrate is out of reach."""

    async def end(self, names: Collection[str], *, grace: float = 0) -> None:
        if not self.away:
            await super().end(names, grace=grace)


class RefusesTwice(Faraway):
    """Its `boot` both reports an end and raises."""

    async def boot(self, specs: Sequence[RunnerSpec]) -> None:
        try:
            await super().boot(specs)
        except BackendError:
            for spec in specs:
                self.ended(Ended(name=spec.name, why="refused"))
            raise


class ClosesWithAnError(Faraway):
    """Its `close` raises while the substrate is out of reach."""

    async def close(self) -> None:
        self.reach()
        await super().close()


class FailsInAFork(Faraway):
    """Its `forked` raises."""

    def forked(self) -> None:
        asyncio.get_running_loop()


class TellsTroubleLate(Faraway):
    """It reports trouble of a runner that has ended."""

    def over(self, name: str, life: Any) -> None:
        super().over(name, life)
        self.trouble(name, "no machine is free")


class ForgetsOutput(Faraway):
    """Its `logs` are empty after `close`."""

    async def logs(self, names: Collection[str]) -> Mapping[str, str]:
        return {} if self.closed else await super().logs(names)
