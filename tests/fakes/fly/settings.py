"""Delays of the fake Fly's machines, and what else holds for all of them (test process)."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Delays:
    """Seconds between the states of a machine, before they are divided by the fake's speed."""

    create: float = 2.0
    start: float = 0.4
    suspend: float = 0.3
    resume: float = 0.2
    destroy: float = 0.3


@dataclass
class Settings:
    """What holds for all machines.

    Attributes
    ----------
    folder : Path
        Their folders are below it.
    delays : Delays
    speed : float
    images : dict
        By image, its ``entrypoint`` and ``cmd``.
    pythons : dict
        By image, the program that ``python`` is in it.
    secrets : dict
        By app, the secrets, base64.
    env : dict
        Variables of all machines.
    """

    folder: Path
    delays: Delays
    speed: float
    images: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    pythons: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, dict[str, str]] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)


def seconds_of(text: object, default: float) -> float:
    """Return the seconds of a duration as Go writes it, or of a number of nanoseconds.

    Examples
    --------
    >>> seconds_of("1m30s", 5), seconds_of(2_000_000_000, 5), seconds_of(None, 5)
    (90.0, 2.0, 5)
    """
    if text is None:
        return default
    if isinstance(text, (int, float)):
        return text / 1e9
    if re.fullmatch(r"\d+", str(text)):
        return float(str(text))
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h)", str(text))
    return sum(float(amount) * _UNITS[unit] for amount, unit in parts)


def signal_of(name: str | None, default: signal.Signals) -> signal.Signals:
    return signal.Signals[name] if name else default
