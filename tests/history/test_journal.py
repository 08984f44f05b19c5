"""The journal of a cluster, and the records that are folded from it."""

from __future__ import annotations

import pickle
import time
from collections import Counter
from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest

from dask_flame.core.pool import Pool
from dask_flame.driver.fleets import PoolFleets
from dask_flame.driver.hosts.replication import SchedulerProxy
from dask_flame.history.boots import ACCEPTED, FIRST_CALL, REGISTERED, BootLog
from dask_flame.history.events import EventLog
from dask_flame.history.journal import (
    BootFailed,
    BootHeldUp,
    BootStepped,
    Entry,
    Event,
    Journal,
    RunnerEnded,
    RunnerRegistered,
    RunnersAsked,
    RunnerSeen,
    RunnersRetired,
)
from dask_flame.history.records import History
from dask_flame.history.timeline import RunnerTimeline, StateChange
from dask_flame.history.usage import UsageByPool
from dask_flame.scaling.idle_timeout import IdleFigure
from dask_flame.scaling.runner_index import Phase, RunnerState
from tests.support.waiting import wait_for

ASKED = Event(100.0, "boot", "demand of 3", ("r-1", "r-2", "r-3"), "cpu", {"demand": 3})
READY = Event(101.0, "ready", "registered 1.00 s after its boot", ("r-1",), "cpu")
RETIRED = Event(160.0, "retire", "too slow", ("r-2",), "cpu")
LEASE = Event(161.0, "lease", "a client is there again")
ENDED = Event(170.0, "ended", "idle for 60 s (exit code 0)", ("r-1",), "cpu")
HELD = Event(100.5, "held", "no room", ("r-2",), "cpu")
NAMES = ("r-1", "r-2", "r-3")


def step(runner: str, name: str, seconds: float, took: float) -> BootStepped:
    return BootStepped(pool="cpu", runner=runner, step=name, seconds=seconds, took=took)


def gone(runner: str, at: float, how: str, seconds: float, **more: Any) -> RunnerEnded:
    why = f"exit code {int(how != 'ended')}"
    return RunnerEnded(
        at=at, pool="cpu", runner=runner, how=how, why=why, seconds=seconds, **more
    )  # fmt: skip


ENTRIES: list[Entry] = [
    RunnersAsked(pool="cpu", runners=NAMES, clock=5.0, event=ASKED),
    *(step(name, ACCEPTED, 0.25, 0.25) for name in NAMES),
    BootHeldUp(runner="r-2", why="no room", event=HELD),
    step("r-1", REGISTERED, 1.0, 0.75),
    RunnerRegistered(pool="cpu", runner="r-1", seconds=1.0, event=READY),
    RunnerSeen(at=101.0, runner="r-1", state="idle"),
    RunnerSeen(at=101.5, runner="r-1", state="busy", note="train-1"),
    step("r-1", FIRST_CALL, 1.5, 0.5),
    BootFailed(runner="r-2", why="too slow", seconds=60.0),
    RunnersRetired(runners=("r-2",), event=RETIRED),
    gone("r-2", 160.5, "ended", 60.5, late=True),
    LEASE,
    gone("r-3", 161.5, "failed", 61.5),
    gone("r-1", 170.0, "ended", 70.0, event=ENDED),
]


@pytest.mark.unit
def test_events_are_those_of_the_entries_in_their_order() -> None:
    events = EventLog()
    for entry in ENTRIES:
        events.apply(entry)
    assert list(events) == [ASKED, HELD, READY, RETIRED, LEASE, ENDED]
    assert events.counts == Counter(["boot", "held", "ready", "retire", "lease", "ended"])


@pytest.mark.unit
def test_boots_are_folded_from_entries() -> None:
    boots = BootLog()
    for entry in ENTRIES:
        boots.apply(entry)
    assert list(map(repr, boots)) == [
        "r-1: accepted 0.250 s, registered 1.000, first call 1.500",
        "r-2: accepted 0.250 s, failed after 60.0 s: too slow",
        "r-3: accepted 0.250 s, failed after 61.5 s: exit code 1",
    ]
    assert {boot.at for boot in boots} == {100.0}
    assert [boot.trouble for boot in boots] == ["", "no room", ""]


@pytest.mark.unit
def test_boots_are_measured_from_the_request_on_its_own_clock() -> None:
    boots = BootLog()
    boots.apply(ENTRIES[0])
    measured = boots.measure("r-1", ACCEPTED, 5.5)
    assert measured is not None
    assert (measured[0].steps, measured[1]) == (((ACCEPTED, 0.5),), 0.5)
    assert boots[0].steps == ()  # nothing was noted
    assert boots.measure("r-9", ACCEPTED, 5.5) is None
    assert boots.is_news("r-1", "no room")
    boots.apply(BootHeldUp(runner="r-1", why="no room"))
    assert not boots.is_news("r-2", "no room")
    assert not boots.is_news("r-9", "no image")


@pytest.mark.unit
def test_the_timeline_is_folded_from_entries() -> None:
    timeline = RunnerTimeline()
    for entry in ENTRIES:
        timeline.apply(entry)
    one, two, three = timeline
    assert one.changes == [
        StateChange(100.0, "booting", "demand of 3"),
        StateChange(101.0, "idle"),
        StateChange(101.5, "busy", "train-1"),
    ]
    assert one.steps == ((ACCEPTED, 0.25), (REGISTERED, 1.0))
    assert two.changes[1:] == [StateChange(160.0, "ending", "too slow")]
    # One whose boot was given up has failed, whoever has ended it.
    assert [(life.how, life.over) for life in (one, two, three)] == [
        ("ended", 170.0),
        ("failed", 160.5),
        ("failed", 161.5),
    ]


@pytest.mark.unit
def test_usage_is_folded_from_entries() -> None:
    usage = UsageByPool(["cpu", "gpu"])
    for entry in ENTRIES:
        usage.apply(entry)
    cpu = usage["cpu"]
    assert (cpu.boots, cpu.registered, cpu.boot_seconds) == (3, 1, 1.0)
    assert cpu.ended == {"failed": 1, "lost": 0, "ended": 2}
    assert cpu.runner_seconds == 60.5 + 61.5 + 70.0
    assert cpu.phases == {ACCEPTED: (0.75, 3), REGISTERED: (0.75, 1), FIRST_CALL: (0.5, 1)}
    assert usage["gpu"] == UsageByPool(["gpu"])["gpu"]


def records(history: History) -> tuple[Any, ...]:
    return (
        list(history.events),
        history.events.counts,
        list(history.boots),
        [(life.name, life.changes, life.how, life.why) for life in history.timeline],
        dict(history.usage),
    )


@pytest.mark.unit
def test_a_journal_that_was_sent_elsewhere_gives_the_same_records_there() -> None:
    here, there = History(["cpu"]), History(["cpu"])
    here.journal.subscribe(lambda entry: there.journal.append(pickle.loads(pickle.dumps(entry))))
    for entry in ENTRIES:
        here.journal.append(entry)
    assert records(there) == records(here)
    assert list(there.journal) == list(here.journal) == ENTRIES


@pytest.mark.unit
def test_a_journal_is_bounded_and_tells_all_to_its_subscribers() -> None:
    journal, heard = Journal(kept=3), []
    journal.subscribe(heard.append)
    events = [journal.note("policy", f"max={n}", pool="cpu", max=n) for n in range(5)]
    assert heard == events
    assert list(journal) == events[2:]
    assert len(journal) == 3
    assert (events[0].pool, events[0].numbers, events[0].runners) == ("cpu", {"max": 0}, ())


@pytest.mark.unit
def test_entries_cannot_be_changed() -> None:
    for entry in ENTRIES:
        with pytest.raises(FrozenInstanceError):
            setattr(entry, fields(entry)[0].name, None)


@pytest.mark.process
def test_a_clusters_records_are_folds_over_its_journal(flame: Any) -> None:
    cluster, client = flame(max=2, idle_timeout="1s")
    assert client.gather(client.map(abs, range(-4, 0))) == [4, 3, 2, 1]
    wait_for(lambda: cluster.events and not cluster.runners)
    again = History(cluster.pools)
    for entry in list(cluster._history.journal):
        again.journal.append(entry)
    assert records(again) == records(cluster._history)
    assert again.usage["default"].ended["ended"] == again.usage["default"].boots > 0


@pytest.mark.unit
def test_a_driver_knows_the_runners_of_a_scheduler_elsewhere_by_its_journal() -> None:
    fleets = PoolFleets({"cpu": Pool(max=3)})
    proxy, history = SchedulerProxy(fleets), History(["cpu"])
    history.journal.subscribe(proxy.apply)
    history.journal.append(ENTRIES[0])
    fleet = fleets.fleets["cpu"]
    assert list(fleets.members) == list(NAMES)
    assert (fleet.count(Phase.BOOTING), fleets.of("r-1")) == (3, "cpu")
    (registered,) = (entry for entry in ENTRIES if isinstance(entry, RunnerRegistered))
    history.journal.append(registered)
    assert (fleet.count(Phase.BOOTING), fleet.count(Phase.READY)) == (2, 1)
    ready = RunnerState("r-1", Phase.READY, asked=70.0, since=69.0, busy=1, timed_from=70.0)
    numbers = {"cpu": (4, 3, 12, "", IdleFigure(240.0, "as long as a boot takes"))}
    proxy.take(members=[ready, RunnerState("r-9", Phase.READY, 1.0, 1.0)], numbers=numbers)
    assert list(fleets.members) == list(NAMES)  # of others nothing is known any more
    assert (fleet.count(Phase.BOOTING), fleet.count(Phase.READY)) == (2, 1)
    assert (proxy.demand("cpu"), proxy.waiting("cpu")) == (4, 3)
    assert fleet.index.busy_seconds(0) == 12
    assert fleet.idle.seconds == 240
    paid = history.usage["cpu"].paid(fleets.members.values(), time.monotonic())
    assert paid == pytest.approx(70.0, abs=5)
    for entry in ENTRIES:
        if isinstance(entry, RunnerEnded):
            history.journal.append(entry)
    assert fleets.members == {}
    assert (fleet.count(Phase.BOOTING), fleet.count(Phase.READY)) == (0, 0)
    assert fleets.of("r-1") is None
    assert history.usage["cpu"].paid([], 0) == 60.5 + 61.5 + 70.0
