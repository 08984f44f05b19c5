"""A runner that was requested, and what is known of its pod (driver)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from dask_flame.backends.kubernetes.capacity_wait import CapacityWait


@dataclass
class Runner:
    """The state of a runner that was requested."""

    pod: str
    pool: str
    capacity: CapacityWait
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    making: asyncio.Task[None] | None = None
    ending: bool = False
    why: str = ""
    held: str = ""
    final: bool = False
    no_capacity: bool = False
    following: asyncio.Task[None] | None = None
    steps: set[str] = field(default_factory=set)

    @property
    def wanted(self) -> bool:
        """Whether it is neither to end nor known to have ended."""
        return not self.ending and not self.why
