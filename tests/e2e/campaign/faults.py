"""What is done to a running case, and when (driver): a thread that watches, waits and strikes."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import psutil

from dask_flame import FlameCluster
from dask_flame.core.processes import mark_of
from dask_flame.scaling.fleet import Phase
from dask_flame.scaling.runner_index import RunnerState
from dask_flame.testing import Proxy
from tests.e2e.campaign.case import LINK_FAULTS, LINK_PAUSES, Case, Fault
from tests.e2e.campaign.unsteady import UnsteadyBackend

_LOOK_EVERY = 0.004
_COUNT_EVERY = 0.1


@dataclass
class Seen:
    """What a case's faults have done, and what was seen meanwhile.

    Attributes
    ----------
    victims : dict of str to str
        Runners that were done something to which may end them, and what.
    killed_ready : set of str
        Those that were killed, by nothing else than SIGKILL, when they had registered.
    said : list of str
        What was done when.
    most : dict of str to int
        The largest number of a pool's processes that were seen at once.
    """

    victims: dict[str, str] = field(default_factory=dict)
    killed_ready: set[str] = field(default_factory=set)
    said: list[str] = field(default_factory=list)
    most: dict[str, int] = field(default_factory=dict)
    struck: list[str] = field(default_factory=list)


class Faults(threading.Thread):
    """Does the faults of a case to a cluster, one after the other.

    Parameters
    ----------
    case : Case
    cluster : FlameCluster
    backend : UnsteadyBackend
    links : list of Proxy
        Those that there are when a fault is to be done to them.
    tell : callable
        Told of each phase that the cluster comes into, as a word.
    """

    def __init__(
        self,
        case: Case,
        cluster: FlameCluster,
        backend: UnsteadyBackend,
        links: list[Proxy],
        tell: Callable[[str], None] = lambda phase: None,
    ) -> None:
        super().__init__(name="campaign-faults", daemon=True)
        self.case = case
        self.cluster = cluster
        self.backend = backend
        self.links = links
        self.tell = tell
        self.seen = Seen()
        self.error: BaseException | None = None
        self._random = random.Random(case.seed)
        self._over = threading.Event()
        self._start = time.monotonic()
        self._frozen: dict[int, float] = {}  # until when
        self._phase_of: dict[str, str] = {}
        self._counted = 0.0
        self._told: set[str] = set()

    def run(self) -> None:
        try:
            for fault in self.case.faults:
                if self._wait_for(fault.phase) and self._sleep(fault.delay):
                    self._strike(fault)
            while not self._over.is_set():
                self._look()
                self._over.wait(_LOOK_EVERY)
        except BaseException as error:
            self.error = error

    def stop(self) -> None:
        """Do nothing further, and let go on what was frozen for a while."""
        self._over.set()
        self.join(30)
        if self.error is not None:
            raise self.error
        for pid, until in self._frozen.items():
            if until < float("inf"):
                _signal(pid, signal.SIGCONT)

    # Looking

    def _wait_for(self, phase: str) -> bool:
        while not self._over.is_set():
            if phase in self._look():
                return True
            self._over.wait(_LOOK_EVERY)
        return False

    def _sleep(self, seconds: float) -> bool:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not self._over.is_set():
            self._look()
            self._over.wait(min(left, _LOOK_EVERY))
        return not self._over.is_set()

    def _look(self) -> set[str]:
        """The phases that runners have come into since the last look, or are in."""
        now = time.monotonic()
        for pid in [pid for pid, until in self._frozen.items() if now >= until]:
            del self._frozen[pid]
            _signal(pid, signal.SIGCONT)
        members = self.cluster.runners
        phases = set()
        for name, member in members.items():
            was, phase = self._phase_of.get(name), phase_of(member)
            if was == "booting" and member.phase is Phase.READY:
                phases.add("registering")
            if was in ("running", "registering") and phase == "idle":
                phases.add("idle")
            elif phase != "idle":
                phases.add(phase)
            if phase != was:
                self._phase_of[name] = phase
        for phase in sorted(phases):
            self.tell(phase)
        if not members:
            self.tell("resting")
            if self.cluster.home.disk:
                phases.add("resting")
        self._count(now)
        return phases

    def _count(self, now: float) -> None:
        """Count the processes that there are, whatever the cluster believes."""
        if not self._time_to_count(now):
            return
        for pool, number in processes(self.backend.supervisor).items():
            self.seen.most[pool] = max(self.seen.most.get(pool, 0), number)

    def _time_to_count(self, now: float) -> bool:
        due = now >= self._counted + _COUNT_EVERY
        if due:
            self._counted = now
        return due

    # Striking

    def _strike(self, fault: Fault) -> None:
        if fault.what == "supervisor":
            supervisor = self.backend.supervisor
            if supervisor is not None:
                self._say("supervisor killed")
                self.seen.victims |= dict.fromkeys(self.cluster.runners, "supervisor")
                _signal(supervisor, signal.SIGKILL)
            return
        if fault.what == "template":
            self._say("template killed" if fault.seconds is None else "template frozen")
            stop = signal.SIGKILL if fault.seconds is None else signal.SIGSTOP
            hit = templates(self.backend.supervisor)
            for pid in hit:
                _signal(pid, stop)
            if fault.seconds is not None:
                self._sleep(fault.seconds)
                for pid in hit:
                    _signal(pid, signal.SIGCONT)
            return
        if fault.what == "shrink":
            self._say("shrink the first pool to max=1 for a while")
            name, most = self.case.pools[0].name, self.case.pools[0].max
            self.cluster.resize(name, min=0, max=1)
            self._sleep(fault.seconds or 0.0)
            self.cluster.resize(name, min=self.case.pools[0].min, max=most)
            return
        if fault.what in LINK_FAULTS:
            self._break(fault)
            return
        members = sorted(self.cluster.runners.items())
        self._random.shuffle(members)
        members.sort(key=lambda item: phase_of(item[1]) != fault.phase)
        for name, member in members[: fault.count]:
            pid = self.backend.pid(name)
            if pid is None:
                continue
            if (
                fault.what == "kill"
                and member.phase is Phase.READY
                and name not in self.seen.victims
            ):
                self.seen.killed_ready.add(name)
            if self._lethal(fault, name, member):
                self.seen.victims.setdefault(name, fault.what)
            if fault.what == "kill":
                _signal(pid, signal.SIGKILL)
            elif fault.what == "term":
                _signal(pid, signal.SIGTERM)
            elif fault.what == "freeze":
                seconds = float("inf") if fault.seconds is None else fault.seconds
                self._frozen[pid] = time.monotonic() + seconds
                _signal(pid, signal.SIGSTOP)
            self._say(f"{fault.what} {name}, which was {phase_of(member)}")

    def _lethal(self, fault: Fault, name: str, member: RunnerState) -> bool:
        """Whether what is done to this runner may cost it what it has."""
        if fault.what == "term":
            # Told to go, it sees its calls out and its results are fetched; told twice, it goes.
            twice = name in self._told
            self._told.add(name)
            return twice or member.phase is not Phase.READY
        if fault.what == "freeze" and fault.seconds is not None and not self.case.worker_ttl:
            return member.phase is Phase.BOOTING
        return True

    def _break(self, fault: Fault) -> None:
        """Do something to all connections, and have them work again after a while."""
        self._say(f"{fault.what} of {sum(link.connections for link in self.links)} connections")
        lethal = self.case.proxy == "runners" and fault.what not in LINK_PAUSES
        if lethal:
            self.seen.victims |= dict.fromkeys(self.cluster.runners, fault.what)
        for link in self.links:
            if fault.what == "hold":
                link.hold()
            elif fault.what == "delay":
                link.delay = (fault.seconds or 0) / 20
            elif fault.what == "cut":
                link.cut()
            elif fault.what == "cut-after":
                link.cut_after(self._random.choice([1, 300, 3_000, 100_000]))
            elif fault.what == "blink":
                link.cut(refuse=False)
            elif fault.what == "lose":
                link.lose()
            elif fault.what == "half-close":
                link.half_close(toward="client")
            elif fault.what == "half-close-there":
                link.half_close(toward="target")
        self._sleep(fault.seconds or 0)
        self._mend(fault)
        if lethal:
            # Those that came meanwhile.
            self.seen.victims |= dict.fromkeys(self.cluster.runners, fault.what)

    def _mend(self, fault: Fault) -> None:
        for link in self.links:
            link.delay = 0
            if fault.what in ("lose", "half-close", "half-close-there"):
                # What nobody hears of any more is noticed at last.
                link.cut(refuse=False)
            link.restore()

    def _say(self, what: str) -> None:
        self.seen.struck.append(what.split()[0])
        self.seen.said.append(f"{time.monotonic() - self._start:.3f} s: {what}")


def processes(supervisor: int | None) -> Counter[str]:
    """How many living children of the supervisor are runners of which pool."""
    found: Counter[str] = Counter()
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(supervisor).children() if supervisor else []:
            with contextlib.suppress(psutil.Error):
                name = mark_of(child).rpartition("/")[2]
                if name and child.status() != psutil.STATUS_ZOMBIE:
                    pool = name.rpartition("-")[0]
                    found["default" if pool == "runner" else pool] += 1
    return found


def templates(supervisor: int | None) -> list[int]:
    """The processes that the supervisor's runners are forked from."""
    found = []
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(supervisor).children() if supervisor else []:
            with contextlib.suppress(psutil.Error):
                if "template" in child.cmdline():
                    found.append(child.pid)
    return found


def phase_of(member: RunnerState) -> str:
    """What a runner is at, in one of the words of a case."""
    if member.phase is Phase.BOOTING:
        return "booting"
    if member.phase is Phase.READY:
        return "running" if member.busy else "idle"
    return "leaving"


def _signal(pid: int, what: signal.Signals) -> None:
    with contextlib.suppress(OSError):
        os.kill(pid, what)
