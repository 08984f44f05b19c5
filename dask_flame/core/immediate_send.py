"""Send messages between runners and the scheduler at once (runner, scheduler)."""

from __future__ import annotations

import logging
from collections import deque
from typing import Any

from distributed.batched import BatchedSend
from distributed.comm import CommClosedError
from tornado.ioloop import IOLoop

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

    Parameters
    ----------
    loop : tornado.ioloop.IOLoop, optional
    """

    buffer: list[Any]

    def __init__(self, loop: IOLoop | None = None) -> None:
        super().__init__(interval=0, loop=loop)
        keep_no_log(self)

    def finish(self) -> None:
        """Stop once all messages are sent; leave the connection open."""
        self.please_stop = True
        self.waker.set()

    async def _background_send(self) -> None:
        # Replaces the base class's method, which its `start` runs. `next_deadline` stays None, so
        # that the base class's `send` wakes this loop.
        try:
            while self.buffer or not self.please_stop:
                if not self.buffer:
                    await self.waker.wait()
                    self.waker.clear()
                    continue
                messages, self.buffer = self.buffer, []
                self.batch_count += 1
                sent = await self.comm.write(
                    messages, serializers=self.serializers, on_error="raise"
                )
                self.byte_count += sent
                del messages
        except CommClosedError:
            logger.debug("%r was closed", self.comm, exc_info=True)
            self.abort()
        except Exception:
            # An unknown part of the message was written: nothing can follow it.
            logger.exception("could not be sent on %r", self.comm)
            self.abort()
        finally:
            self.stopped.set()
