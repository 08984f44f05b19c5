"""Messages between a driver and its scheduler's pod, over connections that may break (both).

Each side numbers its messages, and keeps each one until the other side has received it. When a new
connection replaces a broken one, both sides first exchange the number of the last message
received, and then resend the rest: no message is lost or delivered twice, and the order is kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import pickle
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from distributed.comm import Comm
from distributed.protocol.pickle import dumps

from dask_flame.core.numbered import Unconfirmed

logger = logging.getLogger("dask_flame")

Handler = Callable[..., Any]
#: Number, kind, number of the question asked or answered (0: none), and pickled values.
Message = tuple[int, str, int, bytes]

_REPLY = "reply"


class Refused(ConnectionError):
    """The other side does not talk to this one any more, and says why."""


@dataclass
class _Question:
    """A message that waits for its answer, kept so that another process may be asked instead."""

    what: str
    message: bytes
    answer: asyncio.Future[Any]
    number: int = 0


#: Maximum number of messages sent together.
_AT_ONCE = 1000


class Channel:
    """One side of the conversation.

    Parameters
    ----------
    handlers : mapping of str to callable
        Called for each message of its kind, with the message's values as keywords, in order. The
        return value is the answer to :meth:`ask`; a coroutine does not delay later messages.
    silence : float
        Seconds without any message after which a connection is considered dead. Each side sends
        something four times as often.

    Attributes
    ----------
    has_connected : bool
        Whether there has ever been a connection.
    """

    def __init__(self, handlers: Mapping[str, Handler], *, silence: float) -> None:
        self.has_connected = False
        self._handlers = dict(handlers)
        self._silence = silence
        self._unconfirmed: Unconfirmed[Message] = Unconfirmed()
        self._last_received = 0
        self._questions: dict[int, _Question] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._more = asyncio.Event()
        self._comm: Comm | None = None
        self._closed = ""
        self._received_at, self._disconnected_at = time.time(), time.monotonic()

    @property
    def connected(self) -> bool:
        return self._comm is not None

    @property
    def unreachable_for(self) -> float:
        """Seconds, at least, since the other side last received anything from this side."""
        if self._comm is not None:
            return 0.0
        # Wall-clock time includes suspended time, unlike the monotonic clock.
        slept = time.time() - self._received_at - self._silence / 4
        return max(time.monotonic() - self._disconnected_at, slept)

    @property
    def waiting(self) -> int:
        """Number of messages that the other side has not confirmed yet."""
        return len(self._unconfirmed)

    def send(self, what: str, /, **values: Any) -> None:
        """Queue a message; it is sent as soon as possible."""
        self._keep(what, values)

    async def ask(self, what: str, /, **values: Any) -> Any:
        """Send a message and wait for its answer, without a timeout.

        Raises
        ------
        ConnectionError
            If the channel is closed before the answer arrives.
        Exception
            The error raised by the other side; a RuntimeError with its text if it cannot be
            unpickled here.
        """
        if self._closed:
            raise ConnectionError(self._closed)
        question = _Question(what, dumps(values), asyncio.get_running_loop().create_future())
        self._ask(question)
        try:
            return await question.answer
        finally:
            self._questions.pop(question.number, None)

    async def serve(self, comm: Comm) -> None:
        """Exchange messages over a connection until it breaks, or another one replaces it.

        Raises
        ------
        Refused
            The other side has said that it does not talk to this one any more.
        """
        if self._closed:
            comm.abort()
            return
        if self._comm is not None:
            self._comm.abort()
        self._comm = comm
        writer: asyncio.Task[None] | None = None
        try:
            await comm.write(self._last_received)
            async with asyncio.timeout(self._silence):
                taken = await comm.read()
            if isinstance(taken, str):
                raise Refused(taken)
            self.has_connected = True
            self._unconfirmed.confirm(taken)
            writer = asyncio.create_task(self._write(comm, taken))
            while True:
                async with asyncio.timeout(self._silence):
                    taken, messages = await comm.read()
                self._received_at = time.time()
                self._unconfirmed.confirm(taken)
                for message in messages:
                    if message[0] > self._last_received:
                        self._last_received = message[0]
                        self._handle(*message)
        except Refused:
            raise
        except (OSError, TimeoutError) as error:
            logger.debug("a connection has gone: %r", error)
        except Exception as error:
            # Whatever the error, the next connection continues after the last message received.
            logger.warning("a connection to the other side is given up: %r", error)
        finally:
            if writer is not None:
                writer.cancel()
                await asyncio.gather(writer, return_exceptions=True)
            comm.abort()
            if self._comm is comm:
                self._comm, self._disconnected_at = None, time.monotonic()

    def cut(self) -> None:
        """Abort the connection; the next one continues the conversation."""
        if self._comm is not None:
            self._comm.abort()

    def renew(self, keep: Collection[str] = ()) -> None:
        """Begin anew with another process on the other side, which has received nothing yet.

        Handlers of the earlier process's requests are cancelled. Questions without an answer are
        put to the new one. Its messages may be in progress there: their handlers must be able to
        carry out a question of which the earlier process has done a part.

        Parameters
        ----------
        keep : collection of str
            The kinds of messages to send to the new process if the earlier one has not confirmed
            them. All others are forgotten.
        """
        if self._comm is not None:
            self._comm.abort()
            self._comm, self._disconnected_at = None, time.monotonic()
        for task in self._tasks:
            task.cancel()
        waiting = {q.number: q for q in self._questions.values()}
        rest = [m for m in self._unconfirmed if m[1] in keep and m[0] not in waiting]
        self._unconfirmed, self._last_received = Unconfirmed(), 0
        self._questions.clear()
        for _, what, _, message in rest:
            self._add(what, message)
        for question in waiting.values():
            self._ask(question)

    async def close(self, why: str = "the cluster is closed") -> None:
        """Close the channel: cancel handlers that run, and fail questions without an answer."""
        self._closed = self._closed or why
        self.cut()
        for question in self._questions.values():
            if not question.answer.done():
                question.answer.set_exception(ConnectionError(self._closed))
                question.answer.exception()  # mark as retrieved: its caller may have been cancelled
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._unconfirmed.clear()

    async def flush(self, timeout: float) -> None:
        """Wait until the other side has confirmed all messages, at most ``timeout`` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while self._unconfirmed and self._comm is not None:  # noqa: ASYNC110 - see `serve`
                    await asyncio.sleep(0.01)

    async def _write(self, comm: Comm, taken: int) -> None:
        sent, confirmed = taken, self._last_received
        try:
            while True:
                self._more.clear()
                rest = list(islice(self._unconfirmed.since(sent), _AT_ONCE))
                if not rest and confirmed == self._last_received:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(self._silence / 4):
                            await self._more.wait()
                            continue
                confirmed = self._last_received
                await comm.write((confirmed, rest))
                sent = rest[-1][0] if rest else sent
        except OSError:
            comm.abort()

    def _ask(self, question: _Question) -> None:
        question.number = self._add(question.what, question.message, asks=True)
        self._questions[question.number] = question

    def _keep(self, what: str, values: Mapping[str, Any], *, answers: int = 0) -> None:
        """Queue a message."""
        self._add(what, dumps(values), answers=answers)

    def _add(self, what: str, message: bytes, *, asks: bool = False, answers: int = 0) -> int:
        """Queue a pickled message and return its number."""
        number = self._unconfirmed.next + 1
        if not self._closed:
            self._unconfirmed.add((number, what, number if asks else answers, message))
            self._more.set()
        return number

    def _handle(self, number: int, what: str, question: int, message: bytes) -> None:
        self._more.set()  # have the message confirmed
        try:
            values = pickle.loads(message)
            if what == _REPLY:
                self._answered(question, **values)
                return
            result = self._handlers[what](**values)
        except Exception as error:
            # Do not log the message itself: it may contain secrets.
            logger.warning("the message %r could not be handled: %r", what, error)
            if what == _REPLY:
                self._answered(question, None, dumps(error), repr(error))
            elif question:
                self._answer(number, None, error)
            return
        if isinstance(result, Awaitable):
            task = asyncio.ensure_future(self._await(number, what, result, asked=bool(question)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif question:
            self._answer(number, result)

    async def _await(self, number: int, what: str, result: Awaitable[Any], *, asked: bool) -> None:
        try:
            value = await result
        except Exception as error:
            if asked:
                self._answer(number, None, error)
            else:
                logger.warning("the message %r could not be carried out: %r", what, error)
        else:
            if asked:
                self._answer(number, value)

    def _answer(self, number: int, result: Any, error: Exception | None = None) -> None:
        try:
            # Pickled separately, as the other side may not have the error's class.
            what = None if error is None else dumps(error)
            values = {"result": result, "error": what, "text": _plain(error)}
            self._keep(_REPLY, values, answers=number)
        except Exception as other:
            values = {"result": None, "error": b"", "text": _plain(error or other)}
            self._keep(_REPLY, values, answers=number)

    def _answered(self, number: int, result: Any, error: bytes | None, text: str) -> None:
        question = self._questions.get(number)
        if question is None or question.answer.done():
            return
        answer = question.answer
        if error is None:
            answer.set_result(result)
            return
        try:
            raised = pickle.loads(error)
        except Exception:
            raised = RuntimeError(text)
        answer.set_exception(raised)


def _plain(error: Exception | None) -> str:
    return "" if error is None else f"{type(error).__name__}: {error}"
