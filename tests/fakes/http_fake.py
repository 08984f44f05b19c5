"""A fake that is asked over HTTP: its thread, its start and end, its failures (test process)."""

from __future__ import annotations

import asyncio
import atexit
import shutil
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Self, TypeVar

from tests.fakes.http_server import Fault, HttpServer

T = TypeVar("T")


class HttpFake(ABC):
    """A fake whose server and parts live in an event loop, in a thread of its own.

    So it goes on whatever a test's loop does; its public methods may be called from any thread. It
    is a context manager, for ``with`` and for ``async with``.

    Parameters
    ----------
    name : str
        What it is: the thread's name, and a word of its errors.
    prefix : str
        Of its folder's name.
    """

    _loop: asyncio.AbstractEventLoop
    _folder: Path
    _server: HttpServer[Any]
    #: What `fail` makes.
    _fault: type[Fault[Any]]

    def __init__(self, *, name: str, prefix: str) -> None:
        self._name = name
        self._prefix = prefix
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.start)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await asyncio.to_thread(self.close)

    def start(self) -> None:
        """Begin to listen."""
        self._folder = Path(tempfile.mkdtemp(prefix=self._prefix))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=self._name, daemon=True)
        self._thread.start()
        atexit.register(self.close)
        try:
            self._run(self._begin())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop listening, kill all processes, remove all folders, end the thread.

        Raises
        ------
        RuntimeError
            If a part of it has failed: an error of this fake.
        """
        if self._thread is None or self._loop.is_closed():
            return
        atexit.unregister(self.close)
        errors: list[BaseException] = []

        async def end() -> None:
            errors.extend(await self._end())
            rest = asyncio.all_tasks() - {asyncio.current_task()}
            for other in rest:
                other.cancel()
            await asyncio.gather(*rest, return_exceptions=True)

        try:
            self._run(end())
        finally:
            self._reap()
            shutil.rmtree(self._folder, ignore_errors=True)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
        if errors:
            raise RuntimeError(f"the fake {self._name} has failed: {errors!r}") from errors[0]

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.port}"

    def fail(
        self,
        match: str | Callable[[Any], bool],
        *,
        status: int | None = 503,
        times: int = 1,
        retry_after: float | None = None,
        after: bool = False,
        hang: float = 0.0,
    ) -> None:
        """Answer the next requests that match with an error.

        Parameters
        ----------
        match : str or callable
            A pattern, as the fake's `Fault` says, or a function of a `Request`.
        status : int or None
            Of the answer: 429, 412, 503, …; None cuts the connection instead.
        times : int
        retry_after : float, optional
            Seconds that the answer asks to wait.
        after : bool
            Whether what was asked for is done all the same: only its answer is lost.
        hang : float
            Seconds before the answer: longer than the client waits, it is a server that hangs.
        """
        fault = self._fault(match, status, times, retry_after, after, hang)
        self._call(lambda: self._server.faults.append(fault))

    def down(self) -> None:
        """Refuse connections, and cut those there are. What runs goes on."""
        self._run(self._server.down())

    def up(self) -> None:
        """Listen again, at the same address."""
        self._run(self._server.up())

    def slow(self, seconds: float) -> None:
        """From now on answer every request this much later; 0: at once again."""
        self._call(lambda: setattr(self._server, "delay", seconds))

    @abstractmethod
    async def _begin(self) -> None:
        """Make the parts, with files in `_folder`, and start the server."""

    @abstractmethod
    async def _end(self) -> list[BaseException]:
        """End the parts, those that were made; return their errors."""

    def _reap(self) -> None:
        """Kill what `_end` may have left, in the thread that closes."""
        return

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    def _call(self, what: Callable[[], T]) -> T:
        """Call it in the thread of the loop, which alone touches the parts."""

        async def call() -> T:
            return what()

        return self._run(call())
