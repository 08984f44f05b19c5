"""A case on Fly (driver): what is done to its machines and to the Machines API."""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from dask_flame.backends.fly import FlyBackend
from dask_flame.backends.fly.metadata import NAME, POOL
from dask_flame.scaling.fleet import Phase
from tests.e2e.campaign.case import Case, Fault
from tests.e2e.campaign.faults import Faults, phase_of
from tests.e2e.campaign.judge import wrong_reasons
from tests.e2e.campaign.play import Local, Played
from tests.fakes.fly import FakeFly

_SLOW = 0.4
#: Seconds by which the clock of the API is wrong.
_SKEW = 86_400.0
#: What may stand in the reason of a runner's end that had such a thing done to it.
_WORDS = {
    "machine-kill": ("SIGKILL",),
    "machine-oom": ("out of memory",),
    "machine-destroy": ("destroyed by somebody else", "SIGKILL"),
}


class _Backend(FlyBackend):
    """With what the parts of a campaign ask of one."""

    supervisor: int | None = None
    refused = 0

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.mark = uuid.uuid4().hex


class Machines(Local):
    """Where a case is played: in machines of a fake Fly.

    Parameters
    ----------
    fly : FakeFly, optional
        The fake, if it is in this process; else nothing is done to it.
    """

    remote = True

    def __init__(self, fly: FakeFly | None = None) -> None:
        self.fly = fly

    def backend(self, case: Case, through: Callable[[str], str], *args: Any) -> Any:
        return _Backend(*args)

    def faults(self, *args: Any) -> Faults:
        return MachineFaults(self.fly, *args)


class MachineFaults(Faults):
    """Does the faults of a case to a cluster on Fly."""

    def __init__(self, fly: FakeFly | None, *args: Any) -> None:
        super().__init__(*args)
        self.fly = fly

    def _count(self, now: float) -> None:
        if self.fly is None or not self._time_to_count(now):
            return
        found: Counter[str] = Counter()
        for machine in self.fly.machines():
            if machine["state"] in ("created", "starting", "started"):
                found[machine["config"]["metadata"].get(POOL, "")] += 1
        for pool, number in found.items():
            self.seen.most[pool] = max(self.seen.most.get(pool, 0), number)
        for name in self.fly.stuck():
            self.seen.victims[_runner_of(self.fly, name)] = "stuck"

    def _strike(self, fault: Fault) -> None:
        if self.fly is None:
            return
        if fault.what.startswith("api-"):
            self._say(f"{fault.what} for {fault.seconds:.2f} s")
            with trouble(self.fly, fault.what):
                self._sleep(fault.seconds or 0.0)
        elif fault.what == "stuck":
            self._say("stuck")
            self.fly.stick()
        else:
            self._strike_machines(self.fly, fault)

    def _strike_machines(self, fly: FakeFly, fault: Fault) -> None:
        members = sorted(self.cluster.runners.items())
        self._random.shuffle(members)
        members.sort(key=lambda item: phase_of(item[1]) != fault.phase)
        for name, member in members[: fault.count]:
            machine = _machine_of(fly, name)
            ready = member.phase is Phase.READY and name not in self.seen.victims
            if not machine:
                continue  # it is yet to be created
            self.seen.victims[name] = fault.what if ready else "several things"
            with contextlib.suppress(KeyError):  # it is gone
                _DO[fault.what](fly, machine)
                self._say(f"{fault.what} {name}, which was {phase_of(member)}")


def _machine_of(fly: FakeFly, runner: str) -> str:
    """Return the machine of a runner; empty if it has none, yet or any more."""
    for machine in fly.machines():
        if machine["config"]["metadata"].get(NAME) == runner:
            return str(machine["id"])
    return ""


def _runner_of(fly: FakeFly, name: str) -> str:
    """Return the runner of the machine with a name."""
    (machine,) = [m for m in fly.machines(deleted=True) if m["name"] == name]
    return str(machine["config"]["metadata"].get(NAME, ""))


@contextlib.contextmanager
def trouble(fly: FakeFly, what: str) -> Iterator[None]:
    """Have the API in trouble for as long as this lasts."""
    over = threading.Event()
    again: threading.Thread | None = None
    if what == "api-down":
        fly.down()
    elif what == "api-slow":
        fly.slow(_SLOW)
    elif what == "api-full":
        fly.capacity("ams", 0)
    elif what == "api-skew":
        fly.skew(-_SKEW)
    elif what == "api-storm":
        fly.storm(60.0)
    else:
        again = threading.Thread(target=_again, args=(fly, what, over), name="campaign-trouble")
        again.start()
    try:
        yield
    finally:
        over.set()
        if again is not None:
            again.join()
        fly.calm()
        fly.slow(0)
        fly.skew(0)
        fly.capacity("ams", None)
        fly.up()


def _again(fly: FakeFly, what: str, over: threading.Event) -> None:
    """Make troubles that come again and again."""
    number = 0
    while not over.is_set():
        number += 1
        if what == "api-errors":
            fly.fail("*", status=(500, 503, 504, 429)[number % 4], retry_after=0.1)
        elif what == "api-lost":
            fly.fail(("create", "delete", "list")[number % 3], status=None, after=True)
        else:
            fly.fail(("create", "*")[number % 2], status=None, hang=2.0)
        over.wait(0.15)
    fly.calm()


_DO: dict[str, Callable[[FakeFly, str], None]] = {
    "machine-kill": lambda fly, machine: fly.kill(machine),
    "machine-oom": lambda fly, machine: fly.oom(machine),
    "machine-destroy": lambda fly, machine: fly.destroy(machine),
    "machine-stop": lambda fly, machine: fly.halt(machine),
}


def judge_machines(case: Case, played: Played) -> Iterator[str]:
    """Yield what is wrong beside what :func:`tests.e2e.campaign.judge.judge` finds."""
    yield from wrong_reasons(played, _WORDS)
    # A region without room is no trouble that a single boot can wait for.
    full = any(fault.what == "api-full" for fault in case.faults)
    if case.theme == "api":
        for event in played.events:
            if event.kind == "failed" and not (full and "insufficient" in event.reason):
                yield f"the API's trouble has passed, and a boot failed: {event}"
