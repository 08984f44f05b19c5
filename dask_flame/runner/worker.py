"""The Dask worker that a runner holds (runner)."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import signal
import threading
from collections.abc import Callable
from typing import Any

import dask.config
from distributed import Worker, WorkerPlugin
from distributed.security import Security

from dask_flame.protocol import FREED, HELLO, RUNNER, WATCH

#: Longest time that a worker may take to close, once it was told to, in seconds.
_CLOSE_WITHIN = 5.0

Ender = Callable[[int], Any]


def run(orders: dict[str, Any], end: Ender) -> int:
    """Carry out a runner's orders until its worker has closed; the exit code.

    Parameters
    ----------
    orders : dict
        What :class:`dask_flame.backends.RunnerSpec` holds, as JSON gives it.
    end : callable
        Ends the process at once with an exit code.
    """
    dask.config.update(dask.config.config, orders["config"], priority="new")
    logging.getLogger("distributed").setLevel(logging.WARNING)
    for module in orders["preload"]:
        importlib.import_module(module)
    return asyncio.run(_serve(orders, end))


async def _serve(orders: dict[str, Any], end: Ender) -> int:
    worker = await RunnerWorker(
        orders["scheduler"],
        end=end,
        name=orders["name"],
        nthreads=orders["concurrency"],
        memory_limit=orders["memory"] or 0,
        local_directory=orders["directory"],
        security=Security(**orders["security"]) if orders["security"] else None,
        death_timeout=orders["boot_timeout"],
        resources=orders["resources"],
        startup_information={RUNNER: lambda worker: orders["pool"]},
        plugins=(CancelledCalls(),),
        host=orders["host"],
    )
    loop = asyncio.get_running_loop()

    def told_to_end(*args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: it is ending already
            loop.call_soon_threadsafe(
                lambda: worker.loop.add_callback(worker.close, reason="runner-told-to-end")
            )

    # Not the loop's own handler, which the loop takes away when it closes: a second SIGTERM would
    # then kill a runner that is on its way out.
    signal.signal(signal.SIGTERM, told_to_end)
    await worker.finished()
    return 0


class RunnerWorker(Worker):
    """A worker that does not wait for its threads when it closes, since its process ends with it.

    A stock worker that loses its scheduler while busy waits for its threads, for up to 30 s.
    """

    def __init__(self, *args: Any, end: Ender, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._end_process = end

    async def close(self, timeout: float = 30, *args: Any, **kwargs: Any) -> str | None:
        # A thread, not the loop's timer: it has to fire when the loop hangs.
        last_resort = threading.Timer(_CLOSE_WITHIN, self._end_process, (0,))
        last_resort.daemon = True
        last_resort.start()
        kwargs["executor_wait"] = False
        # Calls, transfers and heartbeats that are under way are broken off; that is what closing
        # means here, and not worth a traceback each.
        logging.getLogger("distributed.worker").setLevel(logging.CRITICAL)
        done: str | None = await super().close(min(timeout, _CLOSE_WITHIN), *args, **kwargs)
        return done


class CancelledCalls(WorkerPlugin):
    """Tells the scheduler when the thread of a cancelled call is free again.

    distributed takes a worker's thread for free as soon as its call is cancelled, while the thread
    goes on to its end. The scheduler asks about such a call; the answer comes when it is over.
    """

    name = "flame-cancelled-calls"
    idempotent = True
    _AT_WORK = frozenset({"executing", "cancelled", "resumed"})

    def __init__(self) -> None:
        self._watched: set[Any] = set()

    def setup(self, worker: Worker) -> None:
        self.worker = worker
        worker.stream_handlers[WATCH] = self.watch
        worker.stream_handlers[HELLO] = lambda **kwargs: None

    def teardown(self, worker: Worker) -> None:
        worker.stream_handlers.pop(WATCH, None)

    def watch(self, key: Any, **kwargs: Any) -> None:
        """The scheduler has taken this call back."""
        self._watched.add(key)
        self._look(key)

    def transition(self, key: Any, start: str, finish: str, **kwargs: Any) -> None:
        if key in self._watched:
            self._look(key)

    def _look(self, key: Any) -> None:
        # The state that a task is in, not the one that a transition aimed at: releasing a task
        # that executes leaves it "cancelled" until its thread comes back.
        ts = self.worker.state.tasks.get(key)
        if ts is None or ts.state not in self._AT_WORK:
            self._watched.discard(key)
            self.worker.batched_send({"op": FREED, "key": key})
