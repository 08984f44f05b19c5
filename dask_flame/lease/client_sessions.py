"""Keep the work of clients whose connection is lost (scheduler); a part of the lease.

Stock Dask releases the keys of a client as soon as its connection ends, and treats a client that
reconnects with the same id as a new one. Here, the client's state is kept for the grace. The
scheduler counts the messages that it has read from each driver, so that a driver that reconnects
sends exactly the lost ones again: see :mod:`dask_flame.lease.resume`.
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
from dask_flame.core.messages import CODE, FREED, LEASE, MARK, RECOVER, STANDING, TELL
from dask_flame.lease.clients import LATE, Alarm, ClientRecord, first_alone, is_driver, keeps
from dask_flame.lease.handed_over import HandedOver, in_order

logger = logging.getLogger("dask_flame")

#: Seconds in which clients connect again whose connections are closed when there is a new driver.
RETURN_WITHIN = 10.0
#: Seconds in which a driver that was replaced has learnt of it and closed, if it is not dead.
SETTLED_AFTER = 60.0
#: Seconds to send the last messages to clients.
_PARTING = 1.0


class ClientSessions:
    """Keep the state of clients whose connection is lost, and disconnect silent clients.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    grace : float
        Seconds for which the state of a disconnected client is kept.
    silence : float
        Seconds without a message after which a connection is closed; 0 means never.
    on_drop : callable
        Called with the id of a client whose connection has ended before the client closed.
    in_force : callable
        Return whether the plugin is still registered. distributed does not notify a plugin when it
        is unregistered.
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
        self._handed = HandedOver(scheduler)
        self._handed_over: float | None = None  # when a new driver came, for a while after that
        interval = min(1.0, silence / 4 or 1.0)
        self._looked = 0.0
        self._look_out = PeriodicCallback(self._look, interval * 1000)

    def start(self, records: dict[str, ClientRecord] | None = None) -> None:
        """Start with the connected clients, and the ``records`` of the lease that this replaces."""
        s = self.scheduler
        # Plugins are notified of a client's end only after its keys are released, and a second
        # connection with the same id would end with the first. So both are replaced on this
        # instance. A client's "close-client" message calls the method of the class.
        self._stock_register = s.handlers["register-client"]
        self._stock_remove = s.remove_client
        s.handlers["register-client"] = self._register
        replace(s, "remove_client", self._remove)
        s.handlers[STANDING] = self._standing
        s.handlers[RECOVER] = self._recover
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
        """Restore the scheduler's methods; by default, release the work of disconnected clients.

        Returns
        -------
        dict
            The record of each client, by its id.
        """
        if not self._started:
            return {}
        self._started = False
        self._look_out.stop()
        s = self.scheduler
        s.handlers["register-client"] = self._stock_register
        restore(s, "remove_client")
        del s.handlers[STANDING], s.handlers[RECOVER]
        # Clients send these messages until they learn of the end of the lease. A message without a
        # handler would end the client's stream.
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
            if s.status is Status.running:
                self._handed.let_go()
            s.log_event(LEASE, {"in-force": False})
            self._notify({"in-force": False})
        return records

    def say_last(self, words: str) -> None:
        """Tell clients that the cluster ends, and why, so that they do not try to reconnect."""
        self._notify({"over": words})

    async def part(self) -> None:
        """Close the clients' connections, so that clients notice the end of the scheduler."""
        senders = [s for c, s in self.scheduler.client_comms.items() if keeps(c)]
        with contextlib.suppress(TimeoutError):
            closing = (sender.close() for sender in senders)
            await asyncio.wait_for(asyncio.gather(*closing, return_exceptions=True), _PARTING)

    # Clients connect and disconnect

    def arrived(self, client: str) -> None:
        """Give a client that has reconnected its old state, in place of the new one.

        Call this from a plugin's ``add_client``, before anything else can run.
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
        """Forget a client that the scheduler has removed: it closed, or its grace has passed."""
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
        if self._is_replaced(client):
            comm.abort()
            return
        self._latest[client] = comm
        try:
            while (old := self.scheduler.client_comms.get(client)) is not None:
                # The old connection is half-open. Messages already read from it are still handled.
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
            # `remove_client` is not called for a connection that ends while it is registered.
            if client in self.records and client not in self.scheduler.client_comms:
                self._remove(client)

    def _remove(self, client: str, stimulus_id: str | None = None) -> None:
        record = self.records.get(client)
        there = record is not None and client in self.scheduler.clients
        if record is None or not there or not self._here():
            self._stock_remove(client, stimulus_id)
            return
        if record.release is None:
            kept = "for its successor" if record.handed_over else f"for {self.grace:g} s"
            logger.info("%s: connection lost; its work is kept %s", client, kept)
            self._keep(client, record)
            self._on_drop(client)

    def _keep(self, client: str, record: ClientRecord) -> None:
        record.listening = None
        if record.handed_over:
            return
        record.release = Alarm(self.grace, lambda: self._release(client))

    def _release(self, client: str) -> None:
        logger.info("%s: not back within %g s; its work is released", client, self.grace)
        self._stock_remove(client, f"flame-grace-over-{time()}")

    def _here(self) -> bool:
        if self._started and not self._in_force():
            self.stop()  # does nothing if already stopped
        return self._started and self.scheduler.status is Status.running

    # Another process becomes the driver

    def hand_over(self) -> None:
        """Keep the work of the drivers that are gone for another one, which then calls `recover`.

        A connection that is not known to be broken may be half-open: it is closed, and who is alive
        connects again at once. Who comes later has been replaced, and is refused. A driver that was
        replaced may also come back at once, and close when it learns of it: what it releases then
        is kept all the same.
        """
        self._handed_over = asyncio.get_running_loop().time()
        for client, record in self.records.items():
            if is_driver(client):
                record.handed_over = True
                self._handed.keep(record.state.wants_what)
                if record.release is not None:
                    record.release.cancel()
                    record.release = None
                if client in self.scheduler.client_comms:
                    self.scheduler.client_comms[client].abort()

    def _is_replaced(self, client: str) -> bool:
        """Return whether a client that connects again has been replaced by another driver."""
        record = self.records.get(client)
        if record is None or not record.handed_over:
            return False
        since = self._handed_over
        if since is not None and asyncio.get_running_loop().time() < since + RETURN_WITHIN:
            record.handed_over = False
        return record.handed_over

    def _recover(self, client: str) -> list[Any]:
        """Give a driver the work of those that handed it over and are gone; return its keys.

        An observer gets the keys of all drivers, and nothing changes.
        """
        s = self.scheduler
        record = self.records.get(client)
        if not is_driver(client) or record is None:
            there = [r.state for other, r in self.records.items() if is_driver(other)]
            return in_order(s, {ts.key for state in there for ts in state.wants_what})
        for other, old in list(self.records.items()):
            if old.handed_over and other not in s.client_comms and other in s.clients:
                self._stock_remove(other, f"flame-recovered-{time()}")
        record.recovered.update(self._handed.take(client))
        record.recovered &= {ts.key for ts in record.state.wants_what}
        return in_order(s, record.recovered)

    # Messages

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
            "code": CODE in self.scheduler.stream_handlers,
            # The scheduler of a FlameCluster takes descriptions of calls.
            "calls": FREED in self.scheduler.stream_handlers,
        }

    def _mark(self, client: str, n: int) -> None:
        self._say(client, {"taken": n})

    def _tell(self, client: str, pending: list[Any], finished: list[Any], error: list[Any]) -> None:
        """Compare a driver's view of its futures with the scheduler's, and send the differences."""
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
        if self._handed_over is not None and now > self._handed_over + SETTLED_AFTER:
            self._handed_over = None
            self._handed.settle()
        told = 3 * 10 * heartbeat_interval(len(self.scheduler.clients))
        for client, record in list(self.records.items()):
            if record.listening is None:
                continue
            record.listening = min(now, record.listening + stopped)
            # A driver that sends no marks is heard only by its heartbeat, which is less frequent.
            limit = self.silence if record.taken is not None else max(self.silence, told)
            if self.silence and now - record.listening > limit:
                logger.info("%s: nothing heard for silence=%g s", client, limit)
                record.listening = now
                if client in self.scheduler.client_comms:
                    self.scheduler.client_comms[client].abort()

    def _notify(self, message: dict[str, Any]) -> None:
        for client, sender in list(self.scheduler.client_comms.items()):
            if keeps(client) and sender.batch_count == 0:
                # Its first message has not been sent yet, and must be sent alone.
                asyncio.get_running_loop().call_later(0.1, self._say, client, message)
            elif keeps(client):
                self._say(client, message)

    def _say(self, client: str, message: dict[str, Any]) -> None:
        # Send an event, because a client ignores events of a topic that it does not know.
        event = {"op": "event", "topic": LEASE, "event": (time(), message)}
        self.scheduler.client_send(client, event)


def _ignore(**_: Any) -> None:
    """Ignore a message that no longer has a meaning."""
