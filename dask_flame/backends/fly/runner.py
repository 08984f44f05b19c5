"""The state of a runner that was requested (driver)."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from dask_flame.backends.fly.api.client import Creation
from dask_flame.backends.fly.options import FlyOptions
from dask_flame.backends.specs import RunnerSpec


@dataclass(eq=False)
class Runner:
    """A runner, from its request to its end.

    Attributes
    ----------
    spec : RunnerSpec
    options : FlyOptions
    creation : Creation
        The request for its machine.
    machine : str
        The id of its machine; empty while there is none.
    making : asyncio.Task or None
        Makes the machine.
    since : float
        When its machine was asked to start (``time.monotonic``); 0 before.
    started : bool
        Whether its process has started.
    ending : bool
        Whether the cluster has asked for its end.
    burying : asyncio.Task or None
        Finds out why it has ended, and removes its machine.
    gone : asyncio.Event
        Set when its end was reported.
    """

    spec: RunnerSpec
    options: FlyOptions
    creation: Creation = field(default_factory=Creation)
    machine: str = ""
    making: asyncio.Task[None] | None = None
    since: float = 0.0
    started: bool = False
    ending: bool = False
    burying: asyncio.Task[None] | None = None
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def settled(self) -> bool:
        """Whether its machine was made and asked to start, and is expected in lists."""
        return self.since > 0 and not self.gone.is_set()

    @property
    def stuck(self) -> bool:
        """Whether its machine has not started within ``boot_timeout``."""
        late = time.monotonic() > self.since + self.spec.boot_timeout
        return self.settled and not self.started and late
