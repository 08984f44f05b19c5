"""A Client goes on where it was when its connection drops and comes back (driver).

The other half is the lease on the scheduler: see :mod:`dask_flame.lease.client_sessions`. Stock
distributed cancels every future of a Client that loses its scheduler. Here, where the scheduler
holds a lease, the futures stay as they are while the Client tries to come back; what it says to the
scheduler is numbered and remembered until it is known to be read, so that afterwards exactly what
was lost is sent again; and it asks how its futures stand.

With :mod:`dask_flame.lease.answers` the one place that replaces private methods of
:class:`distributed.Client`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any

from distributed import Client, Status
from distributed.comm import CommClosedError
from distributed.protocol import dumps, pickle
from tornado.ioloop import PeriodicCallback

from dask_flame.core import distributed_internals as internals
from dask_flame.core.backoff import Backoff
from dask_flame.core.immediate_send import keep_no_log
from dask_flame.core.messages import INTERVAL, LEASE, STANDING, TELL
from dask_flame.lease.answers import ClientAnswers
from dask_flame.lease.clients import keeps
from dask_flame.lease.direct_transfer import straight_gather, straight_scatter
from dask_flame.lease.outbox import Message, Outbox, submits
from dask_flame.serialization.failures import shielded
from dask_flame.serialization.graphs import cannot_name, unfit

logger = logging.getLogger("dask_flame")

#: Most keys in one message.
_CHUNK = 10_000
#: Seconds between two marks, at most; the stock heartbeat of a client.
_BEAT = 5.0
#: Seconds for the first attempt to come back; each further one gets twice as long, up to the last.
_FIRST, _LAST = 2.0, 16.0
#: Attempts of a read-only rpc while the connection seems well.
_ATTEMPTS = 5


def resume_clients() -> None:
    """Let the Clients of this process go on where they were when their connection comes back.

    Making a :class:`dask_flame.Lease` or a :class:`dask_flame.FlameCluster` does this as well. A
    driver that only attaches to a leased scheduler elsewhere calls it once, before or after it
    makes its Client, or has ``distributed.client.preload: dask_flame.lease.resume`` in its
    configuration. Clients of a scheduler that holds no lease behave as ever.

    Notes
    -----
    While the connection is gone, futures keep their status, ``result()`` waits, and what is
    submitted is sent later. The Client tries for its ``timeout`` or the lease's grace, whichever is
    longer; then it cancels its futures and closes. If it is back within the grace all is as it
    was, and no call runs twice because of the drop. If it comes later, the futures from before are
    cancelled and say why. ``gather`` and ``result`` are repeated when the connection breaks under
    them; other requests (``scatter``, ``run``, ``who_has``, …) raise ``CommClosedError`` as ever.

    Examples
    --------
    >>> import dask_flame
    >>> dask_flame.resume_clients()
    """
    connect, reconnect = internals.connecting()
    if hasattr(reconnect, "dask_flame"):
        return

    @functools.wraps(connect)
    async def _ensure_connected(self: Client, timeout: float | None = None) -> None:
        link = ResumableLink.of(self) if keeps(self.id) else None
        await connect(self, timeout=timeout)
        if link is not None:
            await link.join(timeout)

    @functools.wraps(reconnect)
    async def _reconnect(self: Client) -> None:
        link = self.extensions.get(LEASE)
        if link is not None and link.on:
            await link.reconnect()
        else:
            await reconnect(self)

    _reconnect.dask_flame = True  # type: ignore[attr-defined]
    internals.replace(Client, "_ensure_connected", _ensure_connected)
    internals.replace(Client, "_reconnect", _reconnect)
    # What is scattered is pickled for its key, and handlers of events are called, on the loop that
    # a FlameCluster and its Client share: what exits would end it.
    for name in ("_scatter", "_handle_event"):
        internals.replace(Client, name, shielded(getattr(Client, name)))
    for client in internals.clients():
        if client.status == "running" and keeps(client.id):
            client.loop.add_callback(ResumableLink.of(client).join)


def tell_clients(cluster: Any, why: str, error: type[Exception] | None = None) -> None:
    """Tell the Clients of this process why their cluster is no more, where its scheduler cannot.

    Parameters
    ----------
    cluster : FlameCluster
    why : str
    error : type of Exception, optional
        What their calls fail with, those that are submitted from now on included; by default they
        are cancelled.
    """
    for client in internals.clients():
        link = client.extensions.get(LEASE)
        if client.cluster is cluster and link is not None:
            client.loop.add_callback(link.over, why, error)


async def dask_setup(client: Client) -> None:
    """As a preload of ``distributed.client.preload``."""
    resume_clients()
    if keeps(client.id):
        # This one is connected already, and not yet among those there are.
        await ResumableLink.of(client).join()


class ResumableLink:
    """One Client's connection to a leased scheduler, over its drops. Used on the Client's loop.

    Attributes
    ----------
    on : bool
        Whether the scheduler is known to hold a lease; where not, nothing is different.
    """

    def __init__(self, client: Client) -> None:
        self.client = client
        self.epoch: str | None = None
        self.grace = self.silence = 0.0
        self._sender: Any = None
        self._joining = asyncio.Lock()
        self._up = asyncio.Event()
        self.outbox = Outbox()
        self._resumed = -1  # the number of the first message that was sent again the last time
        self._heard = self._beaten = 0.0
        self._over = ""  # why the cluster is no more, where it has said so
        self._error: type[Exception] | None = None  # what calls fail with then
        # On this instance: all that a Client says but its heartbeat goes through this.
        internals.replace(client, "_send_to_scheduler_safe", self.post)
        self.answers = ClientAnswers(self)

    @staticmethod
    def of(client: Client) -> ResumableLink:
        """This Client's link; made if there is none."""
        if LEASE not in client.extensions:
            client.extensions[LEASE] = ResumableLink(client)
        link: ResumableLink = client.extensions[LEASE]
        return link

    @property
    def on(self) -> bool:
        return self.epoch is not None

    @property
    def sender(self) -> Any:
        """What the scheduler is spoken to through; None while it is not."""
        return self._sender

    # Coming and coming back

    async def join(self, timeout: float | None = None) -> None:
        """On a new connection: take up what was, or begin, or be as stock without a lease.

        Raises
        ------
        OSError
            The connection broke; only where there is something to take up.
        """
        async with self._joining:
            client = self.client
            sender = client.scheduler_comm
            if sender is None or sender is self._sender or client.status != "running":
                return
            keep_no_log(sender)
            internals.event_handlers(client)[LEASE] = self._told
            try:
                standing = await self._ask(timeout)
            except Exception as error:
                if self.on:
                    raise
                logger.debug("could not ask whether there is a lease: %r", error)
                return
            if sender.closed():
                if self.on:
                    raise CommClosedError("closed again before all was as it was")
                return
            if self.on and standing is not None and standing["epoch"] == self.epoch:
                self._resume(sender, standing["taken"], standing["garbled"])
                await self._tell()
            elif self.on:
                await self._lost(sender, standing)
            elif standing is not None:
                self._begin(sender, standing)

    async def _ask(self, timeout: float | None) -> dict[str, Any] | None:
        # In the event log first: a stock scheduler warns of a request that it does not know.
        async def ask() -> Any:
            events = await self.client.scheduler.events(topic=LEASE)
            if not events or not events[-1][1]["in-force"]:
                return None
            return await getattr(self.client.scheduler, STANDING)(client=self.client.id)

        return await asyncio.wait_for(ask(), timeout)

    def _begin(self, sender: Any, standing: dict[str, Any]) -> None:
        client = self.client
        if not self.on:
            rpc = client.scheduler
            rpc.gather = self._again(straight_gather(client, rpc.gather))
            rpc.who_has = self._again(rpc.who_has)
            rpc.scatter = straight_scatter(client, rpc.scatter)
        self.epoch = standing["epoch"]
        self.grace, self.silence = standing["grace"], standing["silence"]
        self.outbox.renumber()
        self._resumed = -1
        beat = min(_BEAT, self.silence / 4 or _BEAT)
        callbacks = internals.client_callbacks(client)
        old = callbacks.pop(LEASE, None)
        if old is not None:
            old.stop()
        callbacks[LEASE] = PeriodicCallback(self._beat, beat * 1000)
        self._open(sender)
        callbacks[LEASE].start()

    def _open(self, sender: Any) -> None:
        """Speak through this connection, beginning with what the log holds."""
        self.answers.dropped()
        self.answers.mark(sender, self.outbox.start)
        sender.send(*self.outbox.hand_over())
        sender.interval = INTERVAL
        self._sender = sender
        self._heard = self._beaten = monotonic()
        self._up.set()

    def _resume(self, sender: Any, taken: int | None, garbled: bool) -> None:
        outbox = self.outbox
        if taken is not None:
            outbox.forget(taken)
        if garbled:
            # The scheduler cannot read something of what was sent: not again and again. What goes
            # with it is among the futures that it will not know.
            logger.error("the scheduler could not unpickle what was submitted last")
            outbox.forget(outbox.handed)
        elif self._resumed == outbox.start:
            # Nothing was read of what was sent twice: is there something that cannot be written?
            outbox.replace(self._speakable)
        self._resumed = outbox.start
        again = outbox.handed - outbox.start
        logger.info("connected again; %d messages that were lost are sent again", again)
        self._open(sender)

    def _speakable(self, message: Message) -> Message:
        try:
            dumps(message, on_error="raise")
        except Exception:
            logger.exception("%s cannot be sent and is dropped", message["op"])
            return {"op": "client-releases-keys", "keys": [], "client": self.client.id}
        return message

    async def _tell(self) -> None:
        """Ask where the scheduler knows otherwise, behind all that was said of these futures."""
        futures = await self._futures()
        known: dict[str, list[Any]] = {"pending": [], "finished": [], "error": []}
        for key, state in futures.items():
            if state.status != "cancelled":
                known["pending" if state.status == "lost" else state.status].append(key)
        for status, keys in known.items():
            for at in range(0, len(keys), _CHUNK):
                nothing: dict[str, list[Any]] = {name: [] for name in known}
                with contextlib.suppress(CommClosedError, AttributeError):
                    self._sender.send({"op": TELL, **nothing, status: keys[at : at + _CHUNK]})

    async def _futures(self) -> dict[Any, Any]:
        """The futures there are; what was said of them has been posted when this returns."""
        # Under this lock futures are made and their graph is handed to the loop.
        with internals.futures_lock(self.client):
            futures = dict(self.client.futures)
        posted = asyncio.Event()
        self.client.loop.add_callback(posted.set)
        await posted.wait()
        return futures

    async def _lost(self, sender: Any, standing: dict[str, Any] | None) -> None:
        """What was is gone: only what was submitted since the connection broke goes on."""
        futures = await self._futures()
        keys = self.outbox.submitted()
        self._cancel(
            {key: state for key, state in futures.items() if key not in keys},
            f"The connection to the scheduler was lost for longer than its lease's grace of "
            f"{self.grace:g} s, or another scheduler is there now, so its work was released. "
            "Run it again; a longer flame.disconnect-grace keeps it for longer.",
        )
        self.outbox.renumber()
        if standing is not None:
            self._begin(sender, standing)
        else:
            sender.send(*self.outbox.hand_over())
            self.off()

    def _cancel(self, futures: dict[Any, Any], why: str) -> None:
        reason = "cluster-ended" if self._over else "scheduler-connection-lost"
        for key, state in futures.items():
            if self._error is not None:
                # One for each: what is raised collects a traceback.
                state.set_error(self._error(why), None)
            else:
                state.cancel(reason=reason, msg=why)
            self.client.futures.pop(key, None)

    def over(self, why: str, error: type[Exception] | None = None) -> None:
        """The cluster is no more, and so are its futures."""
        self._over, self._error = why, error
        self._cancel(dict(self.client.futures), why)
        if error is not None:
            # The Client closes soon: a call that is submitted then is told the same.
            internals.replace(self.client, "_send_to_scheduler", self._refuse)

    def _refuse(self, message: dict[str, Any]) -> None:
        if self._error is not None and self.client.status == "closed" and submits(message):
            raise self._error(self._over)
        internals.stock_send(self.client, message)

    def off(self) -> None:
        """Be as stock: the scheduler holds no lease any more."""
        if not self.on:
            return
        client = self.client
        self.epoch = self._sender = None
        self.answers.dropped()
        self.outbox = Outbox()
        if client.scheduler is not None:
            for name in ("gather", "who_has", "scatter"):
                vars(client.scheduler).pop(name, None)
        if (beat := internals.client_callbacks(client).pop(LEASE, None)) is not None:
            beat.stop()
        self._up.set()

    async def reconnect(self) -> None:
        """Try to come back for as long as the Client's timeout or the grace, then close it."""
        client = self.client
        self._sender = None
        self._up.clear()
        self.answers.dropped()
        if client.scheduler_comm is not None:
            client.scheduler_comm.abort()
        # Requests under way on other connections may wait for ever: those too are lost.
        client.rpc.remove(client.scheduler.address, reason="the connection was lost")
        try:
            await self._try(max(internals.client_timeout(client), self.grace))
        finally:
            if client.status not in ("connecting", "running"):
                self._up.set()  # who waits is not to wait for ever

    async def _try(self, patience: float) -> None:
        client = self.client
        deadline = monotonic() + patience
        attempts = Backoff(_FIRST, _LAST)
        while (left := deadline - monotonic()) > 0:
            closed = client.cluster and client.cluster.status in (Status.closed, Status.closing)
            if closed or self._over:
                break
            client.status, client.scheduler_comm = "connecting", None
            try:
                await internals.connect(client, min(attempts.next(), left))
                return
            except ImportError:
                break
            except Exception as error:
                logger.debug("not connected yet: %r", error)
                if client.status not in ("connecting", "running"):
                    return
                if client.scheduler_comm is not None:
                    client.scheduler_comm.abort()
                await asyncio.sleep(0.1)
        else:
            logger.error("not connected again within %g s: closing the client", patience)
        lost = (
            f"The connection to the scheduler was lost and did not come back in {patience:g} s; "
            "what governs it: disconnect_grace, and the Client's timeout."
        )
        self._cancel(dict(client.futures), self._over or lost)
        await internals.close_client(client)
        self.off()

    # What is said and heard

    def post(self, message: dict[str, Any]) -> None:
        """Say something to the scheduler, now or when it is there again."""
        if not self.on:
            internals.stock_send_safe(self.client, message)
            return
        if self.client.status == "closed":
            return
        if submits(message):
            error = cannot_name(message["keys"]) or unfit(message["annotations"].data)
            if error is not None:
                # It would break the connection, and take along what others have submitted.
                pickled = pickle.dumps(error)
                for key in message["keys"]:
                    internals.fail_future(self.client, key, pickled)
                return
        elif cannot_name(message.get("keys", ())):
            message = {**message, "keys": [k for k in message["keys"] if not cannot_name([k])]}
        self.outbox.note(message)
        if self._sender is None:
            return
        try:
            self._sender.send(message)
            self.outbox.handed_last()
        except CommClosedError:
            # Not noticed yet by who reads from it, and about to be.
            self._sender = None
            self._up.clear()

    async def _told(self, event: tuple[float, dict[str, Any]]) -> None:
        _, message = event
        self._heard = monotonic()
        if "taken" in message:
            self.outbox.forget(message["taken"])
            self.answers.answered()
        elif "over" in message:
            self.over(message["over"])
        elif message["in-force"]:
            await self.join(_LAST)
        else:
            self.off()

    async def _beat(self) -> None:
        sender, now = self._sender, monotonic()
        if sender is None:
            return
        pause, self._beaten = now - self._beaten, now
        if pause > _BEAT + 1:
            self._heard = now  # this process was stopped: nothing could be heard
        with contextlib.suppress(CommClosedError):
            self.answers.mark(sender, self.outbox.handed)
        if not self.silence or now - self._heard <= self.silence:
            return
        # A scheduler that is long at work on what was sent reads nothing further: ask apart.
        try:
            standing = await self._ask(max(1.0, self.silence / 2))
        except Exception:
            standing = None
        if standing is not None and standing["busy"]:
            self._heard = monotonic()
        elif sender is self._sender:
            logger.info("the scheduler was not heard for silence=%g s", self.silence)
            sender.abort()

    def _again(self, request: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """The same request, repeated when the connection breaks under it; for what only reads."""

        async def ask(**kwargs: Any) -> Any:
            attempt = 0
            while True:
                try:
                    return await request(**kwargs)
                except OSError:
                    attempt += 1
                    if not self.on or (self._sender is not None and attempt >= _ATTEMPTS):
                        raise
                    await asyncio.sleep(min(0.1 * attempt, 1.0))
                    await self._up.wait()
                    if self.client.status != "running":
                        raise

        return ask
