"""The decisions of a fleet: plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class BootRequest:
    """Runners to boot in one wave, with the reason, and the kind of each by its name."""

    names: tuple[str, ...]
    reason: str
    kinds: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Retirement:
    """A runner to end, with the reason.

    Attributes
    ----------
    name, reason : str
    force : bool
        Do not wait for the runner.
    failed : bool
        Whether its boot failed.
    """

    name: str
    reason: str
    force: bool = False
    failed: bool = False


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Why the waiting calls cannot be served.

    Attributes
    ----------
    reason : str
    late : bool
        Whether the last boot exceeded ``boot_timeout``.
    runner : str
        The runner whose boot failed last.
    """

    reason: str
    late: bool
    runner: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """The actions to take now.

    Attributes
    ----------
    boot : BootRequest or None
    retire : tuple of Retirement
    check : tuple of str
        Runners to ask their pool's ``idle_check``; pass each answer to :meth:`Fleet.checked`.
    give_up : GiveUp or None
        Fail the waiting calls.
    wake : float or None
        Time of the next decision, if nothing happens before it.
    numbers : mapping of str to float
        The inputs of the decision: demand, target, and the pool's runners and bounds.
    """

    boot: BootRequest | None = None
    retire: tuple[Retirement, ...] = ()
    check: tuple[str, ...] = ()
    give_up: GiveUp | None = None
    wake: float | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)
