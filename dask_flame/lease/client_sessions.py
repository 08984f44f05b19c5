"""What a driver wanted is kept while its connection is gone (scheduler); a part of the lease.

Stock Dask releases what a client wanted in the moment its connection ends, and knows a client that
comes back, with the same id, as a new one. Here its state stays as it is for the grace. Of each
driver's stream it is known how many messages were read, so that a driver that comes back sends
again exactly what was lost: see :mod:`dask_flame.lease.resume`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any

from distributed import Scheduler, Status
from distributed.comm import Comm
from distributed.metrics import time
from distributed.scheduler import heartbeat_interval
from tornado.ioloop import PeriodicCallback

from dask_flame.core.distributed_internals import replace, restore
from dask_flame.core.messages import LEASE, MARK, STANDING, TELL
from dask_flame.lease.clients import LATE, Alarm, ClientRecord, first_alone, keeps

logger = logging.getLogger("dask_flame")

#: Seconds for the last words to clients.
_PARTING = 1.0


class ClientSessions:
    """Keeps what clients want through drops of their connections, and drops those that are silent.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    grace : float
        Seconds for which the wants of a client whose connection ended are kept.
    silence : float
        Seconds without a word after which a connection is ended; 0: never.
    on_drop : callable
        Called with the id of a client whose connection has ended without a goodbye.
    in_force : callable
        Whether the plugin is still registered: distributed takes plugins out without a word.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        *,
        grace: float,
        silence: float,
        on_drop: Callable[[str], None],
        in_force: Callable[[], bool],
    ) -> None:
        self.scheduler = scheduler
        self.grace = grace
        self.silence = silence
        self.records: dict[str, ClientRecord] = {}
        self._on_drop = on_drop
        self._in_force = in_force
        self._latest: dict[str, Comm] = {}
        self._started = False
        interval = min(1.0, silence / 4 or 1.0)
        self._looked = 0.0
        self._look_out = PeriodicCallback(self._look, interval * 1000)

    def start(self, records: dict[str, ClientRecord] | None = None) -> None:
        """Begin, with the clients there are; ``records`` are those of a lease replaced by this."""
        s = self.scheduler
        # Plugins hear of a client's end only after its keys are gone, and a second connection with
        # the same id would be ended with the first: so these two are replaced, on this instance.
        # The goodbye of a client, "close-client", calls the class's own method.
        self._stock_register = s.handlers["register-client"]
        self._stock_remove = s.remove_client
        s.handlers["register-client"] = self._register
        replace(s, "remove_client", self._remove)
        s.handlers[STANDING] = self._standing
        s.stream_handlers[MARK] = self._mark
        s.stream_handlers[TELL] = self._tell
        self._started = True
        self._looked = asyncio.get_running_loop().time()
        for client, record in (records or {}).items():
            self.records[client] = record
            if client not in s.client_comms:
                self._keep(client, record)
        for client, sender in s.client_comms.items():
            if keeps(client):
                record = self.records.setdefault(client, ClientRecord(s.clients[client]))
                record.listening = self._looked
                self._listen(sender.comm, client)
        s.log_event(LEASE, {"in-force": True})
        self._notify({"in-force": True})
        self._look_out.start()

    def stop(self, *, release: bool = True) -> dict[str, ClientRecord]:
        """Leave the scheduler as it was; by default what was kept for absent clients is released.

        Returns
        -------
        dict
            What was known of each client.
        """
        if not self._started:
            return {}
        self._started = False
        self._look_out.stop()
        s = self.scheduler
        s.handlers["register-client"] = self._stock_register
        restore(s, "remove_client")
        del s.handlers[STANDING]
        # Until they have heard of it, clients say these as before: what a scheduler has no handler
        # for ends a client's stream.
        s.stream_handlers[MARK] = s.stream_handlers[TELL] = _ignore
        for sender in s.client_comms.values():
            restore(sender.comm, "read")
        records, self.records = self.records, {}
        for client, record in records.items():
            if record.release is not None:
                record.release.cancel()
                record.release = None
                if release and s.status is Status.running:
                    s.remove_client(client)
        if release:
            s.log_event(LEASE, {"in-force": False})
            self._notify({"in-force": False})
        return records

    def say_last(self, words: str) -> None:
        """Tell clients that this is the end, and why: there is no use in coming back."""
        self._notify({"over": words})

    async def part(self) -> None:
        """Close the clients' connections, so that they hear that this is the end."""
        senders = [s for c, s in self.scheduler.client_comms.items() if keeps(c)]
        with contextlib.suppress(TimeoutError):
            closing = (sender.close() for sender in senders)
            await asyncio.wait_for(asyncio.gather(*closing, return_exceptions=True), _PARTING)

    # Clients come and go

    def arrived(self, client: str) -> None:
        """The scheduler has just made a new state for this client: if it is back, it has its old.

        To be called from a plugin's ``add_client``, before anything else can happen.
        """
        if not keeps(client):
            return
        state = self.scheduler.clients[client]
        record = self.records.get(client)
        if record is None:
            self.records[client] = ClientRecord(state)
            return
        if record.release is not None:
            record.release.cancel()
            record.release = None
        record.state.versions = state.versions
        record.state.last_seen = state.last_seen
        self.scheduler.clients[client] = record.state

    def gone(self, client: str) -> None:
        """The scheduler has removed this client: it said goodbye, or its grace is over."""
        record = self.records.pop(client, None)
        if record is not None and record.release is not None:
            record.release.cancel()

    async def _register(self, comm: Comm, client: str, **kwargs: Any) -> None:
        first_alone(comm)
        try:
            if self._here() and keeps(client):
                await self._register_kept(comm, client, **kwargs)
            else:
                await self._stock_register(comm, client=client, **kwargs)
        finally:
            restore(comm, "write")

    async def _register_kept(self, comm: Comm, client: str, **kwargs: Any) -> None:
        self._latest[client] = comm
        try:
            while (old := self.scheduler.client_comms.get(client)) is not None:
                # It is half-open: its driver is here. What it had said is handled to its end.
                old.abort()
                await asyncio.sleep(0.01)
                if self._latest.get(client) is not comm:
                    comm.abort()
                    return
        finally:
            if self._latest.get(client) is comm:
                del self._latest[client]
        self._listen(comm, client)
        try:
            await self._stock_register(comm, client=client, **kwargs)
        finally:
            restore(comm, "read")
            # A connection that ends in the middle of its beginning ends without a `remove_client`.
            if client in self.records and client not in self.scheduler.client_comms:
                self._remove(client)

    def _remove(self, client: str, stimulus_id: str | None = None) -> None:
        record = self.records.get(client)
        there = record is not None and client in self.scheduler.clients
        if record is None or not there or not self._here():
            self._stock_remove(client, stimulus_id)
            return
        if record.release is None:
            logger.info("%s: connection lost; its work is kept for %g s", client, self.grace)
            self._keep(client, record)
            self._on_drop(client)

    def _keep(self, client: str, record: ClientRecord) -> None:
        record.listening = None
        record.release = Alarm(self.grace, lambda: self._release(client))

    def _release(self, client: str) -> None:
        logger.info("%s: not back within %g s; its work is released", client, self.grace)
        self._stock_remove(client, f"flame-grace-over-{time()}")

    def _here(self) -> bool:
        if self._started and not self._in_force():
            self.stop()  # no harm where that has happened already
        return self._started and self.scheduler.status is Status.running

    # What they say

    def _listen(self, comm: Comm, client: str) -> None:
        read = comm.read
        clock = asyncio.get_running_loop().time

        async def counted(*args: Any, **kwargs: Any) -> Any:
            record = self.records.get(client)
            if record is None:
                return await read(*args, **kwargs)
            record.listening = clock()
            try:
                messages = await read(*args, **kwargs)
                record.garbled = False
            except OSError:
                raise
            except Exception:
                record.garbled = True
                raise
            finally:
                record.listening = None
            record.count(messages)
            return messages

        replace(comm, "read", counted)

    def _standing(self, client: str) -> dict[str, Any] | None:
        record = self.records.get(client)
        if record is None:
            return None
        return {
            "epoch": record.epoch,
            "taken": record.taken,
            "busy": record.listening is None,
            "garbled": record.garbled,
            "grace": self.grace,
            "silence": self.silence,
        }

    def _mark(self, client: str, n: int) -> None:
        self._say(client, {"taken": n})

    def _tell(self, client: str, pending: list[Any], finished: list[Any], error: list[Any]) -> None:
        """A driver that is back says what it knows: answer where it is not so."""
        s = self.scheduler
        wants = s.clients[client].wants_what
        lost = []
        unwanted = []
        for known, keys in (("", pending), ("memory", finished), ("erred", error)):
            for key in keys:
                ts = s.tasks.get(key)
                if ts is None or (ts not in wants and ts.state == "released"):
                    lost.append(key)
                    continue
                if ts not in wants:
                    unwanted.append(key)
                if ts.state == known:
                    continue
                if ts.state in ("memory", "erred"):
                    s.report_on_key(ts=ts, client=client)
                elif known:
                    s.client_send(client, {"op": "lost-data", "key": key})
        s.client_desires_keys(unwanted, client)
        if lost:
            s.client_send(
                client,
                {
                    "op": "cancelled-keys",
                    "keys": lost,
                    "reason": "flame-lost",
                    "msg": "The scheduler no longer knows of it since the connection was lost: "
                    "it was cancelled or its submission was lost meanwhile. Run it again.",
                },
            )

    def _look(self) -> None:
        if not self._here():
            return
        now = asyncio.get_running_loop().time()
        pause, self._looked = now - self._looked, now
        stopped = pause if pause > self._look_out.callback_time / 1000 + LATE else 0.0
        told = 3 * 10 * heartbeat_interval(len(self.scheduler.clients))
        for client, record in list(self.records.items()):
            if record.listening is None:
                continue
            record.listening = min(now, record.listening + stopped)
            # Without the driver's half, which marks its stream, only Dask's own heartbeat is heard.
            limit = self.silence if record.taken is not None else max(self.silence, told)
            if self.silence and now - record.listening > limit:
                logger.info("%s: nothing heard for silence=%g s", client, limit)
                record.listening = now
                if client in self.scheduler.client_comms:
                    self.scheduler.client_comms[client].abort()

    def _notify(self, message: dict[str, Any]) -> None:
        for client, sender in list(self.scheduler.client_comms.items()):
            if keeps(client) and sender.batch_count == 0:
                # Its first message is on the way, and must come alone.
                asyncio.get_running_loop().call_later(0.1, self._say, client, message)
            elif keeps(client):
                self._say(client, message)

    def _say(self, client: str, message: dict[str, Any]) -> None:
        # As an event, which a client that does not know the topic ignores.
        event = {"op": "event", "topic": LEASE, "event": (time(), message)}
        self.scheduler.client_send(client, event)


def _ignore(**_: Any) -> None:
    """Take a message that has no meaning any more."""
