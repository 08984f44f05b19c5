"""The part of a backend's contract about its scheduler: where it runs, who reaches it (driver)."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from dask_flame.backends.specs import BackendContext, SchedulerSpec
from dask_flame.core.connection import ConnectionInfo


class SchedulerPlacement:
    """Start the scheduler near the runners, and let other processes reach it, or take it over.

    All of this is optional: the scheduler of a backend that implements none of it runs in the
    driver's process. For one that does not, see :mod:`dask_flame.remote`.
    """

    #: Places where the scheduler can run: in the ``"driver"``, or in a ``"pod"`` near the runners.
    scheduler_places: ClassVar[frozenset[str]] = frozenset({"driver"})
    #: What is called ``"pod"`` there, for messages.
    scheduler_place_word: ClassVar[str] = "pod"
    #: Whether :meth:`reach` leads to any port of the loopback address of the scheduler's process.
    #: If not, it is called for the scheduler's own port alone, and the dashboard is reached through
    #: the scheduler's connection.
    reaches_loopback: ClassVar[bool] = True
    #: Whether a process can become the driver of a cluster whose driver is gone, see
    #: :meth:`join_scheduler`.
    adopts: ClassVar[bool] = False

    context: BackendContext

    @property
    def apart(self) -> bool:
        """Whether :meth:`start_scheduler` starts the scheduler near the runners, not in the driver.

        Known when :meth:`start` has returned.
        """
        return False

    async def start_scheduler(self, spec: SchedulerSpec, over: Callable[[str], None]) -> str:
        """Start a process for the scheduler near the runners. Return when it has started.

        This is called once, after :meth:`start`, and only if :attr:`apart` is true. When that
        process ends, everything that the backend created must end with it.

        Parameters
        ----------
        spec : SchedulerSpec
        over : callable
            Call this on the event loop, with the reason, when the process has ended, unless
            :meth:`close` has ended it.

        Returns
        -------
        str
            Host and port of the scheduler for Clients; empty if they use :meth:`reach`.

        Raises
        ------
        BackendError
            If it cannot start. The message has the substrate's reason and the setting to change.
        """
        raise NotImplementedError

    async def join_scheduler(
        self, spec: SchedulerSpec, over: Callable[[str], None], *, driver: str
    ) -> str:
        """Take over a scheduler, and all runners, that an earlier driver has started.

        This is called in place of :meth:`start_scheduler` if :attr:`BackendContext.adopts` is set.
        From now on, :meth:`list` includes all runners that exist, and `ended` is called for those
        that end. An earlier driver that still lives must learn of it, if possible, before this one
        changes anything: it then calls :meth:`replaced`.

        If this fails, or the backend is closed before :meth:`scheduler_connected` was called,
        everything stays as it is for another driver.

        Parameters
        ----------
        spec : SchedulerSpec
            As far as it is known: without a launch configuration.
        over : callable
            See :meth:`start_scheduler`.
        driver : str
            A unique id of this driver.

        Returns
        -------
        str
            See :meth:`start_scheduler`.

        Raises
        ------
        BackendError
        """
        raise NotImplementedError

    def leave(self) -> None:
        """Leave everything that exists to another driver: from now on, end and delete nothing."""

    async def look_for_successor(self) -> None:
        """Call :meth:`leave` if another process has become the driver.

        This is called before a close without a connection to the scheduler. It does not raise.
        """

    def replaced(self, why: str) -> None:
        """Report that another process has become the driver; for a backend to call."""
        self.leave()
        self.context.replaced(why)

    def scheduler_connected(self) -> None:
        """Handle the first connection of the driver to the scheduler of :meth:`start_scheduler`.

        From now on that process ends by itself when it has lost its driver. Before that, the
        backend must end it when the driver's process has ended. By default, this does nothing.
        """
        return

    async def reach(self, port: int, *, at: int = 0) -> int:
        """Forward a port of this machine's loopback address to the scheduler's process.

        This is called after :meth:`start_scheduler`, perhaps several times; see
        :attr:`reaches_loopback`.

        Parameters
        ----------
        port : int
            The scheduler's port.
        at : int, default 0
            The port of this machine to use if it is free. If it is not, or for 0: any.

        Returns
        -------
        int
            The port of this machine. It is forwarded to the scheduler until :meth:`close`.
        """
        raise NotImplementedError

    @property
    def out_of_reach(self) -> str:
        """The reason why the last connection through :meth:`reach` failed; empty if it did not."""
        return ""

    async def announce(self, connection: ConnectionInfo) -> None:
        """Make known how to connect to a scheduler in this process; see :meth:`Inspector.enter`.

        This is optional, and called once when the scheduler has started in the driver's process.
        What it keeps must only be readable by the user, and must end with the driver.

        Parameters
        ----------
        connection : ConnectionInfo
        """
