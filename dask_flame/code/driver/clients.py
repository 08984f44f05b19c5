"""Send local modules with the calls of this process's Clients (driver)."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any

from distributed import Client, Scheduler

from dask_flame.code.driver.local_code import LocalCode, versions
from dask_flame.code.tokens import depend_on
from dask_flame.core.distributed_internals import closing_client, replace, send_to_scheduler
from dask_flame.core.messages import CODE, CODE_THERE
from dask_flame.serialization import pickling
from dask_flame.serialization.opaque import opaquely

#: The version of the calls that are being submitted.
_submitting: contextvars.ContextVar[str | None] = contextvars.ContextVar(
    "dask_flame_submitting", default=None
)


class CodeSender:
    """Sends the local modules of this process to a Client's scheduler.

    Parameters
    ----------
    client : distributed.Client
    code : LocalCode or None
        The modules of the Client's cluster; None for those of its own, until it closes.
    elsewhere : bool
        Whether the scheduler runs in another process.
    """

    def __init__(self, client: Client, code: LocalCode | None, *, elsewhere: bool) -> None:
        self._is_own = code is None
        self.code = LocalCode(data=True) if code is None else code
        self._client = client
        self._elsewhere = elsewhere
        self._lock = threading.Lock()
        self._known: set[bytes] = set()
        self._version: str | None = None
        self._there: str | None = None

    def close(self) -> None:
        """Stop watching the Client's own modules."""
        if self._is_own:
            self.code.close()

    def forget(self) -> None:
        """Send everything again, as the scheduler has released this client's state."""
        with self._lock:
            self._known.clear()
            self._version = None

    def announce(self) -> str | None:
        """Send the present version if it is new; return its id."""
        with self._lock:
            version = self.code.version()
            if version is not None and version != self._version:
                # The scheduler keeps the contents of the latest version only.
                version, pack, self._known = self.code.pack(self._known)
                self._version = version
                send_to_scheduler(
                    self._client,
                    {"op": CODE, "client": self._client.id, "version": version, "pack": pack},
                )
            return version

    async def settle(self, version: str | None) -> None:
        """Wait until all runners have a version that was announced."""
        if version is not None and version != self._there:
            await getattr(self._client.scheduler, CODE_THERE)(version=version)
            self._there = version

    @contextlib.contextmanager
    def submitting(self, version: str | None) -> Iterator[None]:
        """Submit calls with this version in the body."""
        token = _submitting.set(version)
        try:
            with opaquely(self.code.tops if self._elsewhere else None):
                yield
        finally:
            _submitting.reset(token)


def send_with_calls() -> None:
    """Let the Clients of this process send local modules; once per process.

    Only Clients with a :class:`CodeSender` are affected; see :func:`connect`.
    """
    submit, send, close = Client._graph_to_futures, Client._send_to_scheduler, closing_client()
    if hasattr(submit, "dask_flame"):
        return

    @functools.wraps(submit)
    def _graph_to_futures(self: Client, *args: Any, **kwargs: Any) -> Any:
        sender = self.extensions.get(CODE)
        if sender is None:
            return submit(self, *args, **kwargs)
        with sender.submitting(sender.announce()):
            return submit(self, *args, **kwargs)

    @functools.wraps(send)
    def _send_to_scheduler(self: Client, msg: dict[str, Any]) -> None:
        version = _submitting.get()
        if version is not None and msg.get("op") == "update-graph":
            msg = {**msg, "flame_code": version}
        send(self, msg)

    def after_code(request: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(request)
        async def requested(self: Client, *args: Any, **kwargs: Any) -> Any:
            if (sender := self.extensions.get(CODE)) is not None:
                await sender.settle(sender.announce())
            return await request(self, *args, **kwargs)

        return requested

    @functools.wraps(close)
    async def _close(self: Client, *args: Any, **kwargs: Any) -> None:
        try:
            await close(self, *args, **kwargs)
        finally:
            if (sender := self.extensions.get(CODE)) is not None:
                sender.close()

    for name in ("_run", "_register_worker_plugin", "_register_nanny_plugin"):
        replace(Client, name, after_code(getattr(Client, name)))
    _graph_to_futures.dask_flame = True  # type: ignore[attr-defined]
    replace(Client, "_graph_to_futures", _graph_to_futures)
    replace(Client, "_send_to_scheduler", _send_to_scheduler)
    replace(Client, "_close", _close)


def connect(client: Client) -> None:
    """Let a Client send local modules to its scheduler, which accepts them.

    The modules are those of its cluster; of a Client that was given an address, all.
    """
    if CODE in client.extensions:
        client.extensions[CODE].forget()
        return
    cluster = client.cluster
    has_modules = hasattr(cluster, "local_code")  # the modules of a FlameCluster
    code = cluster.local_code if has_modules else None
    if code is not None or not has_modules:
        scheduler = getattr(cluster, "scheduler", None)
        elsewhere = not isinstance(scheduler, Scheduler)
        pickling.prepare(interruptible=True)
        depend_on(versions)
        client.extensions[CODE] = CodeSender(client, code, elsewhere=elsewhere)
        send_with_calls()
