"""What a fleet decides: values, and nothing that acts on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class BootRequest:
    """Runners to boot, all at once, and why."""

    names: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Retirement:
    """A runner to end and why; by force where it must not be waited for, or failed to boot."""

    name: str
    reason: str
    force: bool = False
    failed: bool = False


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Why the calls that wait will not be served; late, where boots took too long.

    The runner is the one whose boot failed last.
    """

    reason: str
    late: bool
    runner: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do now.

    Attributes
    ----------
    boot : BootRequest or None
    retire : tuple of Retirement
    check : tuple of str
        Runners to ask their pool's ``idle_check``; the answer goes to :meth:`Fleet.checked`.
    give_up : GiveUp or None
        Fail the calls that wait.
    wake : float or None
        When to decide again, if nothing happens before.
    numbers : mapping of str to float
        What was decided from: demand, target, and the pool's runners and bounds.
    """

    boot: BootRequest | None = None
    retire: tuple[Retirement, ...] = ()
    check: tuple[str, ...] = ()
    give_up: GiveUp | None = None
    wake: float | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)
