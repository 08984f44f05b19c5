"""The local backend: starts and ends processes through its supervisor (driver)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from dask_flame.backends.base import Backend
from dask_flame.backends.local.connection_file import write_connection
from dask_flame.backends.local.exit_reasons import ExitReasons, out_of_memory
from dask_flame.backends.local.fork_server import PACKAGES
from dask_flame.backends.local.gpu_allocation import GpuAllocation
from dask_flame.backends.local.launch import displayed, shared_config
from dask_flame.backends.local.options import LocalOptions
from dask_flame.backends.local.result_folder import DriverFolder
from dask_flame.backends.local.runner_kinds import RunnerKinds
from dask_flame.backends.local.sampling_intervals import interval_factor
from dask_flame.backends.local.supervisor_start import (
    END_WITHIN,
    START_WITHIN,
    make_folder,
    not_started,
    scratch_place,
    start_supervisor,
    wait_for_end,
)
from dask_flame.backends.runner_events import STOPPED
from dask_flame.backends.specs import BackendContext, Ended, RunnerSpec
from dask_flame.core.backend_options import BackendOptions
from dask_flame.core.connection import ConnectionInfo
from dask_flame.core.folder_locks import lock
from dask_flame.core.resource_trackers import end_all_marked, wait_for_trackers
from dask_flame.core.threads import in_thread
from dask_flame.errors import BackendError
from dask_flame.prints.driver.show import DriversShow
from dask_flame.prints.frames import END, FREE, KEEP, SHOW
from dask_flame.prints.settings import limits, shown

if TYPE_CHECKING:
    from dask_flame.backends.inspector import Inspector

logger = logging.getLogger("dask_flame")

#: Seconds between the end of a supervisor and the start of the next one.
_AGAIN_AFTER, _AGAIN_AT_MOST = 0.5, 30.0
#: Seconds in which the runners of a killed supervisor begin to end what it leaves.
_LEFT_TO_RUNNERS = 0.5
#: Seconds after which an import is reported as the cause of a slow boot.
_LONG = 1.0
_KEPT_LOGS = 200
_KEPT_TEXT = 16_000


class LocalBackend(Backend):
    """Run runners as processes of this machine, each in its own session.

    A supervisor starts them: a small process that outlives the driver just long enough to end them,
    see :mod:`dask_flame.backends.local.supervisor`.
    """

    name: ClassVar[str] = "local"
    Options: ClassVar[type[BackendOptions]] = LocalOptions
    shows_output: ClassVar[bool] = True

    def __init__(self, context: BackendContext) -> None:
        super().__init__(context)
        self._limits = limits() if shown() else None
        self._show = DriversShow(self._limits) if self._limits is not None else None
        # Clusters may have the same name; the random part keeps their processes apart.
        self._mark = f"{context.cluster}-{secrets.token_hex(4)}"
        self._supervisors = 0  # number of supervisors started so far
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._listening: asyncio.Task[None] | None = None
        self._hello: asyncio.Future[None] | None = None
        self._runners: dict[str, int | None] = {}
        self._kind_of: dict[str, str] = {}  # of runners that are still booting
        self._importing: dict[str, str] = {}  # the module being imported, by kind
        self._gone: dict[str, asyncio.Event] = {}
        self._text: dict[str, str] = {}
        self._closed = False
        self._said_no_folder = False
        self._why_stopped = ""
        self._scratch: list[str] = []
        self._locks: list[int] = []
        self._folder: DriverFolder | None = None
        self._restarting = asyncio.Lock()
        self._cleanup: asyncio.Future[None] | None = None
        self._restart: asyncio.Task[None] | None = None
        self._kinds = RunnerKinds()
        self._devices = GpuAllocation()
        self._exit_reasons = ExitReasons()

    @property
    def scratch(self) -> str | None:
        return self._scratch[-1] if self._scratch else None

    @property
    def folder(self) -> str | None:
        return None if self._folder is None else self._folder.path

    def forked(self) -> None:
        if self._folder is not None:
            self._folder.let_go()
        while self._locks:
            os.close(self._locks.pop())

    async def start(self) -> None:
        if sys.platform == "win32":
            raise BackendError('backend="local" needs Linux or macOS; on Windows, use WSL')
        if self._closed:
            raise BackendError("the cluster is closed")
        place = scratch_place()
        if self._folder is None:
            self._folder = make_folder(self._mark, place)
        self._supervisors += 1
        self._supervisor, ours = start_supervisor(
            f"{self._mark}/{self._supervisors}",
            place=place,
            folder=self._folder.path,
            first=self._kinds.first(),
        )
        self._hello = asyncio.get_running_loop().create_future()
        reader, self._writer = await asyncio.open_connection(sock=ours, limit=1 << 26)
        self._listening = asyncio.create_task(self._listen(reader))
        for message in self._kinds.all():
            self._send(message)
        try:
            await asyncio.wait_for(asyncio.shield(self._hello), START_WITHIN)
        except (TimeoutError, ConnectionError) as error:
            await self._end_supervisor()
            raise not_started(error) from error

    def expect(self, specs: Sequence[RunnerSpec]) -> None:
        for spec in specs:
            self._kind(spec)

    async def boot(self, specs: Sequence[RunnerSpec]) -> None:
        if self._why_stopped:
            raise BackendError(self._why_stopped)
        self.check_new(specs, self._runners)
        await self._have_supervisor()
        for spec in specs:
            self._devices.warn_of(spec.gpus)
        if specs and specs[0].cwd is None:
            self._no_folder()
        times = interval_factor(len(self._runners) + len(specs))
        for alike in _alike(specs):
            kind, launch_config = self._kind(alike[0]), shared_config(alike[0], times, self._limits)
            if not self._devices.all:
                launch_config["gpus"] = 0
            runners = {s.name: self._devices.give(s.name, s.gpus) for s in alike}
            for name in runners:
                self._runners[name] = None
                self._kind_of[name] = kind
                self._gone[name] = asyncio.Event()
            if kind in self._importing:
                self._watch_import(kind)
            self._send(
                {"op": "boot", "runners": runners, "kind": kind, "launch_config": launch_config}
            )
        await self._drain()

    async def end(self, names: Collection[str], *, grace: float = 0) -> None:
        there = [name for name in names if name in self._runners]
        for name in there:
            self._send({"op": "end", "name": name, "grace": grace})
        await self._drain()
        await asyncio.gather(*(self._gone[name].wait() for name in there if name in self._gone))

    async def list(self) -> set[str]:
        return set(self._runners)

    def recent_output(self, runner: str, call: str) -> Sequence[str]:
        return [] if self._show is None else self._show.recent(runner, call)

    async def logs(self, names: Collection[str]) -> Mapping[str, str]:
        return {name: self._text[name] for name in names if name in self._text}

    @classmethod
    def inspector(cls, **where: str) -> Inspector:
        from dask_flame.backends.inspector import check_where
        from dask_flame.backends.local.inspector import LocalInspector

        check_where(where)
        return LocalInspector()

    def manifest(self, spec: RunnerSpec) -> Sequence[Mapping[str, Any]]:
        times = interval_factor(len(self._runners) + 1)
        return [displayed(spec, self._devices.choose(spec.gpus), times, self._limits)]

    async def announce(self, connection: ConnectionInfo) -> None:
        if self._folder is not None:
            try:
                await in_thread(write_connection, self._folder.path, connection)
            except OSError as error:
                logger.warning("other processes cannot observe this cluster: %s", error)

    async def close(self) -> None:
        self._closed = True
        async with self._restarting:
            if self._folder is not None:
                # Now, because the supervisor would remove it if this process were killed meanwhile.
                await in_thread(self._folder.remove)
            await self._end_supervisor()
        if self._restart is not None:
            self._restart.cancel()
            await asyncio.wait({self._restart})
        if self._show is not None:
            await self._show.finish()

    def _no_folder(self) -> None:
        """Report, once, that the driver's working directory was deleted."""
        if not self._said_no_folder:
            self._said_no_folder = True
            why = (
                "the driver's working directory was deleted, so runners start in a folder of their "
                'own for temporary files; write os.chdir("…") to have them start elsewhere'
            )
            self.trouble("", why)

    def _watch_import(self, kind: str) -> None:
        """Report the import that runners of this kind wait for, if it takes long."""
        module = self._importing[kind]
        preload = f"the import of preload={module!r}"
        what = "the installation of packages=" if module == PACKAGES else preload

        def look() -> None:
            if self._importing.get(kind) == module:
                for name in [n for n, k in self._kind_of.items() if k == kind]:
                    self.trouble(name, what)

        asyncio.get_running_loop().call_later(_LONG, look)

    # The supervisor

    def _kind(self, spec: RunnerSpec) -> str:
        """Return the key of this kind of runners; announce a new kind to the supervisor."""
        key, news = self._kinds.of(spec)
        for message in news:
            self._send(message)
        return key

    async def _have_supervisor(self) -> None:
        """Start a supervisor if there is none, because it was killed together with its runners."""
        async with self._restarting:
            if not self._closed and (self._listening is None or self._listening.done()):
                await self._end_supervisor()
                await self.start()

    async def _have_supervisor_again(self) -> None:
        """Start a supervisor even if nothing is to be booted: the driver's folder needs one."""
        # Wait longer each time: the next supervisor may be killed as well.
        await asyncio.sleep(min(_AGAIN_AFTER * self._supervisors, _AGAIN_AT_MOST))
        try:
            await self._have_supervisor()
        except BackendError as error:
            self.trouble("", str(error))

    async def _end_supervisor(self) -> None:
        """Disconnect the supervisor, which then ends all runners and itself; wait for its end."""
        if self._writer is not None:
            await self._disconnect(self._writer)
            self._writer = None
        if self._supervisor is not None:
            await wait_for_end(self._supervisor)
            self._supervisor = None
        if self._listening is not None:
            await self._listening
            self._listening = None
        if self._cleanup is not None:
            await self._cleanup
            self._cleanup = None
        while self._scratch:
            # The supervisor has removed it, unless it was killed.
            shutil.rmtree(self._scratch.pop(), ignore_errors=True)
        while self._locks:
            os.close(self._locks.pop())

    async def _disconnect(self, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError):
            # Closing alone has no effect while a forked child has the socket, too.
            writer.write_eof()
            writer.close()
            # A supervisor that does not read is killed.
            await asyncio.wait_for(writer.wait_closed(), END_WITHIN)
        writer.transport.abort()

    def _send(self, message: dict[str, Any]) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(json.dumps(message).encode() + b"\n")
        elif message["op"] == "boot":
            for name in message["runners"]:
                self._over(name, "refused: the local backend is closed")

    async def _drain(self) -> None:
        if self._writer is not None:
            with contextlib.suppress(OSError):
                await self._writer.drain()

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        try:
            # A line without an end was cut off by the death of the supervisor.
            while (line := await reader.readline()).endswith(b"\n"):
                try:
                    self._receive(json.loads(line))
                except Exception:
                    logger.exception("what the supervisor said could not be taken in")
        except (OSError, ValueError):
            pass
        finally:
            self._importing.clear()
            self._supervisor_lost()

    def _supervisor_lost(self) -> None:
        if self._hello is not None and not self._hello.done():
            self._hello.set_exception(ConnectionError("the supervisor is gone"))
            self._hello.exception()
        if not self._closed:
            self._cleanup = asyncio.ensure_future(self._clean_up())
            if not self._why_stopped and (self._restart is None or self._restart.done()):
                self._restart = asyncio.ensure_future(self._have_supervisor_again())
        lost = self._why_stopped or "the supervisor of the local runners is gone"
        why = "the cluster was closed" if self._closed else lost
        for name in list(self._runners):
            self._over(name, why)

    async def _clean_up(self) -> None:
        """End what is left of a supervisor that was killed."""
        # Its runners do the same, and then watch over the folders until there is another
        # supervisor. They are not killed before they have begun.
        await asyncio.sleep(_LEFT_TO_RUNNERS)
        trackers = await in_thread(end_all_marked, f"{self._mark}/")
        await in_thread(wait_for_trackers, trackers)

    def _receive(self, message: dict[str, Any]) -> None:
        event = message.pop("ev")
        if event == "hello":
            assert self._hello is not None
            self._scratch.append(message["scratch"])
            with contextlib.suppress(OSError):
                self._locks.append(lock(message["scratch"]))
            self._hello.set_result(None)
        elif event == "unfit":
            self._importing.pop(message["key"], None)
            logger.warning(
                "preload=%r %s, which a process that others are forked from must not: runners "
                "start as interpreters of their own, which takes seconds instead of milliseconds",
                message["module"],
                message["why"],
            )
        elif event == "importing":
            if message["module"]:
                self._importing[message["key"]] = message["module"]
                self._watch_import(message["key"])
            else:
                self._importing.pop(message["key"], None)
        elif event == "booted":
            self._runners[message["name"]] = message["pid"]
            self._kind_of.pop(message["name"], None)
            self.trouble(message["name"], "")
            self.progress(message["name"], "up")
        elif event == "refused":
            self._over(message["name"], f"was refused: {message['why']}")
        elif event == "stopped":
            self._why_stopped = STOPPED
            self.stopped(STOPPED)
        elif event == "output":
            self._printed(message["name"], message["text"], *message.get("piece", ()))
        elif event == "ended":
            used, limit = message["used"]
            why = self._exit_reasons.why(message["code"], forced=message["forced"])
            why = out_of_memory(used, limit) if used else why
            self._over(message["name"], why, message["output"])

    def _printed(
        self,
        name: str,
        text: str,
        kind: str = FREE,
        stream: int = 0,
        number: int = 0,
        call: str = "",
    ) -> None:
        if kind not in (SHOW, END):
            before = self._text.pop(name, "")
            self._text[name] = (before + text)[-_KEPT_TEXT:]
            while len(self._text) > _KEPT_LOGS:
                del self._text[next(iter(self._text))]
        if self._show is None or kind == KEEP:
            return
        if kind == END:
            self._show.end(name, number, call)
        else:
            free = kind == FREE
            self._show.add(name, text, call=number, name=call, stream=stream, free=free)

    def _over(self, name: str, why: str, output: str = "") -> None:
        if self._show is not None:
            self._show.over(name)
        self._runners.pop(name, None)
        self._kind_of.pop(name, None)
        self._devices.take_back(name)
        self._gone.pop(name).set()
        self.ended(Ended(name=name, why=why, output=output))


def _alike(specs: Sequence[RunnerSpec]) -> Iterator[list[RunnerSpec]]:
    """Yield runs of specs that differ only in their names."""
    alike: list[RunnerSpec] = []
    for spec in specs:
        if alike and replace(alike[0], name=spec.name) != spec:
            yield alike
            alike = []
        alike.append(spec)
    if alike:
        yield alike
