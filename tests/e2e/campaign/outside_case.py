"""What a case with a driver outside of the cluster is, made from one integer."""

from __future__ import annotations

import random
from dataclasses import dataclass

#: What becomes of the scheduler's pod: it runs; its image cannot be pulled; no node has room for
#: it; its image is there only after a while; the Job's controller makes no pod.
PODS = ("runs", "image", "room", "slow", "refused")
#: What is done: the driver is killed while it makes the cluster, or with calls under way; the API
#: server is away for less than the grace, or for longer.
WHAT = ("constructor", "busy", "short outage", "constructor", "long outage")
GRACE = 3.0


@dataclass(frozen=True)
class OutsideCase:
    """One case.

    Attributes
    ----------
    seed : int
    what : str
        One of :data:`WHAT`.
    pod : str
        One of :data:`PODS`.
    after : float
        Seconds from when the driver begins, or is busy, until it is done.
    outage : float
        Seconds for which the API server is away; 0: it stays.
    calls : int
    seconds : float
        That each call takes.
    """

    seed: int
    what: str
    pod: str
    after: float
    outage: float
    calls: int
    seconds: float

    def __str__(self) -> str:
        lines = [
            f"seed {self.seed}: {self.what}, {self.after:.2f} s after it begins",
            f"  the scheduler's pod: {self.pod}",
            f"  {self.calls} calls of {self.seconds:.2f} s",
        ]
        if self.outage:
            lines.append(
                f"  the API server is away for {self.outage:.1f} s, with {GRACE:g} s grace"
            )
        return "\n".join(lines)


def make_outside_case(seed: int) -> OutsideCase:
    """The case of a seed; those of consecutive seeds go through all there is."""
    rng = random.Random(f"outside {seed}")
    turn, place = divmod(seed, len(WHAT))
    what = WHAT[place]
    pod = PODS[(2 * turn + (place > 1)) % len(PODS)] if what == "constructor" else "runs"
    if what == "constructor":
        after, outage = rng.uniform(0, 3), rng.choice([0.0, 0.0, rng.uniform(0.5, 2)])
    elif what == "busy":
        after, outage = rng.uniform(0, 1), 0.0
    elif what == "short outage":
        after, outage = rng.uniform(0, 1), rng.uniform(0.2, 0.5) * GRACE
    else:
        after, outage = rng.uniform(0, 1), rng.uniform(3, 5) * GRACE
    calls = rng.randint(1, 3)
    return OutsideCase(seed, what, pod, after, outage, calls, rng.uniform(0.1, 4))
