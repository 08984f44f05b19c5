"""Send the messages of a stream at once (all places)."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Any

from distributed.batched import BatchedSend
from distributed.comm import Comm, CommClosedError
from tornado.ioloop import IOLoop

from dask_flame.core.threads import is_at_exit

logger = logging.getLogger("dask_flame")


def keep_no_log(sender: BatchedSend) -> None:
    """Disable the log of sent messages.

    For debugging, Dask keeps the last 1,000 messages of each connection, of up to a megabyte each.
    """
    sender.recent_message_log = deque(maxlen=0)


class ImmediateSender(BatchedSend):
    """Send the messages of one turn of the event loop together in the next turn.

    The base class waits for an interval between messages. A runner gets its next call when it has
    finished one, so that no other message could be sent along, and waiting gains nothing. The
    interval's timer fires once for each message, and costs runner and scheduler a tenth of their
    time for calls that do nothing. A busy loop has longer turns, and sends more in each.

    A coroutine of the base class waits for messages until it is told to stop. Here none waits, so
    that a sender whose connection is lost can be forgotten.

    Parameters
    ----------
    loop : tornado.ioloop.IOLoop, optional

    Attributes
    ----------
    interval : float
        Minimum seconds between two messages; 0 unless it is set.
    """

    buffer: list[Any]
    interval: float

    def __init__(self, loop: IOLoop | None = None) -> None:
        super().__init__(interval=0, loop=loop)
        keep_no_log(self)
        self._sending: asyncio.Task[None] | None = None
        self.stopped.set()  # no coroutine waits while there is nothing to send

    def start(self, comm: Comm) -> None:
        """Send through this connection, also what there was to send before."""
        self.comm = comm
        self._wake()

    def send(self, *msgs: Any) -> None:
        """Send messages in the next turn of the event loop.

        Raises
        ------
        CommClosedError
        """
        if self.comm is not None and self.comm.closed():
            raise CommClosedError(f"{self.comm!r} is closed")
        self.message_count += len(msgs)
        self.buffer.extend(msgs)
        self._wake()

    def _wake(self) -> None:
        loop = self.loop.asyncio_loop
        if self.buffer and self.comm is not None and self._sending is None and not loop.is_closed():
            self.stopped.clear()
            self._sending = loop.create_task(self._background_send())

    async def _background_send(self) -> None:
        # Replaces the base class's method, which waits for messages.
        try:
            while self.buffer:
                messages, self.buffer = self.buffer, []
                self.batch_count += 1
                sent = await self.comm.write(
                    messages, serializers=self.serializers, on_error="raise"
                )
                self.byte_count += sent
                del messages
                if self.interval:
                    await asyncio.sleep(self.interval)
        except CommClosedError:
            logger.debug("%r was closed", self.comm, exc_info=True)
            self.abort()
        except Exception as error:
            # An unknown part of the message was written: nothing can follow it.
            if is_at_exit(error):
                logger.debug("not sent, as the process exits", exc_info=True)
            else:
                logger.exception("could not be sent on %r", self.comm)
            self.abort()
        finally:
            self._sending = None
            self.stopped.set()


class SuccessorSender(ImmediateSender):
    """Take the place of a sender that distributed has started.

    Parameters
    ----------
    before : BatchedSend
        It ends. The messages that it has not sent come first.
    """

    def __init__(self, before: BatchedSend) -> None:
        super().__init__(before.loop)
        self._before = before
        before.please_stop = True
        before.waker.set()
        self.comm = before.comm
        self.stopped.clear()
        self._sending = self.loop.asyncio_loop.create_task(self._take_over())

    async def _take_over(self) -> None:
        try:
            # It may be sending a message.
            await self._before.stopped.wait()
            self.buffer[:0], self._before.buffer = self._before.buffer, []
            await self._background_send()
        finally:
            self._sending = None
            self.stopped.set()
