"""The jobs of runners, from their requests to their ends (driver)."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import defaultdict
from collections.abc import Collection, Sequence

from dask_flame.backends.redact import scrub
from dask_flame.backends.runner_events import STOPPED, RunnerEvents
from dask_flame.backends.slurm import commands, script
from dask_flame.backends.slurm.commands import SlurmError, SlurmLate
from dask_flame.backends.slurm.endings import end_jobs
from dask_flame.backends.slurm.folder import ClusterFolder
from dask_flame.backends.slurm.identity import Identity
from dask_flame.backends.slurm.job_states import (
    CANCELLED,
    FORMAT,
    Job,
    not_shared,
    parse,
    why_ended,
)
from dask_flame.backends.slurm.options import SlurmOptions
from dask_flame.backends.slurm.refusals import is_final, no_room, refusal
from dask_flame.backends.slurm.runner import Runner, launch_file
from dask_flame.backends.specs import Ended, RunnerSpec
from dask_flame.core.background_tasks import BackgroundTasks, cancel_all

logger = logging.getLogger("dask_flame")

#: Seconds between two looks while runners are being ended, and the factor while all only run.
_ENDING, _QUIET = 0.5, 5.0
#: Seconds between two signs of life in the folder.
_ALIVE = 60.0
#: Runners that have ended whose output is kept without its file.
_KEPT = 200
_NOT_NEEDED = "it was not needed any more"


class RunnerJobs:
    """Submit, watch and end the jobs of a cluster's runners.

    Parameters
    ----------
    identity : Identity
    folder : ClusterFolder
    events : RunnerEvents
    poll : float
        Seconds between two lists while jobs wait or start.
    drain : float
        Seconds before its time limit at which a runner is told to end.

    Attributes
    ----------
    runners : dict of str to Runner
        Those whose ends have not been reported.
    why_stopped : str
        Why no runners are booted any more; empty if they are.
    """

    def __init__(
        self,
        identity: Identity,
        folder: ClusterFolder,
        events: RunnerEvents,
        *,
        poll: float,
        drain: float,
    ) -> None:
        self._identity = identity
        self._folder = folder
        self._events = events
        self._poll = poll
        self._drain = drain
        self._waves = 0
        self._submitting = 0
        self._arrays: set[str] = set()  # of all waves
        self._last_output: dict[str, str] = {}  # of runners that have ended, without the files
        self._places: dict[str, tuple[int, int]] = {}  # of all runners, for their output
        self._woken = asyncio.Event()
        self._tasks = BackgroundTasks()
        self._watching: asyncio.Task[None] | None = None
        self.runners: dict[str, Runner] = {}
        self.why_stopped = ""

    @property
    def submitted(self) -> bool:
        """Whether any jobs were submitted."""
        return self._waves > 0

    # Submission

    def make(self, wanted: Sequence[tuple[RunnerSpec, SlurmOptions]]) -> None:
        """Accept runners, and begin to submit their jobs: an array for each kind of runner."""
        groups: dict[tuple[object, ...], list[Runner]] = defaultdict(list)
        for spec, options in wanted:
            runner = self.runners[spec.name] = Runner(spec, options)
            groups[script.group_key(spec, options)].append(runner)
        for runners in groups.values():
            self._waves += 1
            for task, runner in enumerate(runners):
                runner.wave, runner.task = self._waves, task
                self._places[runner.spec.name] = (runner.wave, task)
            work = asyncio.create_task(self._submit(runners, self._waves))
            for runner in runners:
                runner.submitting = work
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch())

    async def _submit(self, runners: Sequence[Runner], wave: int) -> None:
        first = runners[0]
        self._submitting += 1
        try:
            if self.why_stopped:
                raise SlurmError(self.why_stopped)
            specs = [runner.spec for runner in runners]
            about = {
                "pool": first.spec.pool,
                "kind": first.spec.kind,
                "gpus": first.spec.gpus,
                "names": [spec.name for spec in specs],
            }
            self._folder.add_wave(wave, about, [launch_file(spec) for spec in specs])
            text = self.script(specs, first.options, wave)
            hidden = {value for spec in specs for value in spec.secret_values}
            array = await commands.submit(text, hidden=hidden)
        except (SlurmError, OSError) as error:
            self._refused(runners, error)
        except Exception as error:
            logger.exception("the jobs of %s could not be submitted", first.spec.name)
            self._refused(runners, error)
        else:
            self._arrays.add(array)
            for runner in runners:
                runner.array = array
                if not runner.ending:
                    self._events.queued(runner.spec.name)
                    self._events.progress(runner.spec.name, "queued")
            self._woken.set()
        finally:
            self._submitting -= 1

    def script(self, specs: Sequence[RunnerSpec], options: SlurmOptions, wave: int = 0) -> str:
        """Return the script for a wave of runners."""
        return script.script(
            specs,
            options,
            self._identity,
            self._folder.path,
            wave=wave or self._waves + 1,
            drain=self._drain,
        )

    def _refused(self, runners: Sequence[Runner], error: Exception) -> None:
        said = str(error)
        late = isinstance(error, SlurmLate)  # it may have been submitted: see `_cancel_strays`
        for runner in runners:
            why = scrub(refusal(said), runner.spec.secret_values)
            self.over(
                runner,
                f"was refused: {why}",
                no_room=no_room(said),
                final=not late and isinstance(error, SlurmError) and is_final(said),
            )

    # Lists

    async def list_jobs(self) -> list[Job]:
        """Return all jobs of this cluster that Slurm still knows.

        Raises
        ------
        SlurmError
        """
        name = self._identity.job_name
        who = (f"--user={os.getuid()}", f"--name={name}", "--states=all", "--array", "--noheader")
        return parse(await commands.run("squeue", *who, f"--Format={FORMAT}"))

    async def list_names(self) -> set[str]:
        """Return the names of the runners that exist.

        Raises
        ------
        SlurmError
        """
        if not self.runners:
            return set()
        known = self._submitted_now()
        self._seen(await self.list_jobs(), known)
        return set(self.runners)

    def _submitted_now(self) -> frozenset[Runner]:
        """Return the runners that a list which begins now includes, unless they have ended."""
        return frozenset(runner for runner in self.runners.values() if runner.array)

    async def _watch(self) -> None:
        """List the jobs again and again, while there are any."""
        alive = time.monotonic()
        while True:
            self._woken.clear()
            if self._folder.stopped:
                self.stop(STOPPED)
            if time.monotonic() > alive + _ALIVE:
                alive = time.monotonic()
                try:
                    self._folder.touch()
                except OSError as error:
                    logger.debug("no sign of life could be written: %s", error)
            if known := self._submitted_now():
                try:
                    self._seen(await self.list_jobs(), known)
                except SlurmError as error:
                    logger.debug("the jobs cannot be listed: %s", error)
                except Exception:
                    logger.exception("what Slurm says of the jobs was not understood")
            await self._pause()

    async def _pause(self) -> None:
        runners = self.runners.values()
        await asyncio.sleep(min(_ENDING, self._poll))
        if any(runner.ending for runner in runners):
            return
        starting = any(not runner.started for runner in runners)
        pause = self._poll if starting else self._poll * _QUIET
        try:
            async with asyncio.timeout(max(0.0, pause - _ENDING)):
                await self._woken.wait()
        except TimeoutError:
            pass

    def _seen(self, jobs: Sequence[Job], known: Collection[Runner]) -> None:
        by_target = {(job.wave, job.task): job for job in jobs}
        self._cancel_strays(jobs)
        for runner in known:
            if runner.gone.is_set():
                continue
            job = by_target.get((runner.array, str(runner.task)))
            if job is not None:
                self._judge(runner, job)
            elif runner.started:
                self._tasks.start(self._bury_missing(runner))
            else:
                # Of jobs that are cancelled in the queue, an array keeps no record.
                self.over(runner, _NOT_NEEDED if runner.ending else CANCELLED)

    def _judge(self, runner: Runner, job: Job) -> None:
        """Act on the state of a runner's job."""
        name = runner.spec.name
        runner.job = job
        if job.over:
            self._bury(runner, job)
        elif job.pending:
            self._judge_waiting(runner, job)
        elif not runner.started:
            runner.started = True
            if runner.waits:
                self._events.trouble(name, "")
            if not runner.ending:
                self._events.started(name)
                self._events.progress(name, "started")

    def _judge_waiting(self, runner: Runner, job: Job) -> None:
        name, spec = runner.spec.name, runner.spec
        if runner.ending:
            return
        if why := job.hopeless:
            self._tasks.start(self._give_up(runner, why, final=True))
            return
        # The last kind keeps its place in the queue: to go on to the next one, and from the last to
        # the first, would be to queue up again and again where all queues are long.
        if job.lacks_capacity and spec.capacity_wait is not None and not spec.last_kind:
            runner.lacking = runner.lacking or time.monotonic()
            if time.monotonic() >= runner.lacking + spec.capacity_wait:
                why = f"{job.waits_for}; relevant settings: partition, gpus, gpu_kind, cpus, memory"
                self._tasks.start(self._give_up(runner, why, no_capacity=True))
                return
        elif not job.lacks_capacity:
            runner.lacking = 0.0
        if job.waits_for and job.waits_for != runner.waits:
            runner.waits = job.waits_for
            self._events.trouble(name, job.waits_for)

    async def _give_up(
        self, runner: Runner, why: str, *, final: bool = False, no_capacity: bool = False
    ) -> None:
        runner.ending = True
        try:
            await commands.cancel([runner.target])
        except SlurmError as error:
            logger.debug("job %s could not be cancelled: %s", runner.target, error)
            runner.ending = False  # the next list leads here again
            return
        self.over(runner, why, final=final, no_capacity=no_capacity)

    def _bury(self, runner: Runner, job: Job) -> None:
        """Report why a runner has ended."""
        output = self.output(runner.spec.name)
        why = why_ended(
            job,
            ending=runner.ending,
            limit=script.limit(runner.options),
            memory=script.memory(runner.spec),
            output=output,
            folder=self._folder.path,
        )
        advice = output.rpartition("relevant settings: ")[2].strip() if why != "exit code 0" else ""
        if advice == "interface":
            why = f"{why}: {output.strip().splitlines()[-1]}"
        not_there = why == not_shared(self._folder.path, job.node)
        self.over(runner, why, output=output, final=not_there and not runner.ending)

    async def _bury_missing(self, runner: Runner) -> None:
        """Report the end of a runner whose job Slurm no longer lists."""
        said = ""
        try:
            fields = ("--noheader", "--parsable2", "--allocations", "--format=State,ExitCode")
            said = await commands.run("sacct", *fields, f"--jobs={runner.target}")
        except SlurmError as error:
            logger.debug("sacct does not answer: %s", error)  # as where there is no accounting
        state, _, code = said.strip().partition("|")
        why = f"its job is over: {state}, exit code {code}" if state else "its job is gone"
        self.over(runner, why, output=self.output(runner.spec.name))

    def _cancel_strays(self, jobs: Sequence[Job]) -> None:
        """Cancel jobs of this cluster that nobody waits for: a submission had no answer in time."""
        if self._submitting:
            return
        strays = {job.wave for job in jobs if not job.over} - self._arrays
        if strays:
            self._tasks.start(self._cancel(sorted(strays)))

    async def _cancel(self, jobs: Sequence[str]) -> None:
        try:
            await commands.cancel(jobs)
        except SlurmError as error:
            logger.debug("jobs %s could not be cancelled: %s", jobs, error)

    def over(
        self,
        runner: Runner,
        why: str,
        *,
        output: str = "",
        no_room: bool = False,
        final: bool = False,
        no_capacity: bool = False,
    ) -> None:
        """Report the end of a runner, once."""
        name = runner.spec.name
        if self.runners.get(name) is not runner:
            return
        del self.runners[name]
        self._last_output[name] = output
        if len(self._last_output) > _KEPT:
            del self._last_output[next(iter(self._last_output))]
        self._folder.forget(runner.wave, runner.task)
        runner.gone.set()
        self._events.ended(
            Ended(
                name=name,
                why=why,
                output=output,
                no_room=no_room,
                final=final,
                no_capacity=no_capacity,
            )
        )

    def stop(self, why: str) -> None:
        """Boot no more runners: someone else has stopped the cluster."""
        if not self.why_stopped:
            self.why_stopped = why
            self._events.stopped(why)

    def output(self, name: str) -> str:
        """Return the end of the output of a runner; empty if none is known."""
        if (place := self._places.get(name)) is None:
            return ""
        return self._folder.output(*place) or self._last_output.get(name, "")

    # The end

    async def end(self, names: Collection[str], grace: float) -> None:
        """End runners; return when their ends were reported.

        Raises
        ------
        SlurmError
        """
        there = [runner for name in names if (runner := self.runners.get(name)) is not None]
        for runner in there:
            runner.ending = True
        submitting = {r.submitting for r in there if r.submitting is not None}
        if submitting:
            await asyncio.wait(submitting)
        there = [runner for runner in there if not runner.gone.is_set()]
        if not there:
            return
        self._woken.set()
        await end_jobs(there, grace)

    async def close(self) -> None:
        """End all that is done in the background, and report the runners that are left as ended."""
        await cancel_all([*self._tasks, self._watching])
        for runner in list(self.runners.values()):
            self.over(runner, "the cluster was closed")
