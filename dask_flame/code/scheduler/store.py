"""Store versions of local modules, and send each to a runner once (scheduler)."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from distributed import SchedulerPlugin
from distributed.protocol import pickle
from distributed.scheduler import TaskState

from dask_flame.code.manifest import Manifest
from dask_flame.code.registration import CodePlugin
from dask_flame.core.messages import CODE, CODE_NOW, CODE_THERE
from dask_flame.core.packs import Pack, digest

if TYPE_CHECKING:
    from distributed import Scheduler

#: The version of the graph that is being added.
_submitted: contextvars.ContextVar[str | None] = contextvars.ContextVar(
    "dask_flame_submitted", default=None
)


class CodeStore(SchedulerPlugin):
    """The versions of the local modules of all clients.

    Parameters
    ----------
    folder : callable, optional
        Return a folder that the runners share with this process, or None: then packs are sent to
        each runner.
    is_runner : callable
        Return whether a worker, by its address, understands these messages.
    """

    name = "flame-code"

    def __init__(
        self, is_runner: Callable[[str], bool], folder: Callable[[], str | None] = lambda: None
    ) -> None:
        self._is_runner = is_runner
        self._folder = folder
        self._brought_from: str | None = None
        self._packs: dict[str, bytes] = {}
        self._contents: dict[bytes, str] = {}  # the pack of each content
        self._needed: dict[str, list[str]] = {}  # the packs of each version
        self._tops: dict[str, list[str]] = {}  # the top-level names of each version
        self._latest: dict[str, str] = {}  # by client
        self._of: weakref.WeakKeyDictionary[TaskState, str] = weakref.WeakKeyDictionary()
        self._sent: defaultdict[str, set[str]] = defaultdict(set)  # versions and packs, by worker
        self.scheduler: Scheduler | None = None

    async def start(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self._changed = asyncio.Condition()
        scheduler.stream_handlers[CODE] = self.take
        scheduler.handlers[CODE] = self.take
        scheduler.handlers[CODE_NOW] = self.now
        scheduler.handlers[CODE_THERE] = self.there

    # From clients

    async def take(self, client: str, version: str, pack: bytes, **kwargs: Any) -> None:
        """Store a version, which a client has sent before the calls that use it.

        Parameters
        ----------
        client : str
            The id of the client; empty for the cluster itself, before it has a client.
        version : str
        pack : bytes
            Contents that the client has not sent before, including the manifest.
        """
        name = digest(pack).hex()
        self._packs[name] = pack
        for key in Pack(pack):
            self._contents.setdefault(key, name)
        manifest = Manifest.unpacked(self._content(bytes.fromhex(version)))
        needed = {self._contents[key]: None for key in manifest.digests()}
        self._tops[version] = sorted({name.partition(".")[0] for name in manifest.modules()})
        self._needed[version] = list({**needed, self._contents[bytes.fromhex(version)]: None})
        if client:
            self._latest.pop("", None)
        self._latest[client] = version
        self._forget_unused()
        assert self.scheduler is not None
        self._bring_to_new_workers()
        for address in list(self.scheduler.workers):
            self.send(address, version)
        async with self._changed:
            self._changed.notify_all()

    def _bring_to_new_workers(self) -> None:
        """Send the latest versions to workers when they register, first of all plugins."""
        assert self.scheduler is not None
        others = {k: v for k, v in self.scheduler.worker_plugins.items() if k != self.name}
        plugin = pickle.dumps(CodePlugin(self.now()))
        self.scheduler.worker_plugins = {self.name: plugin, **others}
        self._brought_from = self._folder()

    def _content(self, key: bytes) -> bytes:
        return Pack(self._packs[self._contents[key]]).read(key)

    def _forget_unused(self) -> None:
        used = {*self._latest.values(), *self._of.values()}
        self._needed = {v: packs for v, packs in self._needed.items() if v in used}
        self._tops = {v: tops for v, tops in self._tops.items() if v in used}
        kept = {name for packs in self._needed.values() for name in packs}
        # Files stay until the folder goes: a runner may read a message late.
        self._packs = {name: pack for name, pack in self._packs.items() if name in kept}
        for sent in self._sent.values():
            sent &= kept | self._needed.keys()  # runners forget the others, too
        self._contents = {key: name for key, name in self._contents.items() if name in kept}

    def remove_client(self, scheduler: Scheduler, client: str) -> None:
        self._latest.pop(client, None)

    # Calls

    @contextlib.contextmanager
    def submitted(self, version: str | None) -> Iterator[None]:
        """Note that the graph added in the body was submitted with this version."""
        token = _submitted.set(version)
        try:
            yield
        finally:
            _submitted.reset(token)

    def update_graph(self, scheduler: Scheduler, **kwargs: Any) -> None:
        version = _submitted.get()
        if version is not None:
            for key in kwargs["tasks"]:
                if (ts := scheduler.tasks.get(key)) is not None:
                    # A call that exists already keeps the version that it was submitted with.
                    self._of.setdefault(ts, version)

    def version_of(self, ts: TaskState) -> str | None:
        """Return the version that a call was submitted with."""
        return self._of.get(ts)

    # To runners

    def now(self) -> list[dict[str, Any]]:
        """Return the latest versions of all clients, as messages without an op."""
        return [self._message(v, self._needed[v]) for v in dict.fromkeys(self._latest.values())]

    async def there(self, version: str) -> None:
        """Return when this version has come, and all runners have it."""
        async with self._changed:
            await self._changed.wait_for(lambda: version in self._needed)
        assert self.scheduler is not None
        runners = [address for address in self.scheduler.workers if self._is_runner(address)]
        message = {"op": CODE_THERE, "version": version}
        if runners:
            await self.scheduler.broadcast(msg=message, workers=runners, on_error="ignore")

    def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        if self._latest and self._folder() != self._brought_from:
            self._bring_to_new_workers()  # the folder goes with the supervisor of local runners
        for version in dict.fromkeys(self._latest.values()):
            self._sent[worker].update([version, *self._needed[version]])

    def remove_worker(self, scheduler: Scheduler, worker: str, **kwargs: Any) -> None:
        self._sent.pop(worker, None)

    def send(self, address: str, version: str | None) -> None:
        """Send a version to a runner that does not have it, before a call that needs it."""
        if version is None or not self._is_runner(address):
            return
        sent = self._sent[address]
        if version in sent or version not in self._needed:
            return
        sent.add(version)
        lacking = [name for name in self._needed[version] if name not in sent]
        sent.update(lacking)
        assert self.scheduler is not None
        self.scheduler.worker_send(address, {"op": CODE, **self._message(version, lacking)})

    def _message(self, version: str, packs: Iterable[str]) -> dict[str, Any]:
        return {
            "version": version,
            "packs": {name: self._shared(name) for name in packs},
            "folder": self._shared_folder(),
            "tops": self._tops[version],
            "keep": list(self._packs),
            "latest": version in self._latest.values(),
        }

    def _shared_folder(self) -> str | None:
        folder = self._folder()
        return None if folder is None else os.path.join(folder, "code")

    def _shared(self, name: str) -> bytes | str:
        """Return a pack, or the file with it if the runners share a folder with this process."""
        if (folder := self._folder()) is None:
            return self._packs[name]
        file = _file(folder, name)
        try:
            if not os.path.exists(file):
                os.makedirs(os.path.dirname(file), exist_ok=True)
                with open(f"{file}.part", "wb") as opened:
                    opened.write(self._packs[name])
                os.replace(f"{file}.part", file)
        except OSError:
            return self._packs[name]  # the disk may be full
        return file


def _file(folder: str, name: str) -> str:
    return os.path.join(folder, "code", f"{name}.pack")
