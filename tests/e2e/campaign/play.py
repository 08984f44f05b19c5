"""One case from its cluster's start to its end (driver)."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import dask
from distributed import Client, Future
from distributed.comm.core import CommClosedError

from dask_flame import FlameCluster, Pool
from dask_flame.errors import FlameError
from dask_flame.history.events import Event
from dask_flame.scaling.fleet import Phase
from dask_flame.testing import Proxy
from tests.e2e.campaign.boots import VARIABLE
from tests.e2e.campaign.calls import work
from tests.e2e.campaign.case import CallPlan, Case
from tests.e2e.campaign.faults import Faults, Seen
from tests.e2e.campaign.unsteady import UnsteadyBackend

#: Seconds for anything that a case waits for: far more than it takes on a machine that is at work.
WITHIN = 60.0


class Stuck(Exception):
    """A case does not go on."""


@dataclass
class Played:
    """What came of a case.

    Attributes
    ----------
    outcomes : dict of int to object
        For each call its result, or the error that it failed with.
    probes : dict of str to object
        The same for a call to each pool when all faults were over.
    executions : list of dict
        What calls wrote down.
    wrong : list of str
        What was found to be wrong on the way.
    """

    outcomes: dict[int, Any] = field(default_factory=dict)
    probes: dict[str, Any] = field(default_factory=dict)
    executions: list[dict[str, Any]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    seen: Seen = field(default_factory=Seen)
    refused: int = 0
    mark: str = ""


def settings(case: Case) -> dict[str, Any]:
    """Dask's configuration for a case."""
    given: dict[str, Any] = {
        "distributed.scheduler.validate": True,
        "distributed.worker.validate": True,
        "distributed.scheduler.allowed-failures": case.allowed_failures,
        "flame.local.echo": False,
        # Each boot takes its turn to fail by what it preloads: in a process of its own.
        "flame.local.fork": not (case.boots or case.all_boots),
    }
    if case.home_memory is not None:
        given["flame.home.memory"] = case.home_memory
    if case.worker_ttl is not None:
        given["distributed.scheduler.worker-ttl"] = f"{case.worker_ttl} s"
    return given


class Local:
    """Where a case is played: here, on runners that are processes of this machine."""

    remote = False

    def backend(self, case: Case, through: Callable[[str], str], *args: Any) -> Any:
        """What boots the runners."""
        return UnsteadyBackend(*args, plan=case.unsteady, through=through)

    def faults(self, *args: Any) -> Faults:
        """What is done to the case."""
        return Faults(*args)


def play(
    case: Case,
    folder: Path,
    tell: Callable[[str], None] = lambda phase: None,
    where: Local | None = None,
) -> Played:
    """Play a case.

    Parameters
    ----------
    case : Case
    folder : Path
        For what its calls and boots write down.
    tell : callable
        Told of each phase that the case comes into, as a word.
    where : Local, optional
        What its runners are.
    """
    played = Played()
    place = where or Local()
    backends: list[Any] = []
    links: list[Proxy] = []

    def through(address: str) -> str:
        if not links:
            links.append(stack.enter_context(Proxy(address)))
        return links[0].address

    def backend(*args: Any) -> Any:
        way = through if case.proxy == "runners" else str
        backends.append(place.backend(case, way, *args))
        return backends[-1]

    backend.remote = place.remote  # type: ignore[attr-defined]

    tell("starting")
    with (
        dask.config.set(settings(case)),
        _no_inner_errors(played),
        contextlib.ExitStack() as stack,
    ):
        cluster = FlameCluster(
            pools={p.name: _pool(case, p, folder) for p in case.pools},
            backend=backend,  # type: ignore[arg-type]
            disconnect_grace=case.grace,
            dashboard_address=None,
        )
        with cluster:
            tell("waiting")
            faults = place.faults(case, cluster, backends[0], links, tell)
            played.seen, played.mark = faults.seen, backends[0].mark
            address = cluster.scheduler_address
            if case.proxy == "client":
                address = through(address)
            with Client(address, security=cluster.security) as client:
                faults.start()
                try:
                    _calls(case, client, cluster, folder, played)
                    faults.stop()
                    _afterwards(case, client, folder, played)
                    _rest(case, cluster, "at the end")
                except Stuck as stuck:
                    played.wrong.append(f"{stuck}; {_state(cluster)}")
                finally:
                    faults.stop()
                played.wrong += _said_by_runners(cluster, backends[0])
            tell("closing")
        played.events = list(cluster.events)
        played.refused = backends[0].refused
    played.executions = _executions(folder)
    return played


def _pool(case: Case, plan: Any, folder: Path) -> Pool:
    preload, env = (), {}
    if case.boots or case.all_boots:
        preload, env = ("tests.e2e.campaign.boots",), {VARIABLE: str(folder)}
        ways = {"first": case.boots, "then": case.all_boots or "ok"}
        (folder / "boots").write_text(json.dumps(ways))
    return Pool(
        min=plan.min,
        max=plan.max,
        concurrency=plan.concurrency,
        idle_timeout=plan.idle_timeout,
        boot_timeout=case.boot_timeout,
        boot_attempts=case.boot_attempts,
        on_boot_failure=case.on_boot_failure,
        single_use=plan.single_use,
        # Frozen ones are waited for; others need a fraction of a second.
        shutdown_timeout=5 if case.worker_ttl else 30,
        preload=preload,
        env=env,
    )


def _calls(case: Case, client: Client, cluster: FlameCluster, folder: Path, played: Played) -> None:
    """Submit the rounds, and see every call to its end."""
    futures: dict[int, Future] = {}
    cancels: list[tuple[float, int]] = []
    for number, part in enumerate(case.rounds):
        for call in part.calls:
            futures[call.id] = _submit(call, client, folder, futures)
            if call.cancel_after is not None:
                cancels.append((time.monotonic() + call.cancel_after, call.id))
        _pause(part.pause, cancels, futures)
        if part.then != "on":
            mine = [futures[call.id] for call in part.calls]
            _until(
                lambda mine=mine: all(f.done() for f in mine),
                cancels,
                futures,
                f"the calls of round {number + 1} are done",
            )
        if part.then == "rest":
            _rest(case, cluster, f"after round {number + 1}", cancels, futures)
    _until(
        lambda: not cancels and all(f.done() for f in futures.values()),
        cancels,
        futures,
        "all calls are done",
    )
    # What has struck last may still be at work: the results are read when it is over.
    for id, future in futures.items():
        played.outcomes[id] = outcome(future)


def _submit(call: CallPlan, client: Client, folder: Path, futures: dict[int, Future]) -> Future:
    annotations: dict[str, Any] = {} if call.rerun else {"rerun": False}
    if call.pool is not None:
        annotations["pool"] = call.pool
    if call.timeout is not None:
        annotations["timeout"] = call.timeout
    with dask.annotate(**annotations):
        return client.submit(
            work,
            call,
            str(folder),
            *(futures[i] for i in call.inputs),
            key=f"call-{call.id}",
        )


def _afterwards(case: Case, client: Client, folder: Path, played: Played) -> None:
    """Every pool still serves."""
    if case.all_boots:
        return
    for number, pool in enumerate(case.pools):
        call = CallPlan(id=1000 + number, pool=pool.name, seconds=0, size=0)
        future = _submit(call, client, folder, {})
        _until(future.done, [], {}, f"a call to {pool.name} when all was over is done")
        played.probes[pool.name] = outcome(future)


def outcome(future: Future) -> Any:
    """A call's result, or its error."""
    try:
        return future.result(timeout=WITHIN)
    except FlameError as error:
        return error  # some are a TimeoutError as well
    except TimeoutError as error:
        raise Stuck(f"not within {WITHIN:g} s: the result of {future.key} is read") from error
    except (Exception, CancelledError) as error:
        return error


def _state(cluster: FlameCluster) -> str:
    tasks = {ts.key: ts.state for ts in list(cluster.scheduler.tasks.values())}
    return f"there are {tasks} and {dict(cluster.runners)}"


def _pause(seconds: float, cancels: list[tuple[float, int]], futures: dict[int, Future]) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        _cancel(cancels, futures)
        time.sleep(0.005)


def _until(
    condition: Callable[[], Any],
    cancels: list[tuple[float, int]],
    futures: dict[int, Future],
    what: str,
) -> None:
    until = time.monotonic() + WITHIN
    while not condition():
        _cancel(cancels, futures)
        if time.monotonic() > until:
            raise Stuck(f"not within {WITHIN:g} s: {what}")
        time.sleep(0.005)


def _cancel(cancels: list[tuple[float, int]], futures: dict[int, Future]) -> None:
    for due in [c for c in cancels if c[0] <= time.monotonic()]:
        cancels.remove(due)
        futures[due[1]].cancel()


def _rest(
    case: Case,
    cluster: FlameCluster,
    when: str,
    cancels: list[tuple[float, int]] | None = None,
    futures: dict[int, Future] | None = None,
) -> None:
    """Wait until each pool is at its least size, and all of that is up and idle."""
    if case.all_boots:
        return

    def resting() -> bool:
        return all(_at_rest(cluster, plan.name) for plan in case.pools)

    what = f"pools at their min {when}"
    _until(resting, [] if cancels is None else cancels, futures or {}, what)


def _at_rest(cluster: FlameCluster, pool: str) -> bool:
    fleet = cluster.fleets.fleets[pool]
    return len(fleet.members) == fleet.count(Phase.READY) == fleet.pool.min


def _executions(folder: Path) -> list[dict[str, Any]]:
    file = folder / "calls"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


_INNER = ("AssertionError", "InvalidTransition", "InvalidTaskState", "TransitionCounterMax")


def _said_by_runners(cluster: FlameCluster, backend: Any) -> Iterator[str]:
    names = {name for event in cluster.events for name in event.runners}
    for name, text in cluster.sync(partial(backend.logs, names)).items():
        if any(word in text for word in _INNER):
            yield f"{name} printed an error of Dask's inside:\n{text[-4000:]}"


class _InnerErrors(logging.Handler):
    """Collects logged errors that are nobody's but the program's."""

    _USUAL = (OSError, CommClosedError, TimeoutError, CancelledError)

    def __init__(self, played: Played) -> None:
        super().__init__(logging.ERROR)
        self.played = played

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and not isinstance(error, self._USUAL):
            text = logging.Formatter().format(record)
            self.played.wrong.append(f"logged by {record.name}: {text[-4000:]}")


@contextlib.contextmanager
def _no_inner_errors(played: Played) -> Iterator[None]:
    handler = _InnerErrors(played)
    loggers = [logging.getLogger(n) for n in ("distributed", "dask_flame", "asyncio", "tornado")]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
