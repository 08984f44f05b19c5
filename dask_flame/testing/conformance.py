"""Tests that every backend must pass.

To run them, define a class and a fixture::

    class TestLocal(BackendConformance):
        @pytest.fixture
        def factory(self):
            return LocalBackend

See :class:`BackendConformance` for the further fixtures.

Runners register with a plain :class:`distributed.Scheduler` that the tests start, so that they test
the backend and the runner, without a cluster.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import secrets
import select
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import dask.config
import psutil
import pytest
import pytest_asyncio
from distributed import Client, Scheduler

from dask_flame.backends.base import Backend
from dask_flame.backends.specs import BackendContext, Ended, RunnerSpec
from dask_flame.core.backend_options import BackendOptions
from dask_flame.errors import BackendError
from dask_flame.history.boots import is_step
from dask_flame.testing.leaks import marked_processes
from dask_flame.testing.written_files import WrittenFiles

_WITHIN = 60.0
#: The variable of a runner, and of a driver that is killed, by whose value its processes are found.
MARK = "DASK_FLAME_CONFORMANCE"
Factory = Callable[[BackendContext], Backend]


@dataclass
class Said:
    """All reports of a backend."""

    ended: list[Ended] = field(default_factory=list)
    steps: list[tuple[str, str]] = field(default_factory=list)
    late: list[tuple[str, str]] = field(default_factory=list)
    troubles: list[tuple[str, str]] = field(default_factory=list)
    queues: list[tuple[str, bool]] = field(default_factory=list)

    @property
    def context(self) -> BackendContext:
        """A context that records the reports of a backend here."""
        return BackendContext(
            cluster="conformance",
            ended=self.ended.append,
            progress=self._progress,
            trouble=self._trouble,
            queued=self._queued,
        )

    def _trouble(self, name: str, why: str) -> None:
        self.troubles.append((name, why))
        if why and name in {e.name for e in self.ended}:
            self.late.append((name, why))

    def _queued(self, name: str, waits: bool) -> None:
        self.queues.append((name, waits))
        if name in {e.name for e in self.ended}:
            self.late.append((name, "queued" if waits else "started"))

    def _progress(self, name: str, step: str) -> None:
        self.steps.append((name, step))
        if name in {e.name for e in self.ended}:
            self.late.append((name, step))


@dataclass
class Stage:
    """A scheduler, a started backend, and all reports of the backend."""

    scheduler: Scheduler
    backend: Backend
    said: Said = field(default_factory=Said)

    @property
    def ended(self) -> list[Ended]:
        """The runners that the backend has reported as ended."""
        return self.said.ended

    def spec(self, name: str, **more: Any) -> RunnerSpec:
        """Return the description of a runner of this name, for this scheduler."""
        base: dict[str, Any] = {
            "name": name,
            "scheduler": self.scheduler.address,
            "concurrency": 1,
            "boot_timeout": _WITHIN,
        }
        return RunnerSpec(**{**base, **more})

    async def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait for a condition; fail after a timeout."""
        deadline = time.monotonic() + _WITHIN
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"not within {_WITHIN:g} s: {what}; ended: {self.ended}")
            await asyncio.sleep(0.02)

    async def registered(self, *names: str) -> None:
        """Wait until these runners have registered."""
        await self.until(lambda: set(names) <= set(self.scheduler.aliases), f"{names} registered")

    async def gone(self, *names: str) -> None:
        """Wait until these runners have been reported as ended; fail if one is reported twice."""
        await self.until(lambda: set(names) <= {e.name for e in self.ended}, f"{names} ended")
        counts = Counter(e.name for e in self.ended)
        assert all(counts[name] == 1 for name in names), counts


@contextlib.asynccontextmanager
async def staged(factory: Factory) -> AsyncIterator[Stage]:
    """Start a backend and a scheduler; at the end, close them and check the reports."""
    said = Said()
    backend = factory(said.context)
    blank = RunnerSpec(name="", scheduler="", concurrency=1, boot_timeout=_WITHIN)
    backend.expect([blank])
    try:
        await backend.start()
        where = {"port": 0, **backend.listening}
        async with Scheduler(**where, dashboard_address=":0") as scheduler:
            yield Stage(scheduler, backend, said)
            await backend.close()
    finally:
        await backend.close()
    assert await backend.list() == set()
    assert max(Counter(e.name for e in said.ended).values(), default=1) == 1, said.ended
    assert said.late == [], "reported after the runner's end"


class BackendConformance:
    """Tests of the statements about the methods of :class:`dask_flame.backends.Backend`.

    A subclass whose name begins with ``Test`` has a fixture ``factory``, which returns the class of
    the backend, or a function that makes one of a :class:`dask_flame.backends.BackendContext`.
    Tests that need one of these further fixtures are skipped without it:

    ``outage``
        A function that takes the backend and returns an asynchronous context manager, inside which
        the substrate is unreachable.
    ``driver``
        Where a new process finds the factory, as ``"module:NAME"``. The process has Dask's
        configuration and the environment of the test, boots runners, and is killed.
    ``processes_here``
        True if runners are processes of this machine that this user can see. By default, they are
        if :attr:`dask_flame.backends.Backend.remote` is false.

    Set what the backend needs in Dask's configuration, by a fixture with ``autouse=True``. The
    tests take one to three minutes. They need pytest, pytest-asyncio and pytest-timeout.

    Notes
    -----
    Not tested are objects of the substrate other than runners, and files that other processes than
    the driver have written: look for them at the end of ``factory``, behind its ``yield``.

    Examples
    --------
    >>> import pytest
    >>> from dask_flame.backends.local import LocalBackend
    >>> class TestLocal(BackendConformance):
    ...     @pytest.fixture
    ...     def factory(self):
    ...         return LocalBackend
    ...
    ...     @pytest.fixture
    ...     def driver(self):
    ...         return "dask_flame.backends.local:LocalBackend"
    """

    @pytest.fixture
    def outage(self) -> Any:
        pytest.skip(
            "nothing makes its substrate unreachable; a backend that has one needs a fixture "
            "`outage`, see docs/backends.md"
        )

    @pytest.fixture
    def driver(self) -> str | None:
        return None

    @pytest.fixture
    def processes_here(self, factory: Factory) -> bool:
        return not getattr(factory, "remote", False)

    @pytest_asyncio.fixture
    async def stage(self, factory: Factory) -> AsyncIterator[Stage]:
        async with staged(factory) as stage:
            yield stage

    # Before start

    @pytest.mark.asyncio
    async def test_before_its_start_there_is_nothing(self, factory: Factory) -> None:
        said = Said()
        backend = factory(said.context)
        assert await backend.list() == set()
        assert dict(await backend.logs(["never was"])) == {}
        await backend.end(["never was"], grace=5)
        await backend.close()
        assert said.ended == []

    @pytest.mark.asyncio
    async def test_one_that_was_closed_does_not_start(self, factory: Factory) -> None:
        backend = factory(Said().context)
        await backend.close()
        with pytest.raises(BackendError):
            await backend.start()
        await backend.close()
        assert await backend.list() == set()

    @pytest.mark.asyncio
    async def test_closing_while_it_starts(self, factory: Factory) -> None:
        backend = factory(Said().context)
        starting = asyncio.ensure_future(backend.start())
        await asyncio.sleep(0)
        await backend.close()
        with contextlib.suppress(BackendError):  # its start may already have finished
            await starting
        await backend.close()
        assert await backend.list() == set()

    def test_its_options_are_a_class_of_their_own(self, factory: Factory) -> None:
        options = getattr(factory, "Options", BackendOptions)
        assert options().given == {}
        for name, known in options.declared().items():
            # The example in an error must be valid.
            value = eval(known.example, {})
            assert options(**{name: value}).given.keys() == {name}
            if known.preference:
                # So must be a list, and the words for certain orders.
                items = list(value) if isinstance(value, list | tuple) else [value]
                checked = options(**{name: items}).given[name]
                assert len(checked) == len(items)
                for word, order in known.orders.items():
                    assert options(**{name: word}).given[name] == word
                    assert options(**{name: list(order)}).given[name] == order
                assert known.order(options(**{name: value}).given[name]) == checked

    # Boot

    @pytest.mark.asyncio
    async def test_runners_boot_register_and_end(self, stage: Stage) -> None:
        names = {"one", "two", "three"}
        stage.backend.expect([stage.spec("", scheduler="", concurrency=2)])
        await stage.backend.boot([stage.spec(name) for name in names])
        assert await stage.backend.list() == names
        await stage.registered(*names)
        await stage.backend.end(["one", "two"], grace=10)
        assert await stage.backend.list() == {"three"}
        await stage.gone("one", "two")
        await stage.until(lambda: set(stage.scheduler.aliases) == {"three"}, "workers gone")

    @pytest.mark.asyncio
    async def test_a_runner_for_which_there_is_capacity_takes_its_time(self, stage: Stage) -> None:
        # The wait is for a substrate that has none of this kind, not for the whole boot.
        await stage.backend.boot([stage.spec("one", kind="A100, spot", capacity_wait=0.01)])
        await stage.registered("one")
        assert stage.ended == []
        assert await stage.backend.list() == {"one"}

    @pytest.mark.asyncio
    async def test_what_is_said_of_a_boot_is_said_once_and_of_runners_there_are(
        self, stage: Stage
    ) -> None:
        # Reports are optional, but must be about these runners, and not come after their end.
        said = stage.said
        assert said.steps == []
        await stage.backend.boot([stage.spec("one"), stage.spec("two")])
        await stage.registered("one", "two")
        await stage.backend.boot([stage.spec("broken", preload=["no_such_module_here"])])
        await stage.gone("broken")
        await stage.backend.end(["one", "two"], grace=10)
        await stage.gone("one", "two")
        assert {name for name, _ in said.steps} <= {"one", "two", "broken"}
        assert all(is_step(step) for _, step in said.steps), said.steps
        assert max(Counter(said.steps).values(), default=1) == 1
        assert said.late == []
        assert {name for name, _ in said.troubles} <= {"", "one", "two", "broken"}
        assert {name for name, _ in said.queues} <= {"one", "two", "broken"}
        turns = {name for name, waits in said.queues if not waits}
        assert all(said.queues.index((n, True)) < said.queues.index((n, False)) for n in turns)

    @pytest.mark.asyncio
    async def test_boot_does_not_wait_for_the_runner(self, stage: Stage) -> None:
        # Nothing listens there, so a boot that waits for the registration would never return.
        nowhere = stage.spec("lost", scheduler="tcp://127.0.0.1:1")
        await asyncio.wait_for(stage.backend.boot([nowhere]), _WITHIN)
        assert await stage.backend.list() == {"lost"}
        await stage.backend.end(["lost"])
        # `ended` must be called before `end` returns.
        assert [e.name for e in stage.ended] == ["lost"]

    @pytest.mark.asyncio
    async def test_a_boot_of_no_runners(self, stage: Stage) -> None:
        await stage.backend.boot([])
        assert await stage.backend.list() == set()

    @pytest.mark.asyncio
    async def test_a_name_that_lives_is_refused_with_all_of_its_wave(self, stage: Stage) -> None:
        await stage.backend.boot([stage.spec("one")])
        await stage.registered("one")
        for names in (["two", "one"], ["two", "two"]):
            with pytest.raises(BackendError):
                await stage.backend.boot([stage.spec(name) for name in names])
        assert await stage.backend.list() == {"one"}
        assert stage.ended == []
        assert set(stage.scheduler.aliases) == {"one"}

    @pytest.mark.asyncio
    async def test_a_boot_after_the_end_starts_nothing(self, stage: Stage) -> None:
        await stage.backend.close()
        try:
            await stage.backend.boot([stage.spec("late")])
        except BackendError:
            assert stage.ended == []
        else:
            await stage.gone("late")
        assert await stage.backend.list() == set()

    @pytest.mark.asyncio
    async def test_a_cancelled_boot_leaves_nothing_that_cannot_be_ended(self, stage: Stage) -> None:
        task = asyncio.ensure_future(stage.backend.boot([stage.spec("one")]))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await stage.backend.end(["one"])
        assert await stage.backend.list() == set()

    # End

    @pytest.mark.asyncio
    async def test_ending_is_idempotent(self, stage: Stage) -> None:
        await stage.backend.boot([stage.spec("one")])
        await stage.registered("one")
        end = stage.backend.end
        await asyncio.gather(end(["one", "never was"], grace=10), end(["one"]), end(["one"]))
        assert [e.name for e in stage.ended] == ["one"]
        await end(["one"])
        await end([])
        assert [e.name for e in stage.ended] == ["one"]

    @pytest.mark.asyncio
    async def test_a_runner_ends_by_itself_in_its_grace_even_after_a_fork_of_the_driver(
        self, stage: Stage
    ) -> None:
        await stage.backend.boot([stage.spec("one")])
        await stage.registered("one")
        assert not (raised := in_a_fork(stage.backend.forked)), raised
        async with Client(stage.scheduler.address, asynchronous=True) as client:
            word = client.submit(atexit.register, print, "a last word", flush=True, pure=False)
            await asyncio.wait_for(word, _WITHIN)
        assert stage.ended == []
        await stage.backend.end(["one"], grace=_WITHIN)
        logs = await stage.backend.logs(["one"])
        # One that is ended by force does not get to say it.
        assert "a last word" in "".join([*(e.output for e in stage.ended), *logs.values()])

    @pytest.mark.asyncio
    async def test_a_shorter_grace_holds(self, stage: Stage) -> None:
        # Neither it nor its grace ends it while the test waits.
        await stage.backend.boot([stage.spec("one", shutdown_timeout=6 * _WITHIN)])
        await stage.registered("one")
        async with Client(stage.scheduler.address, asynchronous=True) as client:
            # At exit, the runner would sleep for longer than the test waits.
            await client.submit(atexit.register, time.sleep, 3 * _WITHIN, pure=False)
            patient = asyncio.ensure_future(stage.backend.end(["one"], grace=3 * _WITHIN))
            await stage.until(lambda: not stage.scheduler.aliases, "its worker has closed")
        await asyncio.wait_for(stage.backend.end(["one"]), _WITHIN)
        await asyncio.wait_for(patient, _WITHIN)

    @pytest.mark.asyncio
    async def test_ending_while_booting(self, stage: Stage) -> None:
        for delay in (0.0, 0.05, 0.2, 0.4):
            name = f"boot-{int(delay * 1000)}"
            await stage.backend.boot([stage.spec(name)])
            await asyncio.sleep(delay)  # at different points of the boot
            await stage.backend.end([name], grace=5)
            await stage.gone(name)

    @pytest.mark.asyncio
    async def test_a_runner_that_cannot_start_says_why(self, stage: Stage) -> None:
        await stage.backend.boot([stage.spec("broken", preload=["no_such_module_here"])])
        await stage.gone("broken")
        (ended,) = stage.ended
        assert "1" in ended.why
        assert "no_such_module_here" in ended.output

    @pytest.mark.asyncio
    async def test_a_runner_that_dies_is_reported(self, stage: Stage) -> None:
        await stage.backend.boot([stage.spec("one"), stage.spec("two")])
        await stage.registered("one", "two")
        async with Client(stage.scheduler.address, asynchronous=True) as client:
            client.submit(os._exit, 7, workers=["one"], pure=False, retries=0)
            await stage.gone("one")
        assert "7" in stage.ended[0].why
        assert await stage.backend.list() == {"two"}

    @pytest.mark.asyncio
    async def test_a_runner_gets_its_environment_and_its_slots(self, stage: Stage) -> None:
        spec = stage.spec("one", env={"FLAME_TEST": "a=b c"}, concurrency=3, cpus=6)
        await stage.backend.boot([spec])
        await stage.registered("one")
        async with Client(stage.scheduler.address, asynchronous=True) as client:
            seen = await client.submit(lambda: dict(os.environ), pure=False)
        assert seen["FLAME_TEST"] == "a=b c"
        assert seen["OMP_NUM_THREADS"] == "2"
        assert next(iter(stage.scheduler.workers.values())).nthreads == 3

    @pytest.mark.asyncio
    async def test_what_a_runner_prints_is_kept(self, stage: Stage) -> None:
        await stage.backend.boot([stage.spec("one")])
        await stage.registered("one")
        async with Client(stage.scheduler.address, asynchronous=True) as client:
            await client.submit(lambda: print("hello from a runner", flush=True), pure=False)
        text: dict[str, str] = {}
        for _ in range(200):
            text = dict(await stage.backend.logs(["one", "never was"]))
            if "hello" in text.get("one", ""):
                break
            await asyncio.sleep(0.02)
        assert "hello from a runner" in text["one"]
        assert "never was" not in text
        await stage.backend.end(["one"], grace=10)
        # The output is still known.
        assert "hello from a runner" in (await stage.backend.logs(["one"]))["one"]
        await stage.backend.close()
        assert "hello from a runner" in (await stage.backend.logs(["one"]))["one"]

    @pytest.mark.asyncio
    async def test_no_answer_is_not_taken_for_none(self, stage: Stage, outage: Any) -> None:
        await stage.backend.boot([stage.spec("one")])
        await stage.registered("one")
        async with outage(stage.backend):
            with pytest.raises(BackendError):
                await stage.backend.list()
            await stage.backend.logs(["one"])
            with pytest.raises(BackendError):
                await stage.backend.end(["one"])
            refused = False
            try:
                await stage.backend.boot([stage.spec("two")])
            except BackendError:
                refused = True
        assert {e.name for e in stage.ended} <= {"two"}
        assert await stage.backend.list() - {"two"} == {"one"}
        await stage.backend.end(["one", "two"])
        await stage.gone("one", *(() if refused else ("two",)))
        if refused:
            assert "two" not in {e.name for e in stage.ended}, "boot raised, and it ended as well"
        await stage.until(lambda: not stage.scheduler.aliases, "its worker is gone")

    @pytest.mark.asyncio
    async def test_closing_without_an_answer_does_not_raise(
        self, stage: Stage, outage: Any
    ) -> None:
        await stage.backend.boot([stage.spec("one")])
        async with outage(stage.backend):
            await stage.backend.close()
        await stage.gone("one")

    @pytest.mark.asyncio
    async def test_a_runner_ends_when_its_scheduler_is_gone_busy_or_not(self, stage: Stage) -> None:
        await stage.backend.boot([stage.spec("busy"), stage.spec("idle")])
        await stage.registered("busy", "idle")
        async with Client(stage.scheduler.address, asynchronous=True) as client:
            future = client.submit(time.sleep, 600, workers=["busy"], pure=False)
            await stage.until(
                lambda: any(ws.processing for ws in stage.scheduler.workers.values()), "it runs"
            )
            del future
            await stage.scheduler.close()
        await stage.gone("busy", "idle")

    @pytest.mark.asyncio
    async def test_closing_ends_all_at_any_moment_and_more_than_once(
        self, stage: Stage, processes_here: bool
    ) -> None:
        token = secrets.token_hex(16)
        more = {"env": {MARK: token}, "config": {"flame-conformance": {"canary": token}}}
        with WrittenFiles() as written:
            await stage.backend.boot([stage.spec("early", **more)])
            await stage.registered("early")
            async with Client(stage.scheduler.address, asynchronous=True) as client:
                apart = not stage.backend.remote
                await client.submit(start_a_process, token, apart=apart, pure=False)
            assert not processes_here or marked_processes(token, variable=MARK)
            await stage.backend.boot([stage.spec("late", **more)])
            await asyncio.gather(stage.backend.close(), stage.backend.close())
            await stage.gone("early", "late")
            assert await stage.backend.list() == set()
            # It has not only said so.
            await stage.until(lambda: not stage.scheduler.aliases, "workers gone")
            if processes_here:
                await stage.until(
                    lambda: not marked_processes(token, variable=MARK),
                    "its processes, and what they have started, have ended",
                )
            await stage.backend.close()
            await stage.backend.end(["early"])
        await stage.until(
            lambda: not written.with_text(token),
            "files with configurations, which hold private keys, are removed; there are "
            f"{written.with_text(token)}",
        )

    @pytest.mark.asyncio
    async def test_nothing_is_left_of_a_driver_that_is_killed(
        self, driver: str | None, processes_here: bool, factory: Factory, tmp_path: Path
    ) -> None:
        if driver is None:
            pytest.skip(
                "no driver is killed; add a fixture `driver` that returns the place of the backend "
                'as "module:NAME"'
            )
        if not processes_here:
            pytest.skip("its processes are not on this machine; see the fixture `processes_here`")
        token = f"killed-{secrets.token_hex(8)}"
        output = tmp_path / "driver.txt"
        with _driver(driver, token, output) as process:
            await _until(
                lambda: "\nready\n" in output.read_text() or process.poll() is not None,
                f"the driver {driver} has runners",
            )
            assert process.poll() is None, output.read_text()
            assert len(marked_processes(token, variable=MARK)) >= 3
            process.kill()
            process.wait()
            await _until(
                lambda: not marked_processes(token, variable=MARK),
                "runners, and all that they have started, ended with their driver",
            )
        written = WrittenFiles.of_report(output.read_text())
        await _until(
            lambda: not written.with_text(token),
            "files with configurations of runners, which hold private keys, are removed",
        )

    @pytest.mark.asyncio
    @pytest.mark.parametrize("grace", [10, 0])
    async def test_a_runner_ends_with_what_its_calls_have_started(
        self, stage: Stage, processes_here: bool, grace: float
    ) -> None:
        if not processes_here:
            pytest.skip("its processes are not on this machine; see the fixture `processes_here`")
        token = secrets.token_hex(16)
        await stage.backend.boot([stage.spec("one")])
        await stage.registered("one")
        async with Client(stage.scheduler.address, asynchronous=True) as client:
            await client.submit(start_a_process, token, apart=True, pure=False)
        assert _runs(token)
        await stage.backend.end(["one"], grace=grace)
        await stage.until(lambda: not _runs(token), "the process that it started has ended")

    @pytest.mark.asyncio
    async def test_a_secret_reaches_the_runner_and_is_shown_nowhere(
        self, stage: Stage, caplog: pytest.LogCaptureFixture
    ) -> None:
        value = f"s3cret-{secrets.token_hex(8)}"
        spec = stage.spec("one", env={"FLAME_A": "1", "FLAME_B": "2"}, secrets={"FLAME_B": value})
        with caplog.at_level(logging.DEBUG):
            stage.backend.expect([replace(spec, name="", scheduler="")])
            manifest: Sequence[Any] = ()
            with contextlib.suppress(BackendError):  # it is optional
                manifest = stage.backend.manifest(spec)
            await stage.backend.boot([spec])
            await stage.registered("one")
            async with Client(stage.scheduler.address, asynchronous=True) as client:
                seen = await client.submit(_variables_and_words, pure=False)
            logs = dict(await stage.backend.logs(["one"]))
            await stage.backend.end(["one"], grace=10)
            await stage.gone("one")
        variables, words = seen
        assert (variables["FLAME_A"], variables["FLAME_B"]) == ("1", value)
        shown = (repr(spec), words, manifest, logs, stage.said, caplog.text)
        assert value not in repr(shown)

    def test_secrets_are_not_shown(self) -> None:
        spec = RunnerSpec(
            name="one",
            scheduler="tls://127.0.0.1:1",
            concurrency=1,
            boot_timeout=1,
            env={"TOKEN": "s3cret"},
            secrets={"KEY": "s3cret"},
            security={"tls_worker_key": "s3cret"},
            config={"password": "s3cret"},
        )
        assert "s3cret" not in repr(spec)


def start_a_process(word: str, *, apart: bool) -> int:
    """Start a process (runner).

    Parameters
    ----------
    word : str
        A word for its command line, by which it is found: its id may be that of a container.
    apart : bool
        Whether it is in a session of its own. On another machine, only substrates that end all
        processes of a job, as with cgroups, end it then.
    """
    sleep = [sys.executable, "-c", "import time; time.sleep(600)", word]
    return subprocess.Popen(sleep, start_new_session=apart).pid


def _runs(word: str) -> bool:
    """Return whether there is a process with this word in its command line."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if word in process.cmdline():  # a zombie has none
                return True
    return False


def _variables_and_words() -> tuple[dict[str, str], list[str]]:
    """Return the environment and the command line of this process (runner)."""
    return dict(os.environ), psutil.Process().cmdline()


async def _until(condition: Callable[[], object], what: str) -> None:
    """Wait for a condition; fail after a timeout."""
    deadline = time.monotonic() + 2 * _WITHIN
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {2 * _WITHIN:g} s: {what}")
        await asyncio.sleep(0.1)


@contextlib.contextmanager
def _driver(factory: str, token: str, output: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a driver with runners; at the end, kill what is left of it."""
    environment = {
        **os.environ,
        MARK: token,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "DASK_INTERNAL_INHERIT_CONFIG": dask.config.serialize(dask.config.global_config),
    }
    command = [sys.executable, "-m", "dask_flame.testing.conformance_driver", factory]
    with output.open("wb") as file:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for left in marked_processes(token, variable=MARK):
            with contextlib.suppress(psutil.Error):
                left.kill()


def in_a_fork(function: Callable[[], object]) -> str:
    """Return what a function raises in a fork of this process; empty if it returns."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        # This process has threads. The fork does nothing but this.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if not pid:
        raised = ""
        try:
            function()
        except BaseException:
            raised = traceback.format_exc()
        finally:
            os.write(writer, raised[-4000:].encode())
            os._exit(0)
    os.close(writer)
    try:
        if not select.select([reader], [], [], _WITHIN)[0]:
            return f"it did not return within {_WITHIN:g} s"
        return os.read(reader, 8000).decode()
    finally:
        os.close(reader)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
