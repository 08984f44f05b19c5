"""dask-flame and plain Dask, and the measures for these two only."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import psutil
from distributed import Client, LocalCluster, SchedulerPlugin, wait
from versus_calls import learn, nothing, reporting, steady  # beside this file

#: Seconds between two counts of the runners.
_LOOK = 0.005


class _Joined(SchedulerPlugin):
    """Record when each worker registered."""

    name = "versus-joined"

    def __init__(self) -> None:
        self.at: list[float] = []

    def add_worker(self, scheduler: Any, worker: str) -> None:
        # The worker that holds dask-flame's results takes no calls.
        if worker not in getattr(scheduler, "resting", ()):
            self.at.append(time.monotonic())


class _Arrived(SchedulerPlugin):
    """Count the reports that have arrived in the scheduler."""

    name = "versus-arrived"

    def __init__(self, contender: str) -> None:
        self.flame = contender == "flame"
        self.topic = "flame-reports" if self.flame else "versus"
        self.number = 0

    def log_event(self, topic: str, message: Any) -> None:
        if topic == self.topic:
            self.number += sum(len(call["times"]) for call in message["calls"]) if self.flame else 1


class Dask:
    """The common part of both; the scheduler is in this process."""

    client: Client
    cluster: Any

    def __init__(self) -> None:
        self._joined = _Joined()

    def make(self, runners: int, *, elastic: bool, **options: Any) -> Any:
        raise NotImplementedError

    def start(self, runners: int, *, elastic: bool, **options: Any) -> None:
        self.cluster = self.make(runners, elastic=elastic, **options)
        # From now on only its event loop should touch the scheduler; a single assignment is safe.
        if elastic:
            self.cluster.scheduler.add_plugin(self._joined)
        self.client = Client(self.cluster)
        if not elastic:
            self.registered(runners)

    def registered(self, runners: int) -> None:
        """Wait until so many runners have registered."""
        scheduler = self.cluster.scheduler
        while len(scheduler.workers) - len(getattr(scheduler, "resting", ())) < runners:
            time.sleep(_LOOK)

    def one(self, function: Callable[..., Any], *args: Any) -> Any:
        return self.client.submit(function, *args, pure=False).result()

    def all(self, function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        found: list[Any] = self.client.gather(self.client.map(function, items, pure=False))
        return found

    def joined(self) -> list[float]:
        return list(self._joined.at)

    def addresses(self) -> list[str]:
        """Return the addresses of the runners."""
        scheduler = self.cluster.scheduler
        return [a for a in scheduler.workers if a not in getattr(scheduler, "resting", ())]


class Flame(Dask):
    def __init__(self) -> None:
        super().__init__()
        from dask_flame import FlameCluster

        self._cluster = FlameCluster

    def make(self, runners: int, *, elastic: bool, **options: Any) -> Any:
        least = 0 if elastic else runners
        return self._cluster(min=least, max=runners, dashboard_address=None, **options)


class Stock(Dask):
    def make(self, runners: int, *, elastic: bool, **options: Any) -> Any:
        cluster = LocalCluster(
            n_workers=0 if elastic else runners,
            threads_per_worker=1,
            dashboard_address=None,
            **options,
        )
        if elastic:
            cluster.adapt(minimum=0, maximum=runners)
        return cluster


def _side(contender: str) -> Dask:
    return Flame() if contender == "flame" else Stock()


def register64(contender: str, *, runners: int, **_: Any) -> dict[str, float]:
    """Measure the time from the constructor until all runners have registered."""
    who = _side(contender)
    begin = time.monotonic()
    who.cluster = who.make(runners, elastic=False)
    who.registered(runners)
    return {"registered": time.monotonic() - begin}


def ml64(contender: str, *, runners: int, what: str, **_: Any) -> dict[str, float]:
    """Measure until each runner has used the libraries, and the memory then."""
    who = _side(contender)
    # By its full name: transformers imports BertModel on first use.
    bert = "transformers.models.bert.modeling_bert"
    modules = [] if what == "nothing" else ["torch", "transformers", bert]
    begin = time.monotonic()
    who.start(runners, elastic=False, **({"preload": modules} if contender == "flame" else {}))
    pids = who.client.gather(
        [
            who.client.submit(learn, what, workers=[address], pure=False)
            for address in who.addresses()
        ]
    )
    ready = time.monotonic() - begin
    assert len(set(pids)) == runners, f"{len(set(pids))} processes have answered"
    return {"ready": ready, "memory": _memory() / 1e9}


def _memory() -> int:
    """Return the bytes of all descendants, with shared memory divided by its users."""
    total = 0
    for process in psutil.Process().children(recursive=True):
        with open(f"/proc/{process.pid}/smaps_rollup") as rollup:
            pss = [line.split()[1] for line in rollup if line.startswith("Pss:")]
        total += 1024 * sum(map(int, pss))
    return total


def report(contender: str, *, times: int, loops: int, **_: Any) -> dict[str, float]:
    """Measure the cost of one report for the call that makes it."""
    who = _side(contender)
    who.start(1, elastic=False)
    if contender != "flame":
        times = max(1, times // 10)  # Dask's scheduler could not keep up
    return {"micros": who.one(reporting, times, loops, contender) * 1e6}


def reports64(
    contender: str, *, runners: int, rate: float, seconds: float, **_: Any
) -> dict[str, float]:
    """Have all runners report at a rate; measure the cost, and then the delay.

    The scheduler is in this process. The cost is the CPU time of this process while runners report,
    less its CPU time while they are idle for as long. On an overloaded machine not all reports
    arrive in that time: the cost is extrapolated to all of them. Then a subscriber to the topic of
    the reports records their ages, for half as long.
    """
    who = _side(contender)
    who.start(runners, elastic=False)
    who.all(nothing, range(4 * runners))
    arrived = _Arrived(contender)
    who.cluster.scheduler.add_plugin(arrived)
    time.sleep(1.0)

    def spent(seconds: float) -> float:
        began, at = time.process_time(), time.monotonic()
        time.sleep(seconds)
        return (time.process_time() - began) / (time.monotonic() - at)

    idle = spent(seconds)
    lead = min(2.0, seconds / 4)
    calls = [
        who.client.submit(
            steady,
            number,
            rate,
            2 * lead + 1.5 * seconds,
            contender,
            workers=[address],
            pure=False,
        )
        for number, address in enumerate(who.addresses())
    ]
    time.sleep(lead)
    before = arrived.number
    busy = spent(seconds)
    share = (arrived.number - before) / (rate * runners * seconds)
    late: list[float] = []
    over = threading.Event()

    def heard(event: tuple[float, Any]) -> None:
        if not over.is_set():
            now, message = time.time(), event[1]
            if contender == "flame":
                late.extend(now - at for call in message["calls"] for at in call["times"])
            else:
                late.append(now - message["time"])

    who.client.subscribe_topic(arrived.topic, heard)
    time.sleep(seconds / 2)
    over.set()
    assert share > 0, "no report has arrived"
    assert late, "the subscriber has heard of no report"
    wait(calls)
    made = sum(who.client.gather(calls)) / (2 * lead + 1.5 * seconds) / runners
    late.sort()
    return {
        "share": (busy - idle) / min(1.0, share),
        "arrived": 100 * share,
        "idle": idle,
        "p50": late[len(late) // 2] * 1000,
        "p99": late[int(0.99 * len(late))] * 1000,
        "heard": len(late),
        "rate": made,
    }


def kill(contender: str, *, runners: int, **_: Any) -> dict[str, float]:
    """Start runners that could be left behind."""
    who = _side(contender)
    who.start(runners, elastic=False)
    who.all(nothing, range(4 * runners))
    return {"runners": float(runners)}
