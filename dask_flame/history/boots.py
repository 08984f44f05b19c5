"""The boots of runners, step by step, with no I/O and no clock.

A boot reaches its steps one after the other: ``accepted`` (the backend has taken the request), the
steps that the backend reports (``up`` for a local process), ``setting up`` and ``setup`` (the
runner begins its pool's ``setup=``, and has done it), ``registered`` (the scheduler has the
runner), ``first call`` (the runner got its first call). A phase is the time between two steps; its
name is that of the later step.
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
SETTING_UP, SETUP = "setting up", "setup"
#: Names that backends must not use: the cluster's own steps, and other numbers of an event.
TAKEN = frozenset({"asked", ACCEPTED, SETTING_UP, SETUP, REGISTERED, FIRST_CALL})
TAKEN |= {"seconds", "runners", "pool"}

_KEPT = 1_000
#: Maximum number of steps of a boot, to bound the memory if a backend reports ever new ones.
_MOST_STEPS = 12
_LONGEST_STEP = 40


@dataclass(frozen=True, slots=True, repr=False)
class Boot:
    """One runner's boot.

    Attributes
    ----------
    name : str
        The runner's name.
    pool : str
        The runner's pool.
    at : float
        When the runner was requested: Unix time, in seconds.
    steps : tuple of (str, float)
        The steps that the boot has reached, in order, each with the seconds since the request.
        Steps that were not reported are missing.
    ended : str
        Why the boot ended before the runner registered; empty if it did not.
    failed : bool
        Whether that is a failure: False for a boot that was no longer needed.
    lasted : float
        Seconds from the request to that end.
    trouble : str
        What delays the boot, in the backend's words; empty if nothing is known to.
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
        """Seconds of each phase, by the name of the step at its end."""
        before = (0.0, *(seconds for _, seconds in self.steps))
        return {step: at - last for (step, at), last in zip(self.steps, before, strict=False)}

    @property
    def seconds(self) -> float | None:
        """Seconds from the request to the registration; None if the runner has not registered."""
        return self.after(REGISTERED)

    def after(self, step: str) -> float | None:
        """Return the seconds from the request to a step; None if the boot has not reached it."""
        return next((seconds for name, seconds in self.steps if name == step), None)

    @property
    def last(self) -> str:
        """The last step that the boot has reached."""
        return self.steps[-1][0] if self.steps else "asked"

    @property
    def story(self) -> str:
        """The progress of the boot, as a part of a sentence."""
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
    """The last boots of a cluster, in the order of their requests; bounded.

    Contains all boots in progress, and about a thousand finished ones. Appending from the cluster's
    event loop while another thread reads is safe: a read works on a copy.

    Parameters
    ----------
    kept : int, default 1000
        Number of finished boots to keep.
    """

    def __init__(self, kept: int = _KEPT) -> None:
        self._kept = kept
        self._count = 0
        # By name: the boot's number, the time of its request on the caller's clock, and the boot.
        self._under_way: dict[str, tuple[int, float, Boot]] = {}
        self._over: OrderedDict[str, tuple[int, float, Boot]] = OrderedDict()

    # Add; times are on one monotonic clock

    def asked(self, names: Collection[str], pool: str, now: float, *, at: float) -> None:
        """Add requested runners.

        Parameters
        ----------
        names : collection of str
        pool : str
        now : float
            Time on the clock that measures boots, in seconds.
        at : float
            The same moment as Unix time, in seconds.
        """
        for name in names:
            self._count += 1
            self._under_way[name] = (self._count, now, Boot(name, pool, at))

    def apply(self, entry: Entry) -> None:
        """Update the boot that a journal entry is about."""
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
        """Return a copy of a boot with a further step; the log is not changed.

        Steps may be reported in any order, and count when they are reported for the first time.
        Steps of unknown runners, and of boots that have failed, do not count.

        Parameters
        ----------
        name : str
            The runner's name.
        step : str
            The step that it has reached.
        now : float
            Time on the clock that measures boots, in seconds.

        Returns
        -------
        (Boot, float) or None
            The boot with the step, and the seconds since its previous step; None if the step does
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
        """Return whether a boot's delay for this reason is worth an event.

        It is not if another boot is delayed for the same reason, or if the boot is not in progress.
        """
        if not why or name not in self._under_way:
            return False
        return all(boot.trouble != why for _, _, boot in self._under_way.values())

    def held_up(self, name: str, why: str) -> None:
        """Set the reason for a boot's delay; empty if it is no longer delayed."""
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

    # Read

    def of(self, name: str) -> Boot | None:
        """Return the boot of this runner; None if it is unknown or forgotten."""
        known = self._under_way.get(name) or self._over.get(name)
        return None if known is None else known[2]

    def medians(self, pool: str | None = None) -> dict[str, float]:
        """Return the median seconds of each phase of successful boots, in the usual order.

        Parameters
        ----------
        pool : str, optional
            The pool to consider; all pools by default.
        """
        return medians(self._of(pool))

    def summary(self, pool: str | None = None) -> str:
        """Return the median boot time and the slowest phase; empty before the first boot."""
        return summary(self._of(pool))

    def how_far(self, names: Collection[str]) -> str:
        """Return the progress of one boot, or the numbers of boots by their last step."""
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
        # A boot that ends between the two copies is in both of them: prefer the later one.
        known = {b.name: (number, b) for number, _, b in list(self._under_way.values())}
        known |= {b.name: (number, b) for number, _, b in list(self._over.values())}
        return [boot for _, boot in sorted(known.values(), key=lambda known: known[0])]


def _stepped(boot: Boot, step: str, seconds: float) -> Boot:
    trouble = "" if step == REGISTERED else boot.trouble
    return replace(boot, steps=(*boot.steps, (step, seconds)), trouble=trouble)


def medians(boots: Collection[Boot]) -> dict[str, float]:
    """Return the median seconds of each phase of the successful ones among these boots."""
    took: dict[str, list[float]] = {step: [] for step in in_order(boots)}
    for boot in boots:
        if boot.seconds is not None:
            for step, seconds in boot.phases.items():
                took[step].append(seconds)
    return {step: median(seconds) for step, seconds in took.items() if seconds}


def summary(boots: Collection[Boot]) -> str:
    """Return the median time of these boots and the slowest phase; empty if none succeeded."""
    phases = medians(boots)
    # The time until the first call is not a part of the boot.
    phases.pop(FIRST_CALL, None)
    if not phases:
        return ""
    slowest = max(phases, key=lambda step: phases[step])
    took = median(boot.seconds for boot in boots if boot.seconds is not None)
    return f"median {shown(took)} s, {shown(phases[slowest])} of it until {slowest}"


def in_order(boots: Collection[Boot]) -> list[str]:
    """Return the steps of these boots, each once, in the order in which most boots reach them."""
    places: dict[str, list[int]] = {}
    for boot in boots:
        for place, (step, _) in enumerate(boot.steps):
            places.setdefault(step, []).append(place)
    mean = {step: sum(where) / len(where) for step, where in places.items()}
    # These two are always last, although their mean position is low in boots with few steps.
    late = {REGISTERED: 1, FIRST_CALL: 2}
    return sorted(mean, key=lambda step: (late.get(step, 0), mean[step]))


def is_step(step: object) -> bool:
    """Return whether a backend may report this value as a step."""
    return isinstance(step, str) and 0 < len(step) <= _LONGEST_STEP and step not in TAKEN


def shown(seconds: float) -> str:
    """Format the seconds of a boot."""
    return f"{seconds:.3f}" if seconds < 10 else f"{seconds:.1f}"
