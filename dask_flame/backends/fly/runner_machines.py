"""The machines of runners, from their requests to their ends (driver)."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from dask_flame.backends.fly import machine_requests, metadata
from dask_flame.backends.fly.api.client import metadata_of
from dask_flame.backends.fly.api.errors import FlyError
from dask_flame.backends.fly.api.types import CreateRequest, Machine
from dask_flame.backends.fly.connection import Connection
from dask_flame.backends.fly.creation_news import CreationNews
from dask_flame.backends.fly.machine_requests import Site
from dask_flame.backends.fly.machine_state import GONE, ended_well, has_ended, is_gone, why_ended
from dask_flame.backends.fly.machine_watch import MachineWatch
from dask_flame.backends.fly.metadata import (
    CLUSTER,
    COMPONENT,
    NAME,
)
from dask_flame.backends.fly.options import FlyOptions
from dask_flame.backends.fly.output import MachineOutput
from dask_flame.backends.fly.ownership import Ownership, inherited_runners
from dask_flame.backends.fly.refusals import beyond_limit, is_final, refusal
from dask_flame.backends.fly.removal import destroy
from dask_flame.backends.fly.reserve import Reserve
from dask_flame.backends.fly.runner import Runner
from dask_flame.backends.fly.scheduler_machine import SchedulerMachine
from dask_flame.backends.redact import scrub
from dask_flame.backends.runner_events import STOPPED, RunnerEvents
from dask_flame.backends.specs import Ended, RunnerSpec
from dask_flame.core.background_tasks import BackgroundTasks, cancel_all
from dask_flame.errors import BackendError, PoolError

logger = logging.getLogger("dask_flame")

#: Seconds beyond its grace after which a machine is destroyed by force.
_OVERDUE = 10.0
#: Seconds for which machines are listed after the answer to a creation was lost for good.
_LINGER = 60.0
_LEFT = "another process has become the driver"


class RunnerMachines:
    """Make, watch and end the machines of a cluster's runners.

    Parameters
    ----------
    connection : Connection
    site : Site
    ownership : Ownership
    events : RunnerEvents
    start_death_watch : callable
        Called before each machine is made.

    Attributes
    ----------
    runners : dict of str to Runner
        Those whose ends have not been reported.
    reserve : Reserve
    output : MachineOutput
    watch : MachineWatch
    scheduler : SchedulerMachine or None
        Told what lists say.
    lost_any : bool
        Whether the answer to a creation was lost for good, so that its machine may exist.
    why_stopped : str
        Why no runners are booted any more; empty if they are.
    """

    def __init__(
        self,
        connection: Connection,
        site: Site,
        ownership: Ownership,
        events: RunnerEvents,
        start_death_watch: Callable[[], None],
    ) -> None:
        self._api = api = connection.api
        self._site = site
        self._ownership = ownership
        self._events = events
        rate = api.pace.rate("create")
        self._news = CreationNews(events.trouble, rate=rate.per_second, burst=rate.burst)
        self._strays: set[str] = set()
        self._background = BackgroundTasks()
        self.runners: dict[str, Runner] = {}
        self._start_death_watch = start_death_watch
        self.output = MachineOutput(api)
        self.reserve = Reserve(
            api, site, lambda: self._news.waiting, lambda why: events.trouble("", why)
        )
        self.scheduler: SchedulerMachine | None = None
        self.lost_any = False
        self.why_stopped = ""
        self.watch: MachineWatch[Runner] = MachineWatch(
            api,
            site.identity.cluster,
            lambda: frozenset(r for r in self.runners.values() if r.settled),
            self._seen,
            self._need_list,
            factor=connection.factor,
        )

    def make(self, spec: RunnerSpec, options: FlyOptions) -> None:
        """Accept a runner, and begin to make its machine."""
        runner = self.runners[spec.name] = Runner(spec, options)
        runner.making = asyncio.create_task(self._make(runner))

    def take_over(
        self, found: Sequence[Machine], expected: Sequence[tuple[RunnerSpec, FlyOptions]]
    ) -> None:
        """Know the machines that earlier drivers have created as runners of this one.

        Parameters
        ----------
        found : sequence of Machine
            All machines of the cluster.
        expected : sequence of tuple
            A runner of each pool, and its options.
        """
        self._ownership.succeed(found)
        for runner in inherited_runners(found, expected):
            self.runners[runner.spec.name] = runner
            self.output.runs_in(runner.spec.name, runner.machine)

    async def list_names(self) -> set[str]:
        """Return the names of the runners that exist.

        Raises
        ------
        FlyError
        """
        if not self.runners:
            return set()
        # Those whose machines are yet to be created are not in the list.
        coming = {name for name, runner in self.runners.items() if not runner.settled}
        found = await self.watch.list_now()
        there = {metadata_of(one).get(NAME, "") for one in found if not is_gone(one)}
        # Neither are those whose end is about to be reported.
        going = {name for name, runner in self.runners.items() if runner.burying is not None}
        return (there | coming | going) & self.runners.keys()

    # Creation

    async def _make(self, runner: Runner) -> None:
        """Take a machine from the reserve, or create one; report a refusal as the runner's end."""
        name = runner.spec.name
        try:
            if self.why_stopped or self._ownership.left:
                raise BackendError(self.why_stopped or _LEFT)
            self._start_death_watch()
            body = machine_requests.runner(runner.spec, runner.options, self._site)
            if not await self.reserve.give(runner, body):
                await self._create(runner, body)
            self.output.runs_in(name, runner.machine)
            if not runner.ending:
                self._events.progress(name, "created")
            self.watch.wake()
        except FlyError as error:
            if error.unsure:
                self.lost_any = True
                self.watch.linger(_LINGER)
            self._refused(runner, error)
        except (BackendError, PoolError) as error:
            self._refused(runner, error)
        except Exception as error:
            logger.exception("the machine of %s could not be made", name)
            self._refused(runner, error)
        finally:
            self._news.left(name)

    async def _create(self, runner: Runner, body: CreateRequest) -> None:
        name = runner.spec.name
        same = {CLUSTER: self._site.identity.cluster, NAME: name}
        self._news.joined(name)
        made = await self._api.create(
            body,
            same,
            runner.creation,
            waits=lambda error: self._events.trouble(name, str(error)),
        )
        self._news.created(name)
        runner.machine = made["id"]
        runner.since = time.monotonic()

    def _refused(self, runner: Runner, error: Exception) -> None:
        said = scrub(refusal(error), runner.spec.secret_values)
        fly = error if isinstance(error, FlyError) else None
        if runner.machine:
            self.start(self._remove(runner.machine))
        self.over(
            runner.spec.name,
            f"was refused: {said}",
            no_capacity=fly is not None and fly.no_capacity,
            no_room=fly is not None and beyond_limit(fly),
            final=isinstance(error, PoolError) or (fly is not None and is_final(fly)),
        )

    # What lists say

    def _need_list(self) -> tuple[bool, bool]:
        """Return whether machines are about to start or end, and whether there are any."""
        runners = self.runners.values()
        active = any(not r.started or r.ending or r.burying for r in runners)
        starting = self.scheduler is not None and self.scheduler.starting
        kept = self.scheduler is not None or self.reserve.keeps
        return active or starting, bool(runners) or kept

    def _seen(self, machines: list[Machine], known: frozenset[Runner]) -> None:
        by_id = {found["id"]: found for found in machines}
        scheduler = by_id.get(self.scheduler.id) if self.scheduler is not None else None
        if self._ownership.look_for_successor(scheduler) or self._ownership.left:
            # Runners that another driver has booted are no strays.
            if self.scheduler is not None:
                self.scheduler.seen(by_id)
            return
        for found in machines:
            own = metadata_of(found)
            if metadata.STOPPED in own:
                self.stop(STOPPED)
            if not is_gone(found):
                self._look_for_strays(found, own)
        if self.scheduler is not None:
            self.scheduler.seen(by_id)
        for runner in known:
            if runner.gone.is_set() or runner.burying is not None:
                continue
            if (there := by_id.get(runner.machine)) is None:
                runner.burying = self.start(self._look_for(runner))
            else:
                self._judge(runner, there)

    def _judge(self, runner: Runner, found: Machine) -> None:
        """Act on the state of a runner's machine."""
        name = runner.spec.name
        if found.get("state") == "started" and not runner.started:
            runner.started = True
            self._events.trouble(name, "")
            if not runner.ending:
                self._events.progress(name, "started")
        if has_ended(found) or found.get("state") in GONE:
            runner.burying = self.start(self._bury(runner, found))
        elif runner.stuck and not runner.ending:
            why = (
                f"its machine was still {found.get('state')!r} after "
                f"boot_timeout={runner.spec.boot_timeout:g} s"
            )
            runner.burying = self.start(self._bury(runner, found, why))

    def _look_for_strays(self, found: Machine, own: Mapping[str, str]) -> None:
        """Destroy a machine of this cluster that nobody waits for."""
        id, name = found["id"], own.get(NAME, "")
        component = own.get(COMPONENT)
        if component == metadata.RESERVE:
            wanted = self.reserve.owns(id)
        elif component == metadata.SCHEDULER:
            wanted = True
        else:
            runner = self.runners.get(name)
            # While its answer has not come, the machine may be the one that is being created.
            wanted = runner is not None and runner.machine in ("", id)
            wanted = wanted or self.reserve.owns(id)
        # In a list that is behind, the mark of a later driver may be missing.
        wanted = wanted or not self._ownership.covers(own)
        if not wanted and id not in self._strays:
            self._strays.add(id)
            self.start(self._remove(id))

    async def _look_for(self, runner: Runner) -> None:
        """Ask for a machine that is missing in the list, which may be behind."""
        try:
            found: Machine | None = await self._api.get(runner.machine)
        except FlyError as error:
            if not error.gone:
                runner.burying = None  # not known: the next list leads here again
                return
            found = None
        if found is not None and found.get("state") not in GONE:
            runner.burying = None
            self._judge(runner, found)
            return
        await self._bury(runner, found)

    async def _bury(self, runner: Runner, found: Machine | None, why: str = "") -> None:
        """Report why a runner has ended, and remove its machine or give it to the reserve."""
        name = runner.spec.name
        try:
            if found is not None and found.get("state") in GONE and not why:
                # Its last event comes with its end.
                found = await self._last(runner.machine) or found
            if not why and found is not None and ended_well(found):
                back = self.reserve.takes(runner, found)
            else:
                back = False
            if not back and not self._ownership.left:
                await destroy(self._api, runner.machine)
            output = "" if runner.ending else await self.output.last_words(name)
        except FlyError as error:
            logger.debug("the machine of %s could not be removed: %s", name, error)
            runner.burying = None  # the next list leads here again
            return
        self.over(name, why or why_ended(found, ending=runner.ending), output)
        if back:
            self.start(self.reserve.take_back(runner))

    async def _last(self, id: str) -> Machine | None:
        try:
            return await self._api.get(id)
        except FlyError:
            return None

    def over(self, name: str, why: str, output: str = "", **flags: bool) -> None:
        runner = self.runners.pop(name, None)
        if runner is not None:
            runner.gone.set()
            self._events.ended(Ended(name=name, why=why, output=output, **flags))

    def stop(self, why: str) -> None:
        """Boot no more runners: someone else has stopped the cluster."""
        if not self.why_stopped:
            self.why_stopped = why
            # Its machines are strays from now on.
            self.start(self.reserve.close())
            self._events.stopped(why)

    # The end

    async def end(self, name: str, runner: Runner, grace: float) -> None:
        making = runner.making
        if making is not None and not making.done():
            if runner.machine or not runner.creation.may_exist:
                making.cancel()
            await asyncio.wait([making])
        if runner.gone.is_set():
            return
        left = self._ownership.left
        if not runner.machine or left:
            self.over(name, _LEFT if left else "it was not needed any more")
            return
        if grace and runner.started and await self._ends_by_itself(runner, grace):
            return
        await destroy(self._api, runner.machine)
        found = await self._last(runner.machine)
        self.over(name, why_ended(found, ending=True))

    async def _ends_by_itself(self, runner: Runner, grace: float) -> bool:
        """Ask a machine to end; return whether it does so in time."""
        try:
            await self._api.stop(runner.machine, signal="SIGTERM", timeout=grace)
        except FlyError as error:
            if not (error.gone or error.conflict):
                raise
        self.watch.wake()
        try:
            await asyncio.wait_for(runner.gone.wait(), grace + _OVERDUE)
        except TimeoutError:
            logger.warning("machine %s does not end, and is destroyed", runner.machine)
            return False
        return True

    async def _remove(self, id: str) -> None:
        if self._ownership.left:
            return
        try:
            await destroy(self._api, id)
        except FlyError as error:
            logger.debug("machine %s could not be destroyed: %s", id, error)
            self._strays.discard(id)

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return self._background.start(work)

    async def close_making(self) -> bool:
        """Cancel the making of machines; return whether one may have been made all the same."""
        await cancel_all(runner.making for runner in self.runners.values())
        return any(r.creation.may_exist and not r.machine for r in self.runners.values())

    async def close(self) -> None:
        """End all that is done in the background, and report the runners that are left as ended."""
        await self.watch.close()
        await cancel_all(self._background)
        for name in list(self.runners):
            self.over(name, "the cluster was closed")
