"""What runners and the scheduler say to each other is sent at once (runner, scheduler)."""

from __future__ import annotations

import logging
from collections import deque
from typing import Any

from distributed.batched import BatchedSend
from distributed.comm import CommClosedError
from tornado.ioloop import IOLoop

logger = logging.getLogger("dask_flame")


def keep_no_log(sender: BatchedSend) -> None:
    """Have nothing kept of what was sent.

    Dask keeps the last 1,000 messages of each connection, of up to a megabyte each, for its
    developers to look at.
    """
    sender.recent_message_log = deque(maxlen=0)


class ImmediateSender(BatchedSend):
    """Sends what is said in one turn of the event loop, together, in the next one.

    The base class keeps an interval between messages. A runner is given its next call when it has
    done with one, so that nothing else is on the way that could be sent with it: to wait gains
    nothing. The interval's timer, which goes off once for each message, costs runner and scheduler
    a tenth of their time for calls that do nothing. A loop that is busy has longer turns, and more
    to say in each.

    Parameters
    ----------
    loop : tornado.ioloop.IOLoop, optional
    """

    buffer: list[Any]

    def __init__(self, loop: IOLoop | None = None) -> None:
        super().__init__(interval=0, loop=loop)
        keep_no_log(self)

    def finish(self) -> None:
        """End when all is sent that was said; the connection is for others to close."""
        self.please_stop = True
        self.waker.set()

    async def _background_send(self) -> None:
        # Replaces the base class's, which its `start` begins. `next_deadline` stays None: that is
        # what has its `send` wake this.
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
            # How much of it was written is not known: nothing can follow upon that.
            logger.exception("could not be sent on %r", self.comm)
            self.abort()
        finally:
            self.stopped.set()
