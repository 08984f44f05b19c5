"""``expose``: let notebooks of the same user attach to this process (application)."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import threading
import time
from types import TracebackType

from dask_flame.attached.application.server import Server
from dask_flame.attached.places import PORT, PORTS, check_name
from dask_flame.attached.tokens import check_token
from dask_flame.errors import AttachError


class Exposed:
    """An application that notebooks can attach to; :func:`expose` returns it.

    Attributes
    ----------
    name : str
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self.name = server.name

    def close(self) -> None:
        """Detach all notebooks; no further one can attach. In this process only."""
        with _lock:
            if _servers.get(self.name) is self._server:
                del _servers[self.name]
        self._server.close()

    def __enter__(self) -> Exposed:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if _servers.get(self.name) is not self._server else "open"
        return f"<Exposed {self.name!r}, pid {os.getpid()}: {state}>"


#: What this process exposes, by name. A forked process has to find it.
_servers: dict[str, Server] = {}
_lock = threading.RLock()
#: Seconds for which the end of the process waits for cells, all together.
_AT_EXIT = 1.0
_hooked = False


def expose(
    name: str,
    *,
    readonly: bool = False,
    log: bool | str | logging.Logger = True,
    token: str | None = None,
    port: int = PORT,
) -> Exposed:
    """Let notebooks of the same user attach to this process.

    Write it once, where the program starts. Processes that are forked later are instances of the
    application of their own. It costs one sleeping thread until somebody attaches.

    Parameters
    ----------
    name : str
        Name of the application, for ``dask_flame.attach(name)``.
    readonly : bool, default False
        Answer questions, such as ``app.stacks()``, but run no code.
    log : bool, str or logging.Logger, default True
        Logger that is told of each attachment and each cell; True: ``dask_flame.attach``.
    token : str, optional
        For a pod: whoever has it may attach through a port of the loopback address, too. Default:
        the environment variable ``DASK_FLAME_ATTACH_TOKEN``; without both, there is no port.
    port : int, default 8790
        With a token: the first port to try. Each process of the application has one of its own.

    Returns
    -------
    Exposed
        Its ``close()`` ends it before the process ends.

    Raises
    ------
    AttachError
        The name is not valid, or the folder for sockets cannot be used.

    Examples
    --------
    >>> import dask_flame
    >>> with dask_flame.expose("shop") as exposed:
    ...     exposed.name
    'shop'
    """
    check_name(name)
    if isinstance(port, bool) or not isinstance(port, int) or not 0 < port < 2**16 - PORTS:
        raise AttachError(f"port={port!r} is not the number of a port; write for example port=8790")
    server = Server(
        name, readonly=bool(readonly), log=_logger(log), token=check_token(token), port=port
    )
    with _lock:
        _hook()
        before = _servers.pop(name, None)
        if before is not None:
            before.close()
        server.open()
        _servers[name] = server
    return Exposed(server)


def _logger(log: bool | str | logging.Logger) -> logging.Logger | None:
    if isinstance(log, logging.Logger):
        return log
    if isinstance(log, str):
        return logging.getLogger(log)
    if isinstance(log, bool):
        return logging.getLogger("dask_flame.attach") if log else None
    raise AttachError(f"log={log!r} is not a logger; write log=True, or the name of a logger")


def _hook() -> None:
    global _hooked
    if not _hooked:
        _hooked = True
        atexit.register(_close_all)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(
                before=_before_fork,
                after_in_parent=_after_in_parent,
                after_in_child=_after_in_child,
            )


def _close_all() -> None:
    with _lock:
        servers = [*_servers.values()]
        _servers.clear()
    for server in servers:
        server.shut()
    due = time.monotonic() + _AT_EXIT
    for server in servers:
        server.close(due - time.monotonic())


def _before_fork() -> None:
    _lock.acquire()
    for server in _servers.values():
        server.pause()


def _after_in_parent() -> None:
    try:
        for server in _servers.values():
            server.resume()
    finally:
        _lock.release()


def _after_in_child() -> None:
    global _lock
    _lock = threading.RLock()
    if not _servers:
        return
    import sys

    for name in ("interruption", "exits"):  # loaded when somebody has attached
        if (module := sys.modules.get(f"dask_flame.attached.application.{name}")) is not None:
            module.after_fork()
    for server in _servers.values():
        server.after_fork()
        with contextlib.suppress(RuntimeError):  # no thread can be started
            server.resume()
