"""The journal of a cluster and the records made from it (driver)."""

from __future__ import annotations

from collections.abc import Iterable

from dask_flame.history.boots import BootLog
from dask_flame.history.events import EventLog
from dask_flame.history.journal import Journal
from dask_flame.history.timeline import RunnerTimeline
from dask_flame.history.usage import UsageByPool


class History:
    """The history of a cluster: append to its journal, read its other attributes.

    Parameters
    ----------
    pools : iterable of str
        Names of the pools.

    Attributes
    ----------
    journal : Journal
    events : EventLog
    boots : BootLog
    timeline : RunnerTimeline
    usage : UsageByPool
    """

    def __init__(self, pools: Iterable[str]) -> None:
        self.journal = Journal()
        self.events = EventLog()
        self.boots = BootLog()
        self.timeline = RunnerTimeline()
        self.usage = UsageByPool(pools)
        for record in (self.events, self.boots, self.timeline, self.usage):
            self.journal.subscribe(record.apply)
