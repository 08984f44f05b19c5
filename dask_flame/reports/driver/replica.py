"""What a Client knows of the reports of its cluster, whichever cluster it is (driver)."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from distributed import Client, get_client

from dask_flame.core.option_checks import shown
from dask_flame.errors import FlameError
from dask_flame.reports.changes import Change
from dask_flame.reports.scheduler.store import ReportStore
from dask_flame.reports.wire import FOLLOW, NAME

#: Seconds until a copy that could not be renewed is asked for again.
_AGAIN = 1.0


class Source(Protocol):
    """Where a driver finds what is reported."""

    @property
    def store(self) -> ReportStore: ...

    async def caught_up(self) -> None:
        """Wait until all is in the store that calls had reported whose end is known here."""


def reports_of(client: Client | None = None) -> Any:
    """What the calls of any Dask cluster have reported, and go on to report.

    Parameters
    ----------
    client : distributed.Client, optional
        By default the current one.

    Returns
    -------
    ReportStore
        Of a FlameCluster's client ``cluster.reports``. Else a copy of the store in the scheduler,
        which follows it until the client closes and can be read afterwards. With an asynchronous
        client: an awaitable for it.

    Raises
    ------
    FlameError
        There is no client, or its cluster has no :class:`Reports` plugin.
    TypeError
        It is no client.

    Examples
    --------
    >>> client.register_plugin(dask_flame.Reports())
    >>> dask_flame.reports_of(client).calls
    {}
    """
    if client is None:
        try:
            client = get_client()
        except ValueError:
            raise FlameError(
                "there is no Dask client; write dask_flame.reports_of(client) with the one that "
                "the calls were submitted by"
            ) from None
    if not isinstance(client, Client):
        raise TypeError(
            f"client={shown(client)} is not a distributed.Client; write "
            "dask_flame.reports_of(client) with the one that the calls were submitted by"
        )
    return client.sync(_store_of, client)


async def _store_of(client: Client) -> ReportStore:
    return (await source_of(client)).store


async def source_of(client: Client) -> Source:
    """Where what this client's cluster reports is found; on the client's event loop."""
    # Of a FlameCluster in this process.
    own: Source | None = getattr(client.cluster, "_report_source", None)
    if own is not None:
        return own
    copy = client.extensions.get(NAME)
    if copy is None:
        copy = client.extensions[NAME] = _Copy(client)
    await copy.follow()
    return copy  # type: ignore[no-any-return]


class _Copy:
    """A client's copy of the store in its scheduler; used on the client's event loop."""

    def __init__(self, client: Client) -> None:
        self.store = ReportStore()
        self._client = client
        self._number = -1
        self._told_meanwhile: list[tuple[int, Any]] = []
        self._renewing: asyncio.Task[None] | None = None
        self._connection: object = None  # that on which changes are told
        client.subscribe_topic(FOLLOW, self._told)

    async def follow(self) -> None:
        """Be as the store in the scheduler is, from now on.

        Raises
        ------
        FlameError
            There is none.
        """
        if self._renewing is None and self._connection is not self._client.scheduler_comm:
            # The scheduler forgets clients whose connection breaks.
            self._renewing = asyncio.create_task(self._renew(patient=False))
        if self._renewing is not None:
            await asyncio.shield(self._renewing)

    async def caught_up(self) -> None:
        # What is told comes before results do, on one stream; all but what was missed.
        while self._renewing is not None:
            await asyncio.wait([self._renewing])

    def _told(self, event: tuple[int, Any]) -> None:
        number, change = event
        if self._renewing is not None:
            self._told_meanwhile.append(event)
        elif change is not None and number == self._number + 1:
            self._number = number
            self.store.take(Change.unpack(change))
        elif change is None or number > self._number:
            self._renewing = asyncio.create_task(self._renew(patient=True))

    async def _renew(self, *, patient: bool) -> None:
        # What is told before it is over waits for it; no turn of the loop is between the two.
        try:
            while not await self._ask(patient=patient):
                pass
        finally:
            self._renewing = None

    async def _ask(self, *, patient: bool) -> bool:
        """Ask for all that is known; false if it has to be asked for again."""
        self._told_meanwhile.clear()
        client, connection = self._client, self._client.scheduler_comm
        try:
            answer = await getattr(client.scheduler, FOLLOW)(client=client.id)
        except OSError:
            if not patient or client.status not in ("running", "connecting"):
                raise
            await asyncio.sleep(_AGAIN)
            return False
        if answer is None:
            raise FlameError(
                "this cluster has no Reports plugin, so nothing arrives that calls report; "
                "write client.register_plugin(dask_flame.Reports())"
            )
        self.store.limits = answer["limits"]
        self.store.load(answer["calls"])
        self._number = answer["number"]
        self._connection = connection
        return self._caught_up()

    def _caught_up(self) -> bool:
        """Take in what was told meanwhile; false if something is missing."""
        for number, change in self._told_meanwhile:
            if change is None:
                return False
            if number > self._number:
                if number != self._number + 1:
                    return False
                self._number = number
                self.store.take(Change.unpack(change))
        return True
