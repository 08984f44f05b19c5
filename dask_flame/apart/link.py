"""Messages between a driver and its scheduler's pod, over connections that may break (both).

Each side numbers what it says, and keeps it until the other has taken it in. A connection that
takes the place of a broken one begins with how far each side has come, and the rest is said again:
nothing is lost, nothing is heard twice, and all comes in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from distributed.comm import Comm
from distributed.protocol import pickle

logger = logging.getLogger("dask_flame")

Handler = Callable[..., Any]

_REPLY = "reply"
#: Messages that are sent together.
_AT_ONCE = 1000


class Link:
    """One side of the conversation.

    Parameters
    ----------
    handlers : mapping of str to callable
        What is done when the other side says so, with what it has said as keywords, in the order
        in which it was said. What a coroutine function returns is the answer to :meth:`ask`; it
        does not hold up what is said next.
    silence : float
        Seconds after which a connection on which nothing comes is taken for dead. Each side says
        something four times as often.

    Attributes
    ----------
    spoken : bool
        Whether there has ever been a connection.
    """

    def __init__(self, handlers: Mapping[str, Handler], *, silence: float) -> None:
        self.spoken = False
        self._handlers = dict(handlers)
        self._silence = silence
        self._kept: deque[tuple[int, bytes]] = deque()  # said, and perhaps not taken in
        self._said = self._taken = 0
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._more = asyncio.Event()
        self._comm: Comm | None = None
        self._over = ""

    @property
    def connected(self) -> bool:
        return self._comm is not None

    @property
    def waiting(self) -> int:
        """Messages that the other side has not taken in yet."""
        return len(self._kept)

    def say(self, what: str, /, **values: Any) -> int:
        """Say something; it is sent as soon as it can be. Its number."""
        self._said += 1
        if not self._over:
            self._kept.append((self._said, pickle.dumps((what, values))))
            self._more.set()
        return self._said

    async def ask(self, what: str, /, **values: Any) -> Any:
        """Say something that the other side answers, however long that takes.

        Raises
        ------
        ConnectionError
            If the conversation is over before.
        Exception
            What the other side raised.
        """
        if self._over:
            raise ConnectionError(self._over)
        number = self.say(what, **values)
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            return await answer
        finally:
            self._asked.pop(number, None)

    async def serve(self, comm: Comm) -> None:
        """Say and hear over a connection until it is dead, or replaced by another one."""
        if self._over:
            comm.abort()
            return
        if self._comm is not None:
            self._comm.abort()
        self._comm = comm
        writer: asyncio.Task[None] | None = None
        try:
            await comm.write(self._taken)
            async with asyncio.timeout(self._silence):
                taken = await comm.read()
            self.spoken = True
            self._let_go(taken)
            writer = asyncio.create_task(self._write(comm, taken))
            while True:
                async with asyncio.timeout(self._silence):
                    taken, said = await comm.read()
                self._let_go(taken)
                for number, message in said:
                    if number > self._taken:
                        self._taken = number
                        self._hear(number, *pickle.loads(message))
        except (OSError, TimeoutError) as error:
            logger.debug("a connection has gone: %r", error)
        finally:
            if writer is not None:
                writer.cancel()
                await asyncio.gather(writer, return_exceptions=True)
            comm.abort()
            if self._comm is comm:
                self._comm = None

    def cut(self) -> None:
        """End the connection; the conversation goes on over the next one."""
        if self._comm is not None:
            self._comm.abort()

    async def close(self, why: str = "the cluster is closed") -> None:
        """End the conversation: what is asked for, or under way, is given up."""
        self._over = self._over or why
        self.cut()
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(ConnectionError(self._over))
                answer.exception()  # whoever waits for it may be gone
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._kept.clear()

    async def flush(self, timeout: float) -> None:
        """Wait until the other side has taken in all that was said, or no longer."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while self._kept and self._comm is not None:  # noqa: ASYNC110 - see `_let_go`
                    await asyncio.sleep(0.01)

    async def _write(self, comm: Comm, taken: int) -> None:
        said, confirmed = taken, self._taken
        try:
            while True:
                self._more.clear()
                rest = [item for item in self._kept if item[0] > said][:_AT_ONCE]
                if not rest and confirmed == self._taken:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(self._silence / 4):
                            await self._more.wait()
                            continue
                confirmed = self._taken
                await comm.write((confirmed, rest))
                said = rest[-1][0] if rest else said
        except OSError:
            comm.abort()

    def _let_go(self, taken: int) -> None:
        while self._kept and self._kept[0][0] <= taken:
            self._kept.popleft()

    def _hear(self, number: int, what: str, values: dict[str, Any]) -> None:
        self._more.set()  # what was taken in is to be confirmed
        if what == _REPLY:
            answer = self._asked.get(values["to"])
            if answer is not None and not answer.done():
                if values["error"] is not None:
                    answer.set_exception(values["error"])
                else:
                    answer.set_result(values["result"])
            return
        try:
            result = self._handlers[what](**values)
        except Exception:
            logger.exception("what was said of %s could not be taken in", what)
            return
        if isinstance(result, Awaitable):
            task = asyncio.ensure_future(self._answer(number, result))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _answer(self, number: int, result: Awaitable[Any]) -> None:
        try:
            self.say(_REPLY, to=number, result=await result, error=None)
        except Exception as error:
            try:
                pickle.loads(pickle.dumps(error))
            except Exception:
                error = RuntimeError(f"{type(error).__name__}: {error}")
            self.say(_REPLY, to=number, result=None, error=error)
