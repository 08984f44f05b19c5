"""Requests of clients that need runners (scheduler).

A stock scheduler uses the workers that it has. Here there may be none yet: requests that need
runners wait until they have booted. Requests to all workers exclude those that only hold data and
those that are about to end.
"""

from __future__ import annotations

import math
from typing import Any

import dask.config
from dask.utils import parse_timedelta
from distributed.core import error_message
from distributed.protocol import pickle

from dask_flame.core.hidden_logs import without
from dask_flame.errors import FlameError, PoolError
from dask_flame.lease.nanny_plugins import on_runner
from dask_flame.scheduler.awaited_workers import AwaitedWorkers
from dask_flame.scheduler.base import SchedulerBase
from dask_flame.scheduler.slots import Slots
from dask_flame.serialization.failures import unharmed

#: Maximum seconds until a client that waits for runners gets an answer; it repeats its request.
_ANSWER_WITHIN = 1.0
#: Operations with which distributed sends plugins to workers.
_OF_PLUGINS = frozenset({"plugin-add", "plugin-remove"})


class ClientAnswers(SchedulerBase):
    """A scheduler that boots runners for client requests other than calls.

    It accepts the parameters of ``Scheduler``.

    Attributes
    ----------
    awaited_workers : AwaitedWorkers
    slots : Slots
    """

    awaited_workers: AwaitedWorkers
    slots: Slots

    async def scatter(
        self,
        data: dict[Any, Any],
        workers: Any,
        client: str,
        broadcast: bool | int = False,
        timeout: float = 2,
    ) -> Any:
        # Boot one runner, or one per copy. The stock scheduler waits for the first worker, up to
        # `timeout`.
        if timeout == parse_timedelta(dask.config.get("distributed.comm.timeouts.connect")):
            # It is the default: booting a runner may take longer than opening a connection.
            timeout = max(timeout, self.slots.pools[self.slots.default].boot_timeout)
        key = ("scatter", object())
        copies = 1 if broadcast is True or not broadcast else int(broadcast)
        try:
            if workers is None and self.awaited_workers.there() < copies:
                await self.awaited_workers.wait(key, self._as_many(copies), within=timeout)
            return await super().scatter(
                data, workers, client, broadcast=broadcast, timeout=timeout
            )
        finally:
            self.awaited_workers.release(key)

    def _as_many(self, number: int) -> dict[str, int]:
        """Return a plan for a number of runners, up to the default pool's limit.

        Runners of other pools count.
        """
        pool = self.slots.default
        others = self.awaited_workers.there() - self.awaited_workers.there(pool)
        return {pool: int(min(number - others, self.awaited_workers.bound(pool)[0]))}

    async def runners_to_scatter_to(self, workers: Any = None) -> dict[str, int]:
        """Return the runners for a client that scatters directly (``direct=True``); boot one.

        The client repeats its request, so this does not wait for the end of a boot.
        """
        if workers is None and not self.awaited_workers.there():
            key = ("scatter", object())
            await self.awaited_workers.wait(key, {self.slots.default: 1}, within=_ANSWER_WITHIN)
        there = self.get_ncores_running(workers=workers)
        return {address: n for address, n in there.items() if address not in self.draining}

    async def have_runners(
        self, number: int, pool: str | None = None, key: str = ""
    ) -> dict[str, Any]:
        """Return the number of runners to a driver that waits for `number` of them.

        Missing runners boot, and are kept while the driver repeats its request.

        Parameters
        ----------
        number : int
        pool : str, optional
            Count and boot runners of this pool only.
        key : str
            Identifies the request.

        Returns
        -------
        dict
            ``there``: the number of runners, or ``error``: a pickled exception.
        """
        try:
            plan = {pool: number} if pool else self.awaited_workers.spread(number)
            total = math.inf if pool else number
            here = await self.awaited_workers.wait(key, plan, total=total, within=_ANSWER_WITHIN)
        except FlameError as error:
            # If it were raised here, the scheduler would log it as its own error.
            return {"error": pickle.dumps(error)}
        there = self.awaited_workers.there(pool)
        if here := here or there >= number:
            self.awaited_workers.release(key)
        return {"there": number if here else there}

    async def replicate(
        self, keys: Any, n: int | None = None, workers: Any = None, **kwargs: Any
    ) -> Any:
        # The stock scheduler makes one copy per current worker; here missing runners boot.
        if workers is not None:
            return await super().replicate(keys, n=n, workers=workers, **kwargs)
        plan = self._as_many(self.awaited_workers.there() or 1 if n is None else n)
        key = ("replicate", object())
        try:
            await self.awaited_workers.wait(key, plan)
            addresses = [ws.address for ws in self.running if ws.address not in self.draining]
            return await super().replicate(keys, n=n, workers=addresses, **kwargs)
        finally:
            self.awaited_workers.release(key)

    async def run_function(self, comm: Any, *args: Any, **kwargs: Any) -> Any:
        return await unharmed(super().run_function(comm, *args, **kwargs))

    async def restart_workers(self, *args: Any, **kwargs: Any) -> Any:
        # The stock scheduler waits until all workers are back; here they boot on demand. It also
        # warns that they will not come back.
        chosen = args[0] if args else kwargs.get("workers")
        addresses = set(self.workers if chosen is None else chosen)
        self.restarting |= addresses
        try:
            with without("distributed.scheduler", "Workers ["):
                return await super().restart_workers(*args, **{**kwargs, "wait_for_workers": False})
        finally:
            self.restarting -= addresses

    async def register_nanny_plugin(
        self, comm: None, plugin: bytes, name: str, idempotent: bool
    ) -> Any:
        # Scheduler plugins call this method, too.
        try:
            plugin = on_runner(plugin)
        except PoolError as error:
            # In the form of a runner's answer; the scheduler would log an error raised here.
            return {"": error_message(error)}
        return await self.register_worker_plugin(
            comm, plugin=plugin, name=name, idempotent=idempotent
        )

    async def unregister_nanny_plugin(self, comm: None, name: str) -> Any:
        return await self.unregister_worker_plugin(comm, name=name)

    async def rebalance(self, *, workers: Any = None, **kwargs: Any) -> Any:
        # The stock scheduler would include home, as the fullest or emptiest worker.
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
        # Distributed passes a client's serializers only to handlers with such a parameter.
        kwargs["serializers"] = serializers
        if workers is None and kwargs.get("hosts") is None and self.resting:
            workers = [a for a in self.workers if a not in self.resting]
        if msg.get("op") in _OF_PLUGINS:
            return await self._broadcast_plugin(msg, workers, kwargs)
        # Whoever asks chooses by `on_error` to be told of a runner that ends meanwhile.
        with without("distributed.scheduler", "broadcast to "):
            return await super().broadcast(msg=msg, workers=workers, **kwargs)

    async def _broadcast_plugin(
        self, msg: dict[str, Any], workers: list[str] | None, kwargs: dict[str, Any]
    ) -> Any:
        with without("distributed.scheduler", "broadcast to "):
            answers = await super().broadcast(msg=msg, workers=workers, on_error="return", **kwargs)
        for address, answer in list(answers.items()):
            # Ignore runners that have ended meanwhile; new runners get the plugins on registration.
            if isinstance(answer, OSError) and not self._takes_calls(address):
                del answers[address]
            elif isinstance(answer, Exception):
                raise answer
        return answers

    def _takes_calls(self, address: str) -> bool:
        return address in self.workers and address not in self.draining
