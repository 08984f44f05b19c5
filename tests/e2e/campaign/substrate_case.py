"""What cases on a substrate with an API have in common: its themes, made from one integer."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from tests.e2e.campaign.case import (
    PHASES,
    Case,
    Fault,
    driver_killed,
    moment,
    pools_of,
    rounds_of,
)

#: Seconds: what is here is over soon, whatever has been cut.
_GRACE = 3.0

#: Of a theme: the faults beside those of the API, and more fields of the case.
Mishaps = Callable[[random.Random, str], tuple[list[Fault], dict[str, object]]]


@dataclass(frozen=True)
class Substrate:
    """What the cases of one substrate are made of.

    Attributes
    ----------
    name : str
        Seeds stand for other cases on each.
    themes : tuple of str
        In turn: ``"driver"``, ``"api"``, ``"boots"``, ``"mix"``, and its own.
    api_faults : tuple of str
        What is done to its API for a while.
    kills : tuple of str
        What else happens when a driver is killed.
    mishaps : callable
    """

    name: str
    themes: tuple[str, ...]
    api_faults: tuple[str, ...]
    kills: tuple[str, ...]
    mishaps: Mishaps

    def case(self, seed: int) -> Case:
        """The case of a seed; those of consecutive seeds go through all themes and phases."""
        rng = random.Random(f"{self.name} {seed}")
        turn, place = divmod(seed, len(self.themes))
        theme = self.themes[place]
        pools = pools_of(rng, theme)
        faults: list[Fault] = []
        more: dict[str, object] = {"boot_timeout": 60.0}
        if theme == "driver":
            more |= driver_killed(rng, self.themes, turn, place, self.kills)
        if theme in ("api", "mix"):
            # Of each kind in turn, at each phase in turn.
            which = 2 * turn + (place > 1)
            phase = PHASES[which // len(self.api_faults) % len(PHASES)]
            first = self.api_faults[which % len(self.api_faults)]
            faults.append(Fault(first, phase, moment(rng), 1, rng.uniform(0.3, 4)))
            faults += some_faults(rng, self.api_faults, 0, 1)
        others, fields = self.mishaps(rng, theme)
        faults += others
        more |= fields
        if theme == "boots":
            more["boots"] = tuple(rng.choices(["raise", "exit", "kill", "slow", "ok"], k=3))
            more["all_boots"] = rng.choice(["", "", "raise"])
            more["boot_attempts"] = rng.choice([1, 2, 3, 3])
            waits = not more["all_boots"] and rng.random() < 0.4
            more["on_boot_failure"] = "wait" if waits else "fail"
        rng.shuffle(faults)
        return Case(
            seed,
            theme,
            pools,
            rounds_of(rng, pools)[:2],
            tuple(faults),
            grace=_GRACE,
            **more,  # type: ignore[arg-type]
        )


def some_faults(rng: random.Random, ways: tuple[str, ...], least: int, most: int) -> list[Fault]:
    """So many faults of these ways, each at some phase, some of them to two runners."""
    return [_fault(rng, ways) for _ in range(rng.randint(least, most))]


def _fault(rng: random.Random, ways: tuple[str, ...]) -> Fault:
    seconds = rng.uniform(0.2, 4)
    return Fault(rng.choice(ways), rng.choice(PHASES), moment(rng), rng.choice([1, 1, 2]), seconds)
