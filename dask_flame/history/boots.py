"""How the runners' boots fare, step by step, with no I/O and no clock.

A boot comes to its steps one after the other: ``accepted`` (the backend has taken the request),
those that the substrate tells of (``up`` for a local process), ``registered`` (the scheduler has
the runner), ``first call`` (the runner was given one). What lies between two steps is a phase, and
bears the name of the step that it leads to.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import overload

from dask_flame.core.terminal_text import tame
from dask_flame.history.journal import (
    BootFailed,
    BootHeldUp,
    BootStepped,
    Entry,
    RunnerEnded,
    RunnersAsked,
)

ACCEPTED, REGISTERED, FIRST_CALL = "accepted", "registered", "first call"
#: Not for backends to say: the cluster's own steps, and the names of an event's other numbers.
TAKEN = frozenset({"asked", ACCEPTED, REGISTERED, FIRST_CALL, "seconds", "runners", "pool"})

_KEPT = 1_000
#: Steps that are noted of one boot: a backend that says ever new ones fills no memory.
_MOST_STEPS = 12
_LONGEST_STEP = 40


@dataclass(frozen=True, slots=True, repr=False)
class Boot:
    """One runner's boot.

    Attributes
    ----------
    name : str
        The runner's.
    pool : str
    at : float
        When it was asked for: Unix time, in seconds.
    steps : tuple of (str, float)
        What it has come to and after how many seconds, in the order in which it came to it. A step
        that nobody told of is not there.
    ended : str
        Why it was over before the runner had registered; empty where it was not.
    failed : bool
        Whether that is a failure: False for a boot that nobody needed any more.
    lasted : float
        Seconds after which it was over in that way.
    trouble : str
        What holds it up, in the substrate's words; empty where nothing does that is known.
    """

    name: str
    pool: str
    at: float
    steps: tuple[tuple[str, float], ...] = ()
    ended: str = ""
    failed: bool = False
    lasted: float = 0.0
    trouble: str = ""

    @property
    def phases(self) -> dict[str, float]:
        """Seconds from each step to the next, by the name of the later one."""
        before = (0.0, *(seconds for _, seconds in self.steps))
        return {step: at - last for (step, at), last in zip(self.steps, before, strict=False)}

    @property
    def seconds(self) -> float | None:
        """From its request to its registration; None where there was none."""
        return self.after(REGISTERED)

    def after(self, step: str) -> float | None:
        """Seconds after which it had come to a step; None where it has not."""
        return next((seconds for name, seconds in self.steps if name == step), None)

    @property
    def last(self) -> str:
        """The last step that it has come to."""
        return self.steps[-1][0] if self.steps else "asked"

    @property
    def story(self) -> str:
        """How far it has come, as a part of a sentence."""
        told = [f"{step} after {shown(seconds)} s" for step, seconds in self.steps]
        if self.seconds is None:
            told.append("never registered" if self.steps else "never accepted")
            if self.trouble:
                told.append(f"held up by {self.trouble}")
        return tame(", ".join(told))

    def __repr__(self) -> str:
        told = [f"{step} {shown(seconds)}" for step, seconds in self.steps]
        if told:
            told[0] += " s"
        if self.ended:
            how = "failed" if self.failed else "given up"
            told.append(f"{how} after {shown(self.lasted)} s: {self.ended}")
        return tame(f"{self.name}: {', '.join(told) or 'asked for'}")


class BootLog(Sequence[Boot]):
    """The last boots of a cluster in the order in which they were asked for; bounded.

    Those that are under way are all there, with about a thousand of those that are over. Noting
    from the cluster's event loop while another thread reads is safe: a read works on a copy.
    """

    def __init__(self, kept: int = _KEPT) -> None:
        self._kept = kept
        self._count = 0
        # Each with its number and, on the clock of whoever notes, when it was asked for.
        self._under_way: dict[str, tuple[int, float, Boot]] = {}
        self._over: OrderedDict[str, tuple[int, float, Boot]] = OrderedDict()

    # What happens; times are on one clock that does not run backwards

    def asked(self, names: Collection[str], pool: str, now: float, *, at: float) -> None:
        """These runners are asked for, at this Unix time."""
        for name in names:
            self._count += 1
            self._under_way[name] = (self._count, now, Boot(name, pool, at))

    def apply(self, entry: Entry) -> None:
        """Note what an entry of the journal says of a boot."""
        match entry:
            case RunnersAsked():
                self.asked(entry.runners, entry.pool, entry.clock, at=entry.event.at)
            case BootStepped():
                self._step(entry.runner, entry.step, entry.seconds)
            case BootHeldUp():
                self.held_up(entry.runner, entry.why)
            case BootFailed():
                self._end(entry.runner, entry.why, entry.seconds, failed=True)
            case RunnerEnded():
                failed = entry.how == "failed"
                self._end(entry.runner, entry.why, entry.seconds, failed=failed)

    def measure(self, name: str, step: str, now: float) -> tuple[Boot, float] | None:
        """Return a boot as it is once it has come to a step; nothing is noted.

        The steps of a boot may be told in any order, and each counts when it is told for the first
        time. Those of runners that are not known, or whose boot has failed, are passed over.

        Returns
        -------
        (Boot, float) or None
            The boot as it is then, and the seconds since its step before; None where the step does
            not count.
        """
        known = self._under_way.get(name) or self._over.get(name)
        if known is None:
            return None
        _, asked, boot = known
        if boot.ended or len(boot.steps) >= _MOST_STEPS or boot.after(step) is not None:
            return None
        last = boot.steps[-1][1] if boot.steps else 0.0
        seconds = max(now - asked, last)
        return _stepped(boot, step, seconds), seconds - last

    def is_news(self, name: str, why: str) -> bool:
        """Whether it is news that a boot is held up for this reason.

        It is none where another boot is held up for the same reason, or the boot is not under way.
        """
        if not why or name not in self._under_way:
            return False
        return all(boot.trouble != why for _, _, boot in self._under_way.values())

    def held_up(self, name: str, why: str) -> None:
        """A boot is held up, or no longer (``""``)."""
        if (known := self._under_way.get(name)) is not None:
            number, asked, boot = known
            self._under_way[name] = (number, asked, replace(boot, trouble=why))

    def _step(self, name: str, step: str, seconds: float) -> None:
        known = self._under_way.get(name) or self._over.get(name)
        if known is None:
            return
        number, asked, boot = known
        boot = _stepped(boot, step, seconds)
        if name in self._over:
            self._over[name] = (number, asked, boot)
        elif step == REGISTERED:
            self._settle(number, asked, boot)
        else:
            self._under_way[name] = (number, asked, boot)

    def _end(self, name: str, why: str, lasted: float, *, failed: bool) -> None:
        if (known := self._under_way.get(name)) is not None:
            number, asked, boot = known
            boot = replace(boot, ended=why or "ended", failed=failed, lasted=max(0.0, lasted))
            self._settle(number, asked, boot)

    def _settle(self, number: int, asked: float, boot: Boot) -> None:
        self._over[boot.name] = (number, asked, boot)
        del self._under_way[boot.name]
        while len(self._over) > self._kept:
            self._over.popitem(last=False)

    # What there is

    def of(self, name: str) -> Boot | None:
        """The boot of this runner, None where it is not known (any more)."""
        known = self._under_way.get(name) or self._over.get(name)
        return None if known is None else known[2]

    def medians(self, pool: str | None = None) -> dict[str, float]:
        """The median seconds of each phase, over the boots that came up, in their usual order.

        Parameters
        ----------
        pool : str, optional
            By default all pools.
        """
        return medians(self._of(pool))

    def summary(self, pool: str | None = None) -> str:
        """The median boot and its slowest phase, in a few words; empty before the first."""
        return summary(self._of(pool))

    def how_far(self, names: Collection[str]) -> str:
        """How far these boots have come: the story of one, or how many came how far."""
        boots = [boot for name in names if (boot := self.of(name)) is not None]
        if len(boots) == 1:
            return boots[0].story
        counts = Counter(boot.last for boot in boots)
        told = ", ".join(f"{number} came as far as {step!r}" for step, number in counts.items())
        troubles = list(dict.fromkeys(boot.trouble for boot in boots if boot.trouble))
        return f"{told}; held up by {'; '.join(troubles[:2])}" if troubles else told

    def _of(self, pool: str | None) -> list[Boot]:
        return [boot for boot in self if pool in (None, boot.pool)]

    @overload
    def __getitem__(self, index: int) -> Boot: ...
    @overload
    def __getitem__(self, index: slice) -> list[Boot]: ...
    def __getitem__(self, index: int | slice) -> Boot | list[Boot]:
        return self._all()[index]

    def __iter__(self) -> Iterator[Boot]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._under_way) + len(self._over)

    def __repr__(self) -> str:
        lines = [*map(repr, self), self.summary()]
        return "\n".join(line for line in lines if line) or "no boots yet"

    def _all(self) -> list[Boot]:
        # A boot that is settled between the two copies is in both of them: the later one holds.
        known = {b.name: (number, b) for number, _, b in list(self._under_way.values())}
        known |= {b.name: (number, b) for number, _, b in list(self._over.values())}
        return [boot for _, boot in sorted(known.values(), key=lambda known: known[0])]


def _stepped(boot: Boot, step: str, seconds: float) -> Boot:
    trouble = "" if step == REGISTERED else boot.trouble
    return replace(boot, steps=(*boot.steps, (step, seconds)), trouble=trouble)


def medians(boots: Collection[Boot]) -> dict[str, float]:
    """The median seconds of each phase, over those of these boots that came up."""
    took: dict[str, list[float]] = {step: [] for step in in_order(boots)}
    for boot in boots:
        if boot.seconds is not None:
            for step, seconds in boot.phases.items():
                took[step].append(seconds)
    return {step: median(seconds) for step, seconds in took.items() if seconds}


def summary(boots: Collection[Boot]) -> str:
    """The median of these boots and its slowest phase, in a few words; empty before the first."""
    phases = medians(boots)
    # How long a runner waits for its first call says nothing of its boot.
    phases.pop(FIRST_CALL, None)
    if not phases:
        return ""
    slowest = max(phases, key=lambda step: phases[step])
    took = median(boot.seconds for boot in boots if boot.seconds is not None)
    return f"median {shown(took)} s, {shown(phases[slowest])} of it until {slowest}"


def in_order(boots: Collection[Boot]) -> list[str]:
    """The steps of these boots, each once, in the order in which most boots come to them."""
    places: dict[str, list[int]] = {}
    for boot in boots:
        for place, (step, _) in enumerate(boot.steps):
            places.setdefault(step, []).append(place)
    mean = {step: sum(where) / len(where) for step, where in places.items()}
    # What is always last is so where it was told of steps that others were not, too.
    late = {REGISTERED: 1, FIRST_CALL: 2}
    return sorted(mean, key=lambda step: (late.get(step, 0), mean[step]))


def is_step(step: object) -> bool:
    """Whether a backend may say this of a boot."""
    return isinstance(step, str) and 0 < len(step) <= _LONGEST_STEP and step not in TAKEN


def shown(seconds: float) -> str:
    """Seconds as they are written of a boot."""
    return f"{seconds:.3f}" if seconds < 10 else f"{seconds:.1f}"
