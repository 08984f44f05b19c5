"""FlameClusters in place of the clusters that the helpers of distributed's tests start (driver)."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import inspect
import os
import signal
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from typing import Any

import dask.config
import pytest
from distributed import Client, Nanny, Status, Worker, default_client, utils_test
from distributed.comm import get_address_host
from distributed.core import rpc
from distributed.protocol.pickle import dumps
from distributed.utils import wait_for as within
from distributed.utils_test import clean, config_for_cluster_tests
from tornado.ioloop import IOLoop

from dask_flame import FlameCluster
from dask_flame.scheduler.scheduler import FlameScheduler

#: Times as long as upstream allows, because runners are processes, and machines are shared.
PATIENCE = 2

#: Results are lost with their worker.
_AS_DASK = {"flame.inline-result": 0}
LOOKS_INSIDE = "looks into a worker, which is a process of its own"


class Runner:
    """Stand in for the worker object that a test is given.

    The scheduler knows the attributes that are defined here. Any other one is in the runner's
    process: asking for it skips the test.
    """

    def __init__(self, scheduler: FlameScheduler, address: str) -> None:
        state = scheduler.workers[address]
        vars(self).update(
            _scheduler=scheduler,
            _state=state,
            address=address,
            worker_address=address,
            contact_address=address,
            ip=get_address_host(address),
            name=state.name,
            local_directory=state.local_directory,
        )

    @property
    def data(self) -> Held:
        """Return the keys of the results that the runner holds, as the scheduler knows them."""
        return Held(self._state.has_what)

    @property
    def status(self) -> Status:
        """Return the status that the scheduler knows."""
        return self._state.status

    async def close(self, **_: Any) -> None:
        """Kill the runner, because the results of a Worker that is closed are lost, too."""
        async with rpc(self.address) as runner:
            answer = await runner.run(function=dumps(os.getpid))
        os.kill(answer["result"], signal.SIGKILL)
        while self._scheduler.workers.get(self.address) is self._state:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        pytest.skip(LOOKS_INSIDE)

    def __setattr__(self, name: str, value: Any) -> None:
        pytest.skip(LOOKS_INSIDE)


class Held(Collection[str]):
    """The keys that a runner holds; their values are in its process."""

    def __init__(self, tasks: Collection[Any]) -> None:
        self._keys = {task.key for task in tasks}

    def __contains__(self, key: object) -> bool:
        return key in self._keys

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def __eq__(self, other: object) -> bool:
        if other:
            pytest.skip(LOOKS_INSIDE)
        return not self._keys

    __hash__ = None  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        pytest.skip(LOOKS_INSIDE)

    def __getitem__(self, key: str) -> Any:
        if key not in self._keys:
            raise KeyError(key)
        pytest.skip(LOOKS_INSIDE)


def _refuse(worker: Any, worker_kwargs: Any, scheduler_kwargs: Any, security: Any) -> str:
    """Return why a test that asks for such a cluster is skipped, if it is."""
    if worker not in (Worker, Nanny):
        return "brings a Worker class of its own"
    if worker_kwargs:
        return "sets options of Worker"
    if scheduler_kwargs:
        return "sets options of Scheduler"
    return "brings certificates of its own" if security else ""


def _options(threads: Collection[int]) -> dict[str, Any]:
    # A FlameCluster must be able to have a runner, also where a test begins without one.
    number = len(threads)
    return {
        "min": number,
        "max": number or 1,
        "concurrency": max(threads, default=1),
        "dashboard_address": None,
    }


async def _runners(cluster: FlameCluster, number: int) -> list[Runner]:
    """Wait until so many runners are running, and return what stands in for them."""
    s = cluster.scheduler
    while (  # noqa: ASYNC110
        len(s.workers) < number
        or any(ws.status is not Status.running for ws in s.workers.values())
        or any(comm.comm is None for comm in s.stream_comms.values())
    ):
        await asyncio.sleep(0.01)
    # Upstream the workers of most tests have it already, being in the same process.
    imported = dumps(functools.partial(importlib.import_module, utils_test.__name__))
    await s.broadcast(msg={"op": "run", "function": imported})
    states = sorted(s.workers.values(), key=lambda ws: (len(ws.name), ws.name))
    return [Runner(s, ws.address) for ws in states]


@contextlib.asynccontextmanager
async def _started(
    threads: Collection[int], client: bool, client_kwargs: Mapping[str, Any]
) -> AsyncIterator[list[Any]]:
    """Start a cluster and its client; give what a test function is called with."""
    async with contextlib.AsyncExitStack() as stack:
        cluster = FlameCluster(asynchronous=True, **_options(threads))
        await stack.enter_async_context(cluster)
        runners = await _runners(cluster, len(threads))
        given: list[Any] = [cluster.scheduler, *runners]
        if client:
            made = Client(cluster, asynchronous=True, **client_kwargs)
            given.insert(0, await stack.enter_async_context(made))
        yield given
        cluster.scheduler.validate_state()
        with contextlib.suppress(ValueError):
            await default_client()._close(fast=True)


def gen_cluster(
    nthreads: list[Any] | None = None,
    scheduler: str = "127.0.0.1",
    timeout: float = 30,
    security: Any = None,
    Worker: Any = Worker,  # noqa: N803
    client: bool = False,
    scheduler_kwargs: Mapping[str, Any] | None = None,
    worker_kwargs: Mapping[str, Any] | None = None,
    client_kwargs: Mapping[str, Any] | None = None,
    active_rpc_timeout: float = 1,
    config: Mapping[str, Any] | None = None,
    clean_kwargs: Mapping[str, Any] | None = None,
    allow_unclosed: bool = True,
) -> Callable[[Callable[..., Any]], Callable[..., None]]:
    """Stand in for ``distributed.utils_test.gen_cluster``, whose signature it has."""
    asked = [("", 1), ("", 2)] if nthreads is None else nthreads
    threads = [each[1] for each in asked]
    own = any(len(each) > 2 for each in asked) or worker_kwargs
    refused = _refuse(Worker, own, scheduler_kwargs, security)
    if len({each[0] for each in asked}) > 1:
        refused = "wants workers at several addresses"

    def decorate(function: Callable[..., Any]) -> Callable[..., None]:
        async def run(*args: Any, **kwargs: Any) -> None:
            with dask.config.set({**_AS_DASK, **(config or {})}):
                async with _started(threads, client, client_kwargs or {}) as given:
                    await within(function(*given, *args, **kwargs), timeout * PATIENCE)

        @functools.wraps(function)
        @config_for_cluster_tests(**{"distributed.comm.timeouts.connect": "5s"})
        @clean(**(clean_kwargs or {}))
        def test(*args: Any, **kwargs: Any) -> None:
            if refused:
                pytest.skip(refused)
            asyncio.run(run(*args, **kwargs))

        # Pytest is to see those parameters alone that are its fixtures.
        parameters = list(inspect.signature(function).parameters.values())
        left = parameters[bool(client) + 1 + len(threads) :]
        if any(p.kind is p.VAR_POSITIONAL for p in parameters):
            left = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
        test.__signature__ = inspect.Signature(left)  # type: ignore[attr-defined]
        return test

    return decorate


@contextlib.contextmanager
def flame_cluster(
    nworkers: int = 2, config: Mapping[str, Any] | None = None, loop: IOLoop | None = None
) -> Iterator[tuple[FlameCluster, list[Runner]]]:
    """Start a synchronous cluster and wait for its runners."""
    with (
        dask.config.set({**_AS_DASK, **(config or {})}),
        FlameCluster(loop=loop, **_options([1] * nworkers)) as made,
    ):
        yield made, made.sync(_runners, made, nworkers)
        with contextlib.suppress(ValueError):
            default_client().close()


@contextlib.contextmanager
def cluster(
    nworkers: int = 2,
    nanny: bool = False,
    worker_kwargs: Mapping[str, Any] | None = None,
    active_rpc_timeout: float = 10,
    scheduler_kwargs: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Stand in for ``distributed.utils_test.cluster``, whose signature it has."""
    if refused := _refuse(Worker, worker_kwargs, scheduler_kwargs, None):
        pytest.skip(refused)
    with flame_cluster(nworkers, config) as (made, runners):
        yield addresses(made, runners)


def addresses(
    made: FlameCluster, runners: Collection[Runner]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return what ``cluster`` says of a cluster."""

    def process() -> Any:
        pytest.skip(LOOKS_INSIDE)

    said = [{"address": runner.address, "proc": process} for runner in runners]
    return {"address": made.scheduler_address}, said
