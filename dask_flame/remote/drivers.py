"""Which process is the driver, and how another one takes its place (scheduler's pod)."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import logging
from collections.abc import Callable

from distributed.comm import Comm

from dask_flame.core.channel import Channel

logger = logging.getLogger("dask_flame")

#: Seconds between two looks at whether a new driver has connected.
_LOOK = 0.05
#: Messages that a driver gets even if they were meant for an earlier one.
_KEPT = frozenset({"over", "resized"})


class Drivers:
    """The present driver, and the processes that want to be the next one.

    A process *claims* the place of the driver on a connection of its own, and keeps that open until
    it is connected as the driver. The claim ends with the connection. So of two processes that
    claim the place at once, one gets it, and a process that dies meanwhile blocks nobody.

    Parameters
    ----------
    link : Channel
        The channel to the driver.
    id : str
        The id of the first driver.
    proof : str
        The SHA-256 digest of the proof that another process needs; empty: there is no other.

    Attributes
    ----------
    who : str
        The present driver, or the last one: its host and process.
    claimed_by : str
        The process that is becoming the driver; empty if there is none.
    handover : bytes
        What a new driver needs, sealed by the present one. This process cannot read it.
    """

    def __init__(self, link: Channel, id: str = "", proof: str = "") -> None:
        self._link = link
        self._id = id
        self._proof = proof
        self.who = ""
        self.claimed_by = ""
        self.handover = b""

    @property
    def holder(self) -> str:
        """The process that is, or becomes, the driver; empty if there is none."""
        return self.claimed_by or (self.who if self._link.connected else "")

    def refusal(self, driver: str) -> str:
        """Return why a process may not connect as the driver; empty if it may."""
        if driver == self._id:
            return ""
        now = self.claimed_by or self.who
        return f"another process has become its driver: {now}"

    async def claim(
        self,
        comm: Comm,
        proof: str,
        driver: str,
        who: str,
        *,
        within: float,
        begin: Callable[[], None],
    ) -> None:
        """Answer a process that wants to be the driver, and wait until it is, or has gone.

        Parameters
        ----------
        comm : Comm
            Its connection.
        proof : str
            Its proof that it may read what the first driver has left for it.
        driver, who : str
            Its id; its host and process.
        within : float
            Seconds until it must be connected as the driver.
        begin : callable
            Called if it is accepted, with an empty channel, before anything is sent to it.
        """
        if why := self._why_not(proof):
            await comm.write({"refused": why})
            return
        # From the check to here, nothing else has run: there is one winner.
        logger.info("%s becomes the driver, after %s", who, self.who)
        self.claimed_by, self._id = who, driver
        try:
            self._link.renew(_KEPT)
            begin()
            await comm.write({"refused": "", "handover": self.handover})
            reading = asyncio.ensure_future(comm.read())
            try:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(within):
                        while not (self._link.connected or reading.done()):  # noqa: ASYNC110
                            await asyncio.sleep(_LOOK)
            finally:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
        finally:
            self.claimed_by = ""

    def _why_not(self, proof: str) -> str:
        digest = hashlib.sha256(proof.encode()).hexdigest()
        if not (self._proof and hmac.compare_digest(digest, self._proof)):
            return "it has no proof that it may"
        if self._link.connected:
            return (
                f"its driver is there: {self.who}. If it has been lost with its machine, that is "
                "noticed within flame.silence"
            )
        if self.claimed_by:
            return f"another process becomes its driver at this moment: {self.claimed_by}"
        if not self.handover:
            return "its driver had not finished its start"
        return ""
