"""Connect the versions of local modules to a runner's worker (runner)."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from dask.typing import Key
from distributed import Worker
from distributed.core import rpc
from distributed.protocol import Serialize

# Imported here, so that the process that runners are forked from has it.
from dask_flame.code import registration  # noqa: F401
from dask_flame.code.runner import importing, versions
from dask_flame.code.runner.results import VersionedResult
from dask_flame.code.runner.versions import Versions
from dask_flame.core.messages import CODE, CODE_NOW, CODE_THERE
from dask_flame.serialization.packed import PackedTask

#: Maximum number of seconds until a version arrives that the scheduler has sent.
_ARRIVES_WITHIN = 10.0


class LocalModules:
    """The local modules that a worker's calls import; nothing until the scheduler sends some.

    Parameters
    ----------
    worker : distributed.Worker
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._versions: Versions | None = None
        self._known: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        worker.stream_handlers[CODE] = self.receive
        worker.handlers[CODE_THERE] = self.there

    def receive(
        self,
        version: str,
        packs: dict[str, bytes | str],
        folder: str | None,
        latest: bool,
        tops: list[str],
        keep: list[str],
        **kwargs: Any,
    ) -> None:
        """Take a version from the scheduler.

        Parameters
        ----------
        version : str
        packs : dict of str to bytes or str
            See :meth:`Versions.receive`.
        folder : str or None
            A folder that this runner shares with the driver, which is on this machine; None if it
            is on another.
        latest : bool
        tops, keep : list of str
            See :meth:`Versions.receive`.
        """
        if self._versions is None:
            own = os.path.join(self._worker.local_directory, "flame-code")
            here = folder is not None
            self._versions = Versions(Path(folder or own), self._results, here=here)
            versions.install(self._versions)
            importing.install(self._versions)
        self._versions.receive(version, packs, tops, keep, latest=latest)
        self._known[version].set()

    async def there(self, version: str) -> None:
        """Return when a version, which the scheduler has sent, has arrived, or will not."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._known[version].wait(), _ARRIVES_WITHIN)

    async def fetch(self) -> None:
        """Fetch the latest version from the scheduler, before the worker registers.

        If the scheduler cannot be reached, there is none; to register fails as well then.
        """
        worker = self._worker
        arguments = worker.security.get_connection_args("worker")
        with contextlib.suppress(OSError):
            async with rpc(worker.scheduler.address, connection_args=arguments) as scheduler:
                # None: it is a stock scheduler.
                for message in await getattr(scheduler, CODE_NOW)() or ():
                    self.receive(**message)

    def begin(self, key: Key, task: PackedTask) -> None:
        """Let a call use the version that it was submitted with."""
        found = self._versions
        if found is None:
            return
        try:
            found.begin(key, task.version)
        except Exception as error:
            task.convert = partial(_raise, error)  # it is the call's error
        else:
            task.convert = partial(found.converted, key)

    def end(self, key: Key) -> None:
        """Note the end of a call."""
        if self._versions is not None:
            self._versions.end(key)

    def _results(self) -> list[Collection[Key]]:
        """Return the keys of results and actors that the runner holds."""
        worker = self._worker
        return [worker.data, worker.state.actors, worker.calls.unrecorded]

    def received(self, keys: Iterable[Key]) -> None:
        """Note results from other runners."""
        if self._versions is not None:
            self._versions.received(keys)

    @contextlib.contextmanager
    def of_result(self, key: Key) -> Iterator[None]:
        """Use the modules of the call that made a result or an actor in the body."""
        if self._versions is None:
            yield
        else:
            with self._versions.of_result(key):
                yield

    def pickles(self, comm: Any, who: str | None) -> Any:
        """Return a connection that sends each result with the version that made it.

        Parameters
        ----------
        comm : distributed.comm.Comm
        who : str or None
            The address of the worker that has asked for the results; None for a client.
        """
        return comm if self._versions is None else _VersionedComm(comm, self._versions, who)


def _raise(error: Exception, values: Any) -> Any:
    raise error


class _VersionedComm:
    """A connection that serializes the results of earlier versions by themselves."""

    def __init__(self, comm: Any, found: Versions, who: str | None) -> None:
        self._comm = comm
        self._found = found
        self._who = who

    def __getattr__(self, name: str) -> Any:
        return getattr(self._comm, name)

    async def write(self, message: Any, serializers: Any = None, **kwargs: Any) -> Any:
        data = message["data"]
        if any(map(self._is_special, data, data.values())):
            data = {key: self._serialized(key, value, serializers) for key, value in data.items()}
            message = {**message, "data": data}
        return await self._comm.write(message, serializers=serializers, **kwargs)

    def _is_special(self, key: Key, value: Any) -> bool:
        return isinstance(value, Serialize) and (
            self._found.differs(key) or isinstance(value.data, VersionedResult)
        )

    def _serialized(self, key: Key, value: Any, serializers: Any) -> Any:
        if not self._is_special(key, value):
            return value
        result = value.data
        if not isinstance(result, VersionedResult):
            with self._found.of_result(key):
                result = VersionedResult.of(result, serializers)
        return result.serialized if self._who is None else Serialize(result)
