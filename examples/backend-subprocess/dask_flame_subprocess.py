"""Runners as child processes of the driver: a whole backend for dask-flame (driver)."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from asyncio.subprocess import PIPE
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import ClassVar

from dask_flame.backends import Backend, BackendContext, Ended, RunnerSpec, runner_command
from dask_flame.errors import BackendError


class Child:
    """One runner, from its request to its end."""

    def __init__(self, spec: RunnerSpec) -> None:
        self.folder = tempfile.mkdtemp(prefix="dask-flame-child-")
        self.printed = tempfile.TemporaryFile("a+b")
        self.leash: asyncio.StreamWriter | None = None
        self.started = asyncio.Event()
        self.life = asyncio.create_task(self.live(spec))

    async def live(self, spec: RunnerSpec) -> str:
        command = runner_command(spec, self.folder)
        env = {**os.environ, **command.environment}
        try:
            process = await asyncio.create_subprocess_exec(
                *command.arguments, env=env, stdin=PIPE, stdout=self.printed, stderr=self.printed
            )
            self.leash = process.stdin
            assert self.leash is not None
            self.leash.write(command.config)
            self.started.set()
            code = await process.wait()
            return f"exit code {code}" if code >= 0 else f"killed by signal {-code}"
        except OSError as error:
            return f"was refused: {error}"
        finally:
            self.started.set()
            shutil.rmtree(self.folder, ignore_errors=True)

    async def end(self, grace: float) -> None:
        await self.started.wait()
        if self.leash is not None:
            if grace:
                self.leash.write(b"end\n")  # it ends by itself
                await asyncio.wait({self.life}, timeout=grace)
            self.leash.close()  # it ends at once, with all that it has started
        await asyncio.wait({self.life})

    def text(self) -> str:
        self.printed.seek(0)
        return self.printed.read()[-10_000:].decode(errors="replace")


class SubprocessBackend(Backend):
    name: ClassVar[str] = "subprocess"

    def __init__(self, context: BackendContext) -> None:
        super().__init__(context)
        self.children: dict[str, Child] = {}
        self.printed: dict[str, str] = {}
        self.closed = False

    async def start(self) -> None:
        if self.closed:
            raise BackendError("the cluster is closed")

    async def boot(self, specs: Sequence[RunnerSpec]) -> None:
        await self.start()
        self.check_new(specs, self.children)
        for spec in specs:
            child = self.children[spec.name] = Child(spec)
            child.life.add_done_callback(partial(self.over, spec.name))

    def over(self, name: str, life: asyncio.Task[str]) -> None:
        child = self.children.pop(name)
        self.printed[name] = child.text()
        child.printed.close()
        self.ended(Ended(name=name, why=life.result(), output=self.printed[name]))

    async def end(self, names: Collection[str], *, grace: float = 0) -> None:
        there = [self.children[name] for name in names if name in self.children]
        await asyncio.gather(*(child.end(grace) for child in there))

    async def list(self) -> set[str]:
        return set(self.children)

    async def logs(self, names: Collection[str]) -> Mapping[str, str]:
        known = {**self.printed, **{name: c.text() for name, c in self.children.items()}}
        return {name: known[name] for name in names if name in known}

    async def close(self) -> None:
        self.closed = True
        await self.end(list(self.children))
