"""Let a Client continue after its connection to the scheduler was lost (driver).

The other half is the lease on the scheduler: see :mod:`dask_flame.lease.client_sessions`. Stock
distributed cancels every future of a Client that loses its scheduler. If the scheduler holds a
lease, futures stay as they are while the Client reconnects. The Client numbers its messages and
keeps each one until the scheduler is known to have read it. After it has reconnected, it sends the
lost messages again and asks for the status of its futures.

Only this module and :mod:`dask_flame.lease.answers` replace private methods of
:class:`distributed.Client`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import weakref
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any

from distributed import Client, Status
from distributed.comm import CommClosedError
from distributed.protocol import dumps, pickle
from tornado.ioloop import PeriodicCallback

from dask_flame.code.driver import clients as code_of_clients
from dask_flame.core import distributed_internals as internals
from dask_flame.core.backoff import Backoff
from dask_flame.core.immediate_send import SuccessorSender, keep_no_log
from dask_flame.core.messages import LEASE, STANDING, TELL
from dask_flame.lease.answers import ClientAnswers
from dask_flame.lease.clients import keeps
from dask_flame.lease.direct_transfer import straight_gather, straight_scatter
from dask_flame.lease.outbox import Message, Outbox, submits
from dask_flame.serialization.failures import shielded
from dask_flame.serialization.graphs import cannot_name, unfit
from dask_flame.submission import clients as submission_of_clients

logger = logging.getLogger("dask_flame")

#: Maximum number of keys in one message.
_CHUNK = 10_000
#: Maximum seconds between two marks: the interval of a client's heartbeat in distributed.
_BEAT = 5.0
#: Timeout of the first attempt to reconnect, in seconds. It doubles with each attempt up to _LAST.
_FIRST, _LAST = 2.0, 16.0
#: Attempts of a read-only RPC while the connection seems to work.
_ATTEMPTS = 5


def resume_clients() -> None:
    """Let the Clients of this process resume after they have lost their connection.

    Creating a :class:`dask_flame.Lease` or a :class:`dask_flame.FlameCluster` does this as well. A
    driver that only connects to a leased scheduler calls this once, before or after it creates its
    Client, or sets ``distributed.client.preload: dask_flame.lease.resume`` in its configuration.
    Clients of a scheduler without a lease are not affected.

    Notes
    -----
    While the connection is down, futures keep their status, ``result()`` waits, and submitted calls
    are sent later. The Client tries to reconnect for its ``timeout`` or for the grace of the lease,
    whichever is longer; then it cancels its futures and closes. If it reconnects within the grace,
    it continues as before, and no call runs twice because of the lost connection. If it reconnects
    later, its earlier futures are cancelled with an explanation. ``gather`` and ``result`` are
    repeated when the connection breaks; other requests (``scatter``, ``run``, ``who_has``, …) raise
    ``CommClosedError``, as in distributed.

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
    # Scattered data are pickled and event handlers are called on the loop that a FlameCluster and
    # its Client share. A SystemExit raised there would end the loop.
    for name in ("_scatter", "_handle_event"):
        internals.replace(Client, name, shielded(getattr(Client, name)))
    for client in internals.clients():
        if client.status == "running" and keeps(client.id):
            client.loop.add_callback(ResumableLink.of(client).join)


def tell_clients(cluster: Any, why: str, error: type[Exception] | None = None) -> None:
    """Notify the Clients of this process that their cluster has ended.

    Needed when the scheduler can no longer notify them.

    Parameters
    ----------
    cluster : FlameCluster
        The cluster that has ended.
    why : str
        The reason, for the message of the error.
    error : type of Exception, optional
        The error that pending calls, and calls submitted from now on, fail with. By default,
        pending calls are cancelled.
    """
    for client in internals.clients():
        link = client.extensions.get(LEASE)
        if client.cluster is cluster and link is not None:
            client.loop.add_callback(link.over, why, error)


async def dask_setup(client: Client) -> None:
    """Set up a Client as a preload of ``distributed.client.preload``."""
    resume_clients()
    if keeps(client.id):
        # This Client is already connected, but distributed does not list it yet.
        await ResumableLink.of(client).join()


class ResumableLink:
    """Connect a Client to a leased scheduler, across lost connections.

    Use this on the Client's event loop only.

    Attributes
    ----------
    on : bool
        Whether the scheduler is known to hold a lease. If not, the Client behaves as in
        distributed.
    """

    def __init__(self, client: Client) -> None:
        self.client = client
        self.epoch: str | None = None
        self.grace = self.silence = 0.0
        self._sender: Any = None
        self._joining = asyncio.Lock()
        self._up = asyncio.Event()
        self.outbox = Outbox()
        self._resumed = -1  # number of the first message sent again at the last reconnection
        self._heard = self._beaten = 0.0
        self._over = ""  # the reason why the cluster has ended, if it has
        self._error: type[Exception] | None = None  # the error that calls fail with after that
        # All messages of this Client, except its heartbeat, go through `post`.
        internals.replace(client, "_send_to_scheduler_safe", self.post)
        self.answers = ClientAnswers(self)

    @staticmethod
    def of(client: Client) -> ResumableLink:
        """Return this Client's link; create it if needed."""
        if LEASE not in client.extensions:
            client.extensions[LEASE] = ResumableLink(client)
        link: ResumableLink = client.extensions[LEASE]
        return link

    @property
    def on(self) -> bool:
        return self.epoch is not None

    @property
    def sender(self) -> Any:
        """The stream to the scheduler; None while there is no connection."""
        return self._sender

    # Connect and reconnect

    async def join(self, timeout: float | None = None) -> None:
        """Handle a new connection: resume, begin, or do nothing if there is no lease.

        Raises
        ------
        OSError
            The connection broke while there was a session to resume.
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
                await self.tell()
            elif self.on:
                await self._lost(sender, standing)
            elif standing is not None:
                self._begin(sender, standing)

    async def _ask(self, timeout: float | None) -> dict[str, Any] | None:
        # Read the event log first: a stock scheduler logs a warning about an unknown request.
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
        if standing.get("code"):
            code_of_clients.connect(client)
        if standing.get("calls"):
            submission_of_clients.connect(client)
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
        """Send through this connection, starting with the messages in the outbox."""
        # A call that is submitted when the one before has returned follows the message that
        # releases the earlier result, and would have to wait for distributed's interval.
        self._sender = self.client.scheduler_comm = SuccessorSender(sender)
        self.answers.dropped()
        self.answers.mark(self._sender, self.outbox.start)
        self._sender.send(*self.outbox.hand_over())
        self._heard = self._beaten = monotonic()
        self._up.set()

    def _resume(self, sender: Any, taken: int | None, garbled: bool) -> None:
        outbox = self.outbox
        if taken is not None:
            outbox.forget(taken)
        if garbled:
            # The scheduler cannot unpickle some of these messages, so do not send them again. The
            # futures that this loses are among those that the scheduler will not know.
            logger.error("the scheduler could not unpickle what was submitted last")
            outbox.forget(outbox.handed)
        elif self._resumed == outbox.start:
            # The same messages were sent twice and never read: drop those that cannot be written.
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

    async def tell(self) -> None:
        """Report the known status of all futures, so that the scheduler answers where it differs.

        This is sent after all earlier messages about these futures.
        """
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
        """Return all futures, once all earlier messages about them have been posted."""
        # Client creates futures and sends their graph to the loop while it holds this lock.
        with internals.futures_lock(self.client):
            futures = dict(self.client.futures)
        posted = asyncio.Event()
        self.client.loop.add_callback(posted.set)
        await posted.wait()
        return futures

    async def _lost(self, sender: Any, standing: dict[str, Any] | None) -> None:
        """Cancel all futures, except those submitted since the connection broke."""
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
                # One instance for each future: raising it adds a traceback to it.
                state.set_error(self._error(why), None)
            else:
                state.cancel(reason=reason, msg=why)
            self.client.futures.pop(key, None)

    def over(self, why: str, error: type[Exception] | None = None) -> None:
        """Cancel or fail all futures, because the cluster has ended."""
        self._over, self._error = why, error
        self._cancel(dict(self.client.futures), why)
        if error is not None:
            # The Client closes soon: a call that is submitted after that fails with this error too.
            internals.replace(self.client, "_send_to_scheduler", self._refuse)

    def _refuse(self, message: dict[str, Any]) -> None:
        if self._error is not None and self.client.status == "closed" and submits(message):
            raise self._error(self._over)
        internals.stock_send(self.client, message)

    def off(self) -> None:
        """Behave as in distributed, because the scheduler no longer holds a lease."""
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
        """Try to reconnect for the Client's timeout or the grace; if that fails, close it."""
        client = self.client
        self._sender = None
        self._up.clear()
        self.answers.dropped()
        if client.scheduler_comm is not None:
            client.scheduler_comm.abort()
        # Pending requests on other connections might wait forever: end those connections too.
        client.rpc.remove(client.scheduler.address, reason="the connection was lost")
        try:
            await self._try(max(internals.client_timeout(client), self.grace))
        finally:
            if client.status not in ("connecting", "running"):
                self._up.set()  # do not let pending requests wait forever

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
            "relevant settings: disconnect_grace, and the Client's timeout."
        )
        self._cancel(dict(client.futures), self._over or lost)
        await internals.close_client(client)
        if not internals.made_asynchronous(client) and type(client).close is Client.close:
            # Its own method would do nothing any more, but that of a subclass may.
            internals.replace(client, "close", functools.partial(_end_thread, weakref.ref(client)))
        self.off()

    # Messages

    def post(self, message: dict[str, Any]) -> None:
        """Send a message to the scheduler, now or once it is connected again."""
        if not self.on:
            internals.stock_send_safe(self.client, message)
            return
        if self.client.status == "closed":
            return
        if submits(message):
            error = cannot_name(message["keys"]) or unfit(message["annotations"].data)
            if error is not None:
                # This call would break the connection, and other submitted calls would be lost too.
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
            # The task that reads from this connection has not noticed yet, and soon will.
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
        elif not self._over:  # if it has ended, there is nothing to connect to
            self.off()

    async def _beat(self) -> None:
        sender, now = self._sender, monotonic()
        if sender is None:
            return
        pause, self._beaten = now - self._beaten, now
        if pause > _BEAT + 1:
            self._heard = now  # this process was suspended and could not receive anything
        with contextlib.suppress(CommClosedError):
            self.answers.mark(sender, self.outbox.handed)
        if not self.silence or now - self._heard <= self.silence:
            return
        # A scheduler that is busy with earlier messages reads no others: use another connection.
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
        """Return this request with retries when the connection breaks; it must be read-only."""

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


def _end_thread(client: weakref.ref[Client], timeout: Any = None) -> None:
    """End the thread of the event loop of a Client that has closed itself, in which it could not.

    This is then ``client.close``, which is also called when the Client is collected, in any thread.
    """
    if (closed := client()) is not None:
        with contextlib.suppress(RuntimeError):
            asyncio.get_running_loop()
            return
        internals.stop_loop(closed)
