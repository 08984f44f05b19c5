"""A Client that only looks at a cluster (driver)."""

from __future__ import annotations

import contextlib
import threading
from typing import Any, NoReturn

from distributed import Client
from distributed.utils import LoopRunner

from dask_flame.core.distributed_internals import stop_loop
from dask_flame.driver.connect.entrance import Door
from dask_flame.errors import FlameError

#: The methods of a Client that change a cluster, or keep something in it.
_CHANGING = (
    "submit",
    "map",
    "compute",
    "persist",
    "get",
    "scatter",
    "run",
    "run_on_scheduler",
    "cancel",
    "retry",
    "replicate",
    "rebalance",
    "restart",
    "restart_workers",
    "retire_workers",
    "shutdown",
    "upload_file",
    "register_plugin",
    "unregister_scheduler_plugin",
    "unregister_worker_plugin",
    "publish_dataset",
    "unpublish_dataset",
    "set_metadata",
    "log_event",
    "benchmark_hardware",
    "get_executor",
)


class ObserverClient(Client):
    """A Client of another process's cluster, which it neither keeps alive nor changes.

    The lease ignores it (:func:`dask_flame.lease.clients.is_driver`). It is not the default client.
    """

    def __init__(
        self, door: Door, stack: contextlib.AsyncExitStack, runner: LoopRunner, *, timeout: float
    ) -> None:
        self._door = door
        self._way: contextlib.AsyncExitStack | None = stack
        self._runner = runner
        try:
            super().__init__(
                door.entrance.address,
                name="observer",
                security=door.security,
                loop=runner.loop,
                timeout=timeout,
                set_as_default=False,
            )
        except BaseException:
            # It has closed itself, but still counts as a user of the loop.
            self._way = None
            stop_loop(self)
            raise

    def close(self, timeout: Any = None) -> Any:
        """Close the connection; the cluster goes on."""
        try:
            # Its default sentinel is private.
            closing = super().close() if timeout is None else super().close(timeout)
        finally:
            way, self._way = self._way, None
            if way is not None:
                with contextlib.suppress(Exception):
                    self._runner.run_sync(way.aclose)
                self._runner.stop()
                # If its cluster has ended, it has closed by itself, and still counts as a user of
                # the loop; otherwise this does nothing.
                stop_loop(self)
        return closing

    def __del__(self) -> None:
        # The garbage collector may run in a thread that holds distributed's lock of all loops,
        # which closing needs: nothing may wait here.
        if getattr(self, "_way", None) is not None:
            with contextlib.suppress(RuntimeError):  # the interpreter ends
                threading.Thread(target=self.close, name="flame-observer-end", daemon=True).start()

    def __repr__(self) -> str:
        return f"<Observer of {self._door.cluster.id}: {self.status}>"


def _refusing(name: str) -> Any:
    def refuse(self: ObserverClient, *args: Any, **kwargs: Any) -> NoReturn:
        cluster = self._door.cluster.name
        raise FlameError(
            f"client.{name}() is not for an observer, which only looks. The driver of {cluster} "
            f'does that; once it is gone: dask_flame.connect("{cluster}", adopt=True)'
        )

    refuse.__name__ = name
    refuse.__doc__ = "Raise: an observer only looks."
    return refuse


for _name in _CHANGING:
    setattr(ObserverClient, _name, _refusing(_name))
