"""Whether a cluster's machines are this driver's, or another one's (driver)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from dask_flame.backends.fly.api.client import FlyApi, metadata_of
from dask_flame.backends.fly.api.types import Machine
from dask_flame.backends.fly.machine_state import is_gone
from dask_flame.backends.fly.metadata import (
    COMPONENT,
    DRIVER,
    KIND,
    NAME,
    POOL,
    PROCESS,
    RUNNER,
    Identity,
)
from dask_flame.backends.fly.options import FlyOptions
from dask_flame.backends.fly.present_driver import mark_in, mark_text
from dask_flame.backends.fly.runner import Runner
from dask_flame.backends.specs import RunnerSpec


class Ownership:
    """Know whether this process is the driver of its cluster.

    Parameters
    ----------
    identity : Identity
    adopts : bool
        Whether this process takes over a cluster that exists.
    replaced : callable
        Called with the reason when another process has become the driver.

    Attributes
    ----------
    left : bool
        Whether the machines are another driver's: while this one is not connected, and once another
        one has taken its place. Then nothing is made and nothing destroyed.
    was_driver : bool
        Whether they have ever been this driver's.
    claimed : bool
        Whether they say that they are, though this driver was not the first one.
    """

    def __init__(
        self, identity: Identity, *, adopts: bool, replaced: Callable[[str], None]
    ) -> None:
        self._identity = identity
        self._replaced = replaced
        self._id = ""  # this driver's, if it has taken the cluster over
        #: Drivers, as `metadata.PROCESS`, whose machines this one destroys if nobody waits for
        #: them. Those of a later driver are not among them.
        self._processes = {identity.process}
        self.left = adopts
        self.was_driver = not adopts
        self.claimed = False

    async def claim(self, api: FlyApi, scheduler: str, id: str) -> None:
        """Have the machine of the scheduler say that this process is the driver.

        Parameters
        ----------
        api : FlyApi
        scheduler : str
            The id of the scheduler's machine.
        id : str
            The id of this driver.

        Raises
        ------
        FlyError
        """
        self._id = id
        # A driver that still lives sees this before it sees machines that it does not know.
        await api.set_metadata(scheduler, DRIVER, mark_text(id, self._identity, api.now))
        self.claimed = True

    def succeed(self, machines: Iterable[Machine]) -> None:
        """Regard the machines of earlier drivers as this one's.

        Parameters
        ----------
        machines : iterable of Machine
            All machines of the cluster.
        """
        self._processes |= {metadata_of(machine).get(PROCESS, "") for machine in machines}

    def connected(self) -> None:
        """Note that the scheduler has accepted this process as the driver."""
        self.left, self.was_driver = False, True

    def look_for_successor(self, scheduler: Machine | None) -> bool:
        """Report another process that has become the driver; return whether there is one.

        Parameters
        ----------
        scheduler : Machine or None
            The scheduler's machine, as it was seen last.
        """
        if scheduler is None:
            return False
        mark = mark_in(metadata_of(scheduler))
        if not mark.id or mark.id == self._id:
            return False
        if not self.left:
            self._replaced(f"another process has become the driver of this cluster: {mark.owner}")
        return True

    def covers(self, metadata: Mapping[str, str]) -> bool:
        """Return whether a machine was created by this driver, or by one before it."""
        return metadata.get(PROCESS, "") in {"", *self._processes}


def inherited_runners(
    machines: Iterable[Machine], expected: Sequence[tuple[RunnerSpec, FlyOptions]]
) -> Iterator[Runner]:
    """Return the runners whose machines earlier drivers have created.

    Parameters
    ----------
    machines : iterable of Machine
        All machines of the cluster.
    expected : sequence of tuple
        A runner of each pool, and its options.
    """
    for machine in machines:
        own = metadata_of(machine)
        name, pool = own.get(NAME, ""), own.get(POOL, "")
        if own.get(COMPONENT) != RUNNER or not name or is_gone(machine):
            continue
        spec, options = next((e for e in expected if e[0].pool == pool), expected[0])
        runner = Runner(replace(spec, name=name, pool=pool, kind=own.get(KIND, "")), options)
        runner.machine, runner.since = machine["id"], time.monotonic()
        yield runner
