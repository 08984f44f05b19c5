"""The scheduler's answers to clients that wait for runners (scheduler).

A stock scheduler answers with the workers that it has. Here there may be none yet: what needs
runners waits until they have booted, and what asks all workers leaves out those that only hold
data, and those that are about to end.
"""

from __future__ import annotations

import math
from typing import Any

import dask.config
from dask.utils import parse_timedelta
from distributed.core import error_message
from distributed.protocol import pickle

from dask_flame.errors import FlameError, PoolError
from dask_flame.lease.nanny_plugins import on_runner
from dask_flame.scheduler.awaited_workers import AwaitedWorkers
from dask_flame.scheduler.base import SchedulerBase
from dask_flame.scheduler.slots import Slots
from dask_flame.serialization.failures import unharmed

#: Seconds after which a client that waits for runners is answered; it asks again.
_ANSWER_WITHIN = 1.0
#: The operations by which distributed tells workers of their plugins.
_OF_PLUGINS = frozenset({"plugin-add", "plugin-remove"})


class ClientAnswers(SchedulerBase):
    """A scheduler that has runners boot for clients which need some without a call.

    Takes what ``Scheduler`` takes.

    Attributes
    ----------
    asks : AwaitedWorkers
    slots : Slots
    """

    asks: AwaitedWorkers
    slots: Slots

    async def scatter(
        self,
        data: dict[Any, Any],
        workers: Any,
        client: str,
        broadcast: bool | int = False,
        timeout: float = 2,
    ) -> Any:
        # To scatter needs a runner to scatter to, or as many as there are to be copies. Stock waits
        # for the first one, for as long as it was told.
        if timeout == parse_timedelta(dask.config.get("distributed.comm.timeouts.connect")):
            # Nobody has asked for it: a runner may take longer to boot than a connection.
            timeout = max(timeout, self.slots.pools[self.slots.default].boot_timeout)
        key = ("scatter", object())
        copies = 1 if broadcast is True or not broadcast else int(broadcast)
        try:
            if workers is None and self.asks.there() < copies:
                await self.asks.wait(key, self._as_many(copies), within=timeout)
            return await super().scatter(
                data, workers, client, broadcast=broadcast, timeout=timeout
            )
        finally:
            self.asks.release(key)

    def _as_many(self, number: int) -> dict[str, int]:
        """So many runners, counting those of all pools, or as many as there may be."""
        pool = self.slots.default
        others = self.asks.there() - self.asks.there(pool)
        return {pool: int(min(number - others, self.asks.bound(pool)[0]))}

    async def runners_to_scatter_to(self, workers: Any = None) -> dict[str, int]:
        """Answer a client that scatters by itself (``direct=True``): there is to be a runner.

        It asks again and again, so a runner that boots is not waited for to its end.
        """
        if workers is None and not self.asks.there():
            key = ("scatter", object())
            await self.asks.wait(key, {self.slots.default: 1}, within=_ANSWER_WITHIN)
        there = self.get_ncores_running(workers=workers)
        return {address: n for address, n in there.items() if address not in self.draining}

    async def have_runners(
        self, number: int, pool: str | None = None, key: str = ""
    ) -> dict[str, Any]:
        """Answer a driver that waits for so many runners: how many there are.

        They are booted, and kept as long as it asks again and again.
        """
        try:
            plan = {pool: number} if pool else self.asks.spread(number)
            total = math.inf if pool else number
            here = await self.asks.wait(key, plan, total=total, within=_ANSWER_WITHIN)
        except FlameError as error:
            # An error that is raised here would be logged as the scheduler's own.
            return {"error": pickle.dumps(error)}
        there = self.asks.there(pool)
        if here := here or there >= number:
            self.asks.release(key)
        return {"there": number if here else there}

    async def replicate(
        self, keys: Any, n: int | None = None, workers: Any = None, **kwargs: Any
    ) -> Any:
        # Stock makes as many copies as there are workers: here they come when they are wanted.
        if workers is not None:
            return await super().replicate(keys, n=n, workers=workers, **kwargs)
        plan = self._as_many(self.asks.there() or 1 if n is None else n)
        key = ("replicate", object())
        try:
            await self.asks.wait(key, plan)
            addresses = [ws.address for ws in self.running if ws.address not in self.draining]
            return await super().replicate(keys, n=n, workers=addresses, **kwargs)
        finally:
            self.asks.release(key)

    async def run_function(self, comm: Any, *args: Any, **kwargs: Any) -> Any:
        return await unharmed(super().run_function(comm, *args, **kwargs))

    async def restart_workers(self, *args: Any, **kwargs: Any) -> Any:
        # Stock waits until as many workers have come back: here they come when they are wanted.
        return await super().restart_workers(*args, **{**kwargs, "wait_for_workers": False})

    async def register_nanny_plugin(
        self, comm: None, plugin: bytes, name: str, idempotent: bool
    ) -> Any:
        # Also what the plugins of schedulers call that have something done by nannies.
        try:
            plugin = on_runner(plugin)
        except PoolError as error:
            # As the answer of a runner: what is raised here would be logged as well.
            return {"": error_message(error)}
        return await self.register_worker_plugin(
            comm, plugin=plugin, name=name, idempotent=idempotent
        )

    async def unregister_nanny_plugin(self, comm: None, name: str) -> Any:
        return await self.unregister_worker_plugin(comm, name=name)

    async def rebalance(self, *, workers: Any = None, **kwargs: Any) -> Any:
        # Stock would take home for the fullest of all workers, or for the emptiest.
        among = self.workers if workers is None else workers
        workers = [a for a in among if a not in self.resting]
        return await super().rebalance(workers=workers, **kwargs)

    async def broadcast(
        self,
        *,
        msg: dict[str, Any],
        workers: list[str] | None = None,
        serializers: Any = None,
        **kwargs: Any,
    ) -> Any:
        # distributed gives a client's serializers to those handlers alone that name them.
        kwargs["serializers"] = serializers
        if workers is None and kwargs.get("hosts") is None and self.resting:
            workers = [a for a in self.workers if a not in self.resting]
        if msg.get("op") not in _OF_PLUGINS:
            return await super().broadcast(msg=msg, workers=workers, **kwargs)
        answers = await super().broadcast(msg=msg, workers=workers, on_error="return", **kwargs)
        for address, answer in list(answers.items()):
            # A runner that has gone meanwhile needs none; others have it when they register.
            if isinstance(answer, OSError) and not self._takes_calls(address):
                del answers[address]
            elif isinstance(answer, Exception):
                raise answer
        return answers

    def _takes_calls(self, address: str) -> bool:
        return address in self.workers and address not in self.draining
