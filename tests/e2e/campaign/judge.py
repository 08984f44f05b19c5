"""What must hold after a case, whatever was done to it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import CancelledError
from typing import Any

from dask_flame import errors
from dask_flame.testing import marked_processes
from tests.e2e.campaign.calls import Meant, result
from tests.e2e.campaign.case import CallPlan, Case
from tests.e2e.campaign.play import Played

_OVER = ("ended", "lost", "failed")
_LATE = "did not register"


def judge(case: Case, played: Played) -> list[str]:
    """What is wrong with what came of a case; empty where nothing is."""
    return [
        *played.wrong,
        *_outcomes(case, played),
        *_runs(case, played),
        *_places(case, played),
        *_sizes(case, played),
        *_causes(case, played),
        *_left(played),
    ]


# Calls


def wrong_reasons(played: Played, words: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    """What is said of lost runners by events that have no word of what was done to them."""
    lost = {name: e for e in played.events if e.kind == "lost" for name in e.runners}
    for name, what in played.seen.victims.items():
        expected = words.get(what)
        if expected and name in lost and not any(word in lost[name].reason for word in expected):
            yield f"{what} was done to {name}, and the event says: {lost[name]}"


def _outcomes(case: Case, played: Played) -> Iterator[str]:
    expected: dict[int, Any] = {}
    for id, call in case.calls.items():
        if id not in played.outcomes:
            continue  # it did not come to that, as is said elsewhere
        got = played.outcomes[id]
        wrong = _wrong_with(case, call, got, expected, played)
        if wrong:
            yield f"call {id} gave {_short(got)}: {wrong}"
        expected[id] = got
    for pool, got in played.probes.items():
        if isinstance(got, Exception) and not _boots_failed(case, got, played):
            yield f"a call to {pool} when all was over gave {_short(got)}"


def _wrong_with(
    case: Case, call: CallPlan, got: Any, before: dict[int, Any], played: Played
) -> str:
    inputs = [before.get(i) for i in call.inputs]
    broken = [i for i in inputs if isinstance(i, BaseException)]
    if isinstance(got, tuple):
        if call.raises or call.overruns:
            return "it should have failed"
        if broken:
            # Its inputs were there when it ran, and were lost later.
            return "" if all(isinstance(b, errors.RunnerLost) for b in broken) else "of no inputs"
        if got != result(call, tuple(number for number, _ in inputs)):
            return "it is not what it should be"
        return ""
    if isinstance(got, CancelledError):
        return "" if call.cancel_after is not None else "nobody cancelled it"
    if isinstance(got, Meant):
        return "" if call.raises and got.args == (call.id,) else "it was not meant to"
    if isinstance(got, errors.BootError):
        return "" if _boots_failed(case, got, played) else "boots did not fail that often"
    if isinstance(got, errors.CallTimeout):
        return "" if call.overruns else "its time was not up"
    if isinstance(got, errors.RunnerLost):
        return _wrong_with_loss(case, call, got, broken, played)
    return "nothing that was to be expected"


def _wrong_with_loss(
    case: Case, call: CallPlan, got: errors.RunnerLost, broken: list[Any], played: Played
) -> str:
    if got.key != f"call-{call.id}" and not call.nested:
        lost = [b for b in broken if isinstance(b, errors.RunnerLost) and b.key == got.key]
        # An input may have been lost when this call needed it, but was read before.
        return "" if lost or got.key in _keys_of_inputs(case, call) else "not one of its inputs"
    if got.runner not in _hurt(case, played):
        return f"nothing was done to {got.runner}"
    if got.tried == 0 and got.key == f"call-{call.id}":
        return "it may run again" if call.rerun else ""
    if got.tried not in (0, case.allowed_failures + 1):
        return f"lost after {got.tried} tries"
    return ""


def _keys_of_inputs(case: Case, call: CallPlan) -> set[str]:
    found: set[str] = set()
    todo = list(call.inputs)
    while todo:
        id = todo.pop()
        found.add(f"call-{id}")
        todo += case.calls[id].inputs
    return found


def _boots_failed(case: Case, got: Any, played: Played) -> bool:
    """Whether so many boots have failed that a call may fail with this error."""
    if not isinstance(got, errors.BootError) or case.on_boot_failure == "wait":
        return False
    if case.all_boots:
        return True
    late = {n for e in played.events if _LATE in e.reason for n in e.runners}
    failed = {n for e in played.events if e.kind == "failed" for n in e.runners} | late
    return len(failed) + played.refused >= case.boot_attempts


def _short(got: Any) -> str:
    return f"{type(got).__name__}: {str(got)[:600]}"


# Executions


def _runs(case: Case, played: Played) -> Iterator[str]:
    hurt = _hurt(case, played)
    inputs = {i for call in case.calls.values() for i in call.inputs}
    starts: dict[int, list[str]] = defaultdict(list)
    ends: Counter[tuple[int, str, int]] = Counter()
    for entry in played.executions:
        if entry["what"] == "start":
            starts[entry["call"]].append(entry["runner"])
        else:
            ends[entry["call"], entry["runner"], entry["pid"]] += 1
    for id, call in case.calls.items():
        runners = starts[id]
        whole = [r for r in runners if r not in hurt]
        # Who needs a result has a copy of it, which may have been the last one.
        copies = len(hurt) if id in inputs else 0
        if len(whole) > 1 + copies:
            yield f"call {id} ran {len(runners)} times, on {runners}; nothing was done to {whole}"
        if not call.rerun and len(runners) > 1:
            yield f"call {id} has rerun=False and ran {len(runners)} times, on {runners}"
        if isinstance(played.outcomes.get(id), tuple) and not runners:
            yield f"call {id} has a result and never ran"
    for entry in played.executions:
        call = case.calls.get(entry["call"])
        where = entry["call"], entry["runner"], entry["pid"]
        broken = entry["what"] == "start" and not ends[where] and entry["runner"] not in hurt
        if broken and call is not None and not call.fails:
            yield f"call {entry['call']} was broken off on {entry['runner']}"


def _places(case: Case, played: Played) -> Iterator[str]:
    """No runner has more calls at once than it has slots."""
    slots = {p.name: p.concurrency for p in case.pools}
    now: Counter[str] = Counter()
    most: Counter[str] = Counter()
    ended = {(e["call"], e["runner"]) for e in played.executions if e["what"] == "end"}
    for entry in sorted(played.executions, key=lambda e: e["at"]):
        call = case.calls.get(entry["call"])
        if (call is None or call.fails) and (entry["call"], entry["runner"]) not in ended:
            continue  # interrupted when it had hardly begun
        now[entry["runner"]] += 1 if entry["what"] in ("start", "back") else -1
        most[entry["runner"]] = max(most[entry["runner"]], now[entry["runner"]])
    for runner, number in most.items():
        if number > slots[_pool_of(runner)]:
            yield f"{runner} had {number} calls at once and {slots[_pool_of(runner)]} slots"
    for entry in played.executions:
        call = case.calls.get(entry["call"])
        wanted = (call.pool if call else None) or case.pools[0].name
        if call is not None and _pool_of(entry["runner"]) != wanted:
            yield f"call {call.id} belongs to {wanted} and ran on {entry['runner']}"


# Runners


def _sizes(case: Case, played: Played) -> Iterator[str]:
    for pool in case.pools:
        if (most := played.seen.most.get(pool.name, 0)) > pool.max:
            yield f"{pool.name} has max={pool.max} and had {most} processes"


def _causes(case: Case, played: Played) -> Iterator[str]:
    """Every runner has one end in the events, with its cause, and none was lost without one."""
    hurt = _hurt(case, played)
    ends: dict[str, list[Any]] = defaultdict(list)
    for event in played.events:
        for name in event.runners:
            if event.kind in _OVER and "could not be ended" not in event.reason:
                ends[name].append(event)
    asked = [n for e in played.events if e.kind == "boot" for n in e.runners]
    retired = {n for e in played.events if e.kind == "retire" for n in e.runners}
    for name in asked:
        if len(ends[name]) > 1:
            yield f"{name} ended more than once: {[str(e) for e in ends[name]]}"
        for event in ends[name]:
            if event.kind == "lost" and name not in hurt:
                yield f"nothing was done to {name}, and it was lost: {event}"
            if not event.reason.strip():
                yield f"{name} ended without a reason"
    for name in played.seen.killed_ready:
        (event,) = ends[name] or [None]
        if event is None:
            if name not in retired:
                yield f"{name} was killed, and no event says so"
        elif event.kind == "lost" and not any(w in event.reason for w in ("SIGKILL", "supervisor")):
            yield f"{name} was killed, and the event says: {event}"


def _hurt(case: Case, played: Played) -> set[str]:
    """Runners that something was done to which may have ended them."""
    names = set(played.seen.victims)
    for event in played.events:
        # Of a supervisor that was killed: boots that it was about to do as well.
        by_supervisor = "supervisor of the local runners" in event.reason
        # Found to be frozen; on a machine that is very busy, so may others be.
        by_time = case.worker_ttl is not None and event.kind == "lost"
        if by_supervisor or by_time or _LATE in event.reason:
            names.update(event.runners)
    return names


def _pool_of(runner: str) -> str:
    prefix = runner.rpartition("-")[0]
    return "default" if prefix == "runner" else prefix


def _left(played: Played) -> Iterator[str]:
    for process in marked_processes(f"{played.mark}/"):
        yield f"a process is left: {process}"
