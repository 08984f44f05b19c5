"""What a cluster holds at its end: scattered data, results, running calls, open consumers.

Each function of :data:`HOLDS` takes a :class:`Held`, and is a coroutine function, so that the same
code serves synchronous and asynchronous Clients. It returns when the cluster holds what its name
says. What it returns is kept until the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import dask
import distributed
from distributed import Client

import dask_flame

LONG = 600.0


class Held:
    """A cluster with its Client.

    Attributes
    ----------
    client : distributed.Client
    cluster : FlameCluster
    """

    def __init__(self, cluster: Any, client: Client) -> None:
        self.cluster = cluster
        self.client = client

    async def now(self, value: Any) -> Any:
        """Return a value, once it is there if the Client is asynchronous."""
        if self.client.asynchronous and inspect.isawaitable(value):
            return await value
        return value

    async def until(self, condition: Callable[[], Any]) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, inspect.getsource(condition)
            if self.client.asynchronous:
                await asyncio.sleep(0.01)
            else:
                time.sleep(0.01)  # noqa: ASYNC251 - there is no event loop

    async def busy(self, number: int = 1) -> None:
        await self.until(lambda: sum(m.busy for m in self.cluster.runners.values()) >= number)

    async def done(self, futures: Any) -> Any:
        await self.now(distributed.wait(futures))
        return futures

    def thread(self, work: Callable[[], object]) -> None:
        """Consume in another thread, which takes an error at the end as an end."""

        def run() -> None:
            with contextlib.suppress(BaseException):
                work()

        context = contextvars.copy_context()  # with the current client
        threading.Thread(target=context.run, args=(run,), daemon=True).start()


def sleeps(*_: Any) -> None:
    time.sleep(LONG)


def computes(*_: Any) -> None:
    while True:
        sum(range(100))


async def awaits(*_: Any) -> None:
    await asyncio.sleep(LONG)


def fails(*_: Any) -> None:
    raise ValueError("as it should")


def prints(*_: Any) -> None:
    while True:
        print("", end="")
        time.sleep(0.001)


def reports(*_: Any) -> None:
    for step in range(1_000_000):
        dask_flame.report(step=step, loss=1 / (step + 1))
        time.sleep(0.01)


def asks(*_: Any) -> Any:
    client = distributed.get_client()
    return client.gather(client.map(slow_step, range(100), pure=False))


def waits_for_event(*_: Any) -> None:
    distributed.Event("never").wait()


def holds_lock(*_: Any) -> None:
    with distributed.Lock("one"):
        time.sleep(LONG)


def holds_semaphore(*_: Any) -> None:
    with distributed.Semaphore(1, "three"):
        time.sleep(LONG)


def takes_from_queue(*_: Any) -> None:
    distributed.Queue("empty").get()


def slow_step(*_: Any) -> None:
    time.sleep(0.05)


def megabytes(*_: Any) -> bytes:
    return bytes(20_000_000)


def one(*_: Any) -> int:
    return 1


class Counter:
    """A placed object."""

    n = 0

    def add(self) -> int:
        self.n += 1
        return self.n

    def wait(self) -> None:
        time.sleep(LONG)


async def scattered(held: Held) -> Any:
    return await held.now(held.client.scatter(list(range(100))))


async def broadcast(held: Held) -> Any:
    await held.now(held.client.wait_for_workers(2))
    return await held.now(held.client.scatter([1, 2, 3], broadcast=True))


async def persisted(held: Held) -> Any:
    import dask.array as da

    array = held.client.persist(da.ones((100, 100), chunks=20) + 1)
    return await held.done(array)


async def results(held: Held) -> Any:
    return await held.done(held.client.map(one, range(100)))


async def at_home(held: Held) -> Any:
    futures = await held.done(held.client.map(one, range(10)))
    held.cluster.resize("default", idle_timeout="1ms", min=0)
    await held.until(lambda: not held.cluster.runners)
    return futures


async def failed(held: Held) -> Any:
    # As their traceback is of interest to the user, these lines of the runner are known.
    return await held.done(held.client.map(fails, range(3)))


async def sleeping(held: Held) -> Any:
    futures = held.client.map(sleeps, range(2))
    await held.busy(2)
    return futures


async def computing(held: Held) -> Any:
    futures = held.client.map(computes, range(2))
    await held.busy(2)
    return futures


async def awaiting(held: Held) -> Any:
    futures = held.client.map(awaits, range(2))
    await held.busy(2)
    return futures


async def running_with_data(held: Held) -> Any:
    data = await held.now(held.client.scatter(list(range(100))))
    futures = held.client.map(sleeps, data)
    await held.busy(2)
    return data, futures


async def waiting(held: Held) -> Any:
    return await sleeping(held), held.client.map(sleeps, range(10, 20))


async def booting(held: Held) -> Any:
    held.cluster.resize("default", max=4)
    return held.client.map(sleeps, range(10))


async def retried(held: Held) -> Any:
    futures = held.client.map(slowly_fails, range(4), retries=10_000)
    await held.busy()
    return futures


def slowly_fails(*_: Any) -> None:
    time.sleep(0.05)
    raise ValueError("again")


async def pending(held: Held) -> Any:
    futures = held.client.map(slow_step, range(10_000))
    await held.busy()
    return futures


async def dependent(held: Held) -> Any:
    # Thousands of calls that depend on each other, and on running ones.
    graph: Any = [dask.delayed(slow_step)(i) for i in range(20)]
    layer = graph
    for _ in range(50):
        layer = [
            dask.delayed(slow_step)(a, b) for a, b in zip(layer, layer[1:] + layer[:1], strict=True)
        ]
    futures = held.client.compute(layer)
    await held.busy()
    return futures


async def graph_60k(held: Held) -> Any:
    # Their end comes while the scheduler reads them, or has them all.
    return held.client.map(one, range(60_000))


async def placed(held: Held) -> Any:
    if held.client.asynchronous:
        actor = await held.client.submit(Counter, actor=True)
    else:
        actor = dask_flame.place(Counter)
        assert actor.add().result() == 1
    return actor, actor.wait()


async def shuffle(held: Held) -> Any:
    import dask.array as da

    array = da.random.random((4000, 4000), chunks=(40, 4000))
    with dask.config.set({"array.rechunk.method": "p2p"}):
        future = held.client.persist(array.rechunk((4000, 40)))
    await held.busy(2)
    return future


async def stolen(held: Held) -> Any:
    await held.now(held.client.wait_for_workers(2))
    data = await held.now(held.client.scatter(bytes(1000), workers=None))
    futures = held.client.map(slow_step, [data] * 500, range(500))
    await held.busy(2)
    return data, futures


async def nested(held: Held) -> Any:
    futures = held.client.map(asks, range(2))
    await held.busy(1)
    return futures


async def cast(held: Held) -> Any:
    if held.client.asynchronous:
        distributed.fire_and_forget(held.client.submit(sleeps))
    else:
        dask_flame.cast(sleeps)
        dask_flame.cast(sleeps, 1)
    await held.busy()


async def streamed(held: Held) -> Any:
    futures = held.client.map(reports, range(2))
    await held.busy(2)
    held.thread(lambda: list(dask_flame.stream(futures)))
    return futures


async def printed(held: Held) -> Any:
    futures = held.client.map(prints, range(2))
    await held.busy(2)
    return futures


async def completed_elsewhere(held: Held) -> Any:
    futures = held.client.map(slow_step, range(1000))
    completed = distributed.as_completed(futures)
    if not held.client.asynchronous:
        held.thread(lambda: list(completed))
    await held.busy()
    return futures


async def gathered_elsewhere(held: Held) -> Any:
    futures = await held.done(held.client.map(megabytes, range(6)))
    if not held.client.asynchronous:
        for _ in range(3):
            held.thread(lambda: [held.client.gather(futures) for _ in range(1000)])
    return futures


async def waited_for_elsewhere(held: Held) -> Any:
    futures = await sleeping(held)
    if not held.client.asynchronous:
        held.thread(lambda: held.client.gather(futures))
        held.thread(lambda: distributed.wait(futures))
        held.thread(futures[0].result)
    return futures


async def submitted_elsewhere(held: Held) -> Any:
    if held.client.asynchronous:
        return await sleeping(held)

    def submit() -> None:
        while True:
            futures = held.client.map(one, range(20), pure=False)
            held.client.gather(futures)

    held.thread(submit)
    await held.busy()
    return None


async def synchronized(held: Held) -> Any:
    futures = [
        held.client.submit(waits_for_event),
        held.client.submit(holds_lock),
        held.client.submit(holds_semaphore),
        held.client.submit(takes_from_queue),
    ]
    await held.busy(2)
    if held.client.asynchronous:
        return futures
    variable, queue = distributed.Variable("x"), distributed.Queue("q")
    variable.set(held.client.submit(one))
    queue.put(held.client.submit(one, 2))
    lock, semaphore = distributed.Lock("two"), distributed.Semaphore(1, "four")
    lock.acquire()
    semaphore.acquire()
    held.thread(distributed.Event("other").wait)
    held.thread(distributed.Queue("other").get)
    held.thread(distributed.Lock("two").acquire)
    held.thread(lambda: distributed.Variable("other").get())
    return futures, variable, queue, lock, semaphore


async def subscribed(held: Held) -> Any:
    held.client.subscribe_topic("words", lambda event: None)
    futures = held.client.map(speaks, range(2))
    await held.busy(2)
    return futures


def speaks(*_: Any) -> None:
    while True:
        distributed.get_worker().log_event("words", {"a": 1})
        time.sleep(0.01)


async def task_stream(held: Held) -> Any:
    if held.client.asynchronous:
        return await sleeping(held)
    stream = distributed.get_task_stream(held.client)
    stream.__enter__()
    return stream, await results(held), await sleeping(held)


async def callbacks(held: Held) -> Any:
    futures = await sleeping(held)
    for future in futures:
        future.add_done_callback(lambda _: None)
    return futures


async def executor(held: Held) -> Any:
    pool = held.client.get_executor()
    futures = [pool.submit(sleeps, i) for i in range(4)]
    await held.busy(2)
    return pool, futures


async def plugin(held: Held) -> Any:
    await held.now(held.client.register_plugin(Plugin()))
    return await sleeping(held)


class Plugin(distributed.WorkerPlugin):
    """A plug-in that is set up and torn down."""

    def setup(self, worker: Any) -> None:
        self.worker = worker

    def teardown(self, worker: Any) -> None:
        self.worker = None


async def nothing(held: Held) -> Any:
    return None


HOLDS: dict[str, Callable[[Held], Awaitable[Any]]] = {
    function.__name__: function
    for function in (
        nothing,
        scattered,
        broadcast,
        persisted,
        results,
        at_home,
        sleeping,
        computing,
        awaiting,
        running_with_data,
        waiting,
        booting,
        retried,
        pending,
        dependent,
        graph_60k,
        placed,
        shuffle,
        stolen,
        nested,
        cast,
        streamed,
        printed,
        completed_elsewhere,
        gathered_elsewhere,
        waited_for_elsewhere,
        submitted_elsewhere,
        synchronized,
        subscribed,
        task_stream,
        callbacks,
        executor,
        plugin,
    )
}
