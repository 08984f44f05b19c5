"""Stopped machines that are kept ready for runners (driver)."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from dask_flame.backends.fly import machine_requests
from dask_flame.backends.fly.api.client import Creation, FlyApi
from dask_flame.backends.fly.api.errors import FlyError
from dask_flame.backends.fly.api.types import CreateRequest, Machine
from dask_flame.backends.fly.machine_requests import Site
from dask_flame.backends.fly.metadata import ALIVE, ALIVE_EVERY, CLUSTER
from dask_flame.backends.fly.options import FlyOptions
from dask_flame.backends.fly.removal import destroy
from dask_flame.backends.fly.runner import Runner
from dask_flame.backends.specs import RunnerSpec
from dask_flame.core.backoff import Backoff

logger = logging.getLogger("dask_flame")

#: Seconds between two attempts to create or start a machine that is refused; first and longest.
_FIRST, _LONGEST = 0.2, 60.0
#: Seconds within which a machine that was changed can be started.
_START_WITHIN = 20.0
#: Seconds to wait at a close for a machine that is being created.
_MADE_WITHIN = 10.0
#: Pause in seconds while runners wait for their own machines.
_PAUSE = 0.5


@dataclass
class Shelf:
    """The machines of one shape.

    Attributes
    ----------
    spec : RunnerSpec
        A runner of the pool.
    options : FlyOptions
    wanted : int
    ready : list of str
        The ids of stopped machines.
    """

    spec: RunnerSpec
    options: FlyOptions
    wanted: int = 0
    ready: list[str] = field(default_factory=list)


class Reserve:
    """Keep stopped machines, and give them to runners.

    A machine of the reserve has the image, the size, the region and the volumes of its pool, and
    nothing else. When a runner takes it, its configuration is replaced by the runner's, and it is
    started: two requests, which Fly limits for each machine and not for the app. (A machine that
    fetched its configuration by itself would need no first request; but it would have to hold a
    secret from its creation on, and somebody would have to answer it.)

    Parameters
    ----------
    api : FlyApi
    site : Site
    busy : callable
        Returns whether runners wait for new machines: then none is created for the reserve.
    report : callable
        Called with the reason if machines cannot be created.
    """

    def __init__(
        self, api: FlyApi, site: Site, busy: Callable[[], bool], report: Callable[[str], None]
    ) -> None:
        self._api = api
        self._site = site
        self._busy = busy
        self._report = report
        self._shelves: dict[str, Shelf] = {}
        self._owned: set[str] = set()
        self._numbers = itertools.count(1)
        self._changed = asyncio.Event()
        self._filling: asyncio.Task[None] | None = None
        self._living: asyncio.Task[None] | None = None
        self._coming = ""  # the name of the machine that is being created
        self._creation = Creation()  # its request
        self._closed = False
        self._reported = ""

    @property
    def ready(self) -> int:
        """The number of machines that can be started."""
        return sum(len(shelf.ready) for shelf in self._shelves.values())

    @property
    def keeps(self) -> bool:
        """Whether it has machines, or is to have some."""
        return not self._closed and any(s.wanted or s.ready for s in self._shelves.values())

    def want(self, wanted: Sequence[tuple[RunnerSpec, FlyOptions]]) -> None:
        """Set the runners of all pools, for whose `reserve` machines are kept from now on."""
        for shelf in self._shelves.values():
            shelf.wanted = 0
        for spec, options in wanted:
            key = machine_requests.shape(spec, options, self._site)
            if options.reserve or key in self._shelves:
                shelf = self._shelves.setdefault(key, Shelf(spec, options))
                shelf.wanted = max(shelf.wanted, options.reserve or 0)
        if not self._closed and any(
            shelf.wanted or shelf.ready for shelf in self._shelves.values()
        ):
            self._changed.set()
            if self._filling is None:
                self._filling = asyncio.create_task(self._fill())
                self._living = asyncio.create_task(self._live())

    def owns(self, id: str) -> bool:
        """Return whether a machine belongs to the reserve, or is about to."""
        # The answer to the creation of one may not have come yet.
        return id in self._owned or bool(self._coming)

    # Runners

    async def give(self, runner: Runner, body: CreateRequest) -> bool:
        """Start a machine of the reserve as this runner; return whether there was one.

        Parameters
        ----------
        runner : Runner
        body : CreateRequest
            The request that would create its machine.
        """
        shelf = self._shelves.get(machine_requests.shape(runner.spec, runner.options, self._site))
        if shelf is None:
            return False
        while shelf.ready and not self._closed:
            id = runner.machine = shelf.ready.pop(0)
            self._changed.set()
            try:
                await self._api.update(id, {"config": body["config"], "skip_launch": True})
                await self._start(id)
            except FlyError as error:
                # Its host may have no room any more, or somebody has destroyed it.
                logger.debug("machine %s of the reserve cannot be started: %s", id, error)
                await self._give_up(id)
                runner.machine = ""
                if runner.ending:
                    return True
                continue
            self._owned.discard(id)
            runner.since = time.monotonic()
            return True
        return False

    async def _start(self, id: str) -> None:
        """Start a machine, which may have to settle after a change."""
        backoff = Backoff(_FIRST, 2.0)
        until = time.monotonic() + _START_WITHIN
        while True:
            try:
                await self._api.start(id)
                return
            except FlyError as error:
                if not error.conflict or time.monotonic() > until:
                    raise
            found = await self._api.get(id)
            if found.get("state") in ("starting", "started"):
                return
            await asyncio.sleep(backoff.next_with_jitter())

    def takes(self, runner: Runner, found: Machine) -> bool:
        """Return whether the machine of a runner that has ended can return, and note that."""
        if self._closed or found.get("state") != "stopped":
            return False
        shelf = self._shelves.get(machine_requests.shape(runner.spec, runner.options, self._site))
        if shelf is None or len(shelf.ready) >= shelf.wanted:
            return False
        self._owned.add(runner.machine)
        return True

    async def take_back(self, runner: Runner) -> None:
        """Remove all that was the runner's from its machine, and keep it."""
        id = runner.machine
        shelf = self._shelves[machine_requests.shape(runner.spec, runner.options, self._site)]
        config = machine_requests.blank(shelf.spec, shelf.options, self._site, time.time())
        try:
            await self._api.update(id, {"config": config, "skip_launch": True})
        except FlyError as error:
            logger.debug("machine %s does not return to the reserve: %s", id, error)
            await self._give_up(id)
            return
        if len(shelf.ready) < shelf.wanted and not self._closed:
            shelf.ready.append(id)
        else:
            await self._give_up(id)

    # Its machines

    async def _fill(self) -> None:
        """Keep as many machines as are wanted, one after the other."""
        backoff = Backoff(_FIRST, _LONGEST)
        while not self._closed:
            shelf = self._short()
            if shelf is None:
                for full in self._shelves.values():
                    while len(full.ready) > full.wanted:
                        await self._give_up(full.ready.pop())
                self._changed.clear()
                if self._short() is None:
                    await self._changed.wait()
                continue
            if self._busy():
                await asyncio.sleep(_PAUSE)  # runners first
                continue
            try:
                await self._create(shelf)
                backoff.reset()
                self._reported = ""
            except FlyError as error:
                if str(error) != self._reported:
                    self._reported = str(error)
                    self._report(f"a machine for the reserve was refused: {error}")
                await asyncio.sleep(max(1.0, backoff.next_with_jitter()))

    def _short(self) -> Shelf | None:
        return next((s for s in self._shelves.values() if len(s.ready) < s.wanted), None)

    async def _create(self, shelf: Shelf) -> None:
        name = f"reserve-{next(self._numbers)}"
        body = machine_requests.reserve(
            name, shelf.spec, shelf.options, self._site, alive=time.time()
        )
        self._coming = name
        try:
            same: Mapping[str, str] = {CLUSTER: self._site.identity.cluster}
            made = await self._api.create(body, same, self._creation)
            self._owned.add(made["id"])
        finally:
            self._coming, self._creation = "", Creation()
        shelf.ready.append(made["id"])

    async def _live(self) -> None:
        """Say now and then, on machines that do not run, that their driver lives."""
        while True:
            await asyncio.sleep(ALIVE_EVERY)
            ids = [id for shelf in self._shelves.values() for id in shelf.ready]
            now = f"{time.time():.0f}"
            said = (self._api.set_metadata(id, ALIVE, now) for id in ids)
            await asyncio.gather(*said, return_exceptions=True)

    async def _give_up(self, id: str) -> None:
        """Destroy a machine of the reserve."""
        try:
            await destroy(self._api, id)
        except FlyError as error:
            logger.debug("machine %s of the reserve could not be destroyed: %s", id, error)
        finally:
            self._owned.discard(id)  # if it is left, it is a stray from now on

    async def close(self) -> None:
        """Keep and give no more machines. Those there are belong to nobody from now on."""
        self._closed = True
        if self._filling is not None and self._creation.may_exist:
            # Otherwise the machine might be made after the last look for what is left.
            await asyncio.wait([self._filling], timeout=_MADE_WITHIN)
        tasks = [task for task in (self._filling, self._living) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._owned.clear()
