"""Show the output of runners line by line, within limits (driver, scheduler)."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from dask_flame.core.rate_limit import Limits, RateLimit, left_out
from dask_flame.core.terminal_text import plain, tame
from dask_flame.core.threads import BackgroundThread, in_thread
from dask_flame.prints.frames import short
from dask_flame.prints.lines import LineFilter

#: Number of calls whose last lines are kept, number of these lines, and of characters of a line.
_RECENT_CALLS, _RECENT_LINES, _LONGEST_RECENT = 1_000, 50, 500

#: A runner, the number and the name of a call's execution, and the stream.
_Source = tuple[str, int, str, int]


class Show:
    """Prefixes lines with their runner and call, and writes as many as the limits allow.

    Output of Python code in calls is already limited on the runner. This class limits the output of
    all calls together, and output that was not limited yet. Use it on the event loop.

    Parameters
    ----------
    write : callable
        Called with a line, including its end.
    limits : Limits
        Maximum number of lines.
    rest : str
        Where to find the dropped lines, for the message about them.
    """

    def __init__(self, write: Callable[[str], object], limits: Limits, *, rest: str) -> None:
        self._write = write
        self._limits = limits
        self._rest = rest
        self._lines: LineFilter[_Source] = LineFilter()
        self._unfinished: dict[str, set[_Source]] = {}
        self._total = RateLimit(limits.total_burst, limits.total_rate)
        self._by_runner: dict[str, RateLimit] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._notices: dict[RateLimit, asyncio.TimerHandle] = {}
        self._recent: dict[tuple[str, str], deque[str]] = {}

    def said(self, runner: str, pieces: Sequence[Sequence[Any]]) -> None:
        """Show output of a runner's calls, as sent by the runner."""
        for number, name, stream, text in pieces:
            if stream:
                self.add(runner, text, call=number, name=name, stream=stream)
            else:
                self.end(runner, number, name)

    def add(
        self,
        runner: str,
        text: str,
        *,
        call: int = 0,
        name: str = "",
        stream: int = 0,
        free: bool = False,
    ) -> None:
        """Show output of a runner.

        Parameters
        ----------
        runner : str
            Name of the runner.
        text : str
            The output.
        call, name, stream
            See :class:`dask_flame.prints.frames.Piece`.
        free : bool, default False
            Whether the output was not limited yet.
        """
        source = runner, call, name, stream
        for other in sorted(self._unfinished.get(runner, ())):
            # Finish unframed output of the call that ran alone before.
            if other[3] == 0 and other[1] not in (0, call):
                self._finish(other)
        now = asyncio.get_running_loop().time()
        for line in self._lines.add(source, text, now):
            self._show(source, line, free=free)
        if source in self._lines:
            self._unfinished.setdefault(runner, set()).add(source)
        self._schedule()

    def end(self, runner: str, call: int, name: str) -> None:
        """Show the unfinished lines of a call that has ended.

        Parameters
        ----------
        runner : str
            Name of the runner.
        call : int
            Number of the call's execution.
        name : str
            Short name of the call.
        """
        for stream in (0, 1, 2):
            self._finish((runner, call, name, stream))

    def recent(self, runner: str, name: str) -> list[str]:
        """Return the last lines of a call, by the name of its runner and its own short name."""
        return list(self._recent.get((runner, short(name)), ()))

    def _keep(self, runner: str, name: str, line: str) -> None:
        if not name:
            return
        lines = self._recent.get((runner, name))
        if lines is None:
            lines = self._recent[runner, name] = deque(maxlen=_RECENT_LINES)
            while len(self._recent) > _RECENT_CALLS:
                del self._recent[next(iter(self._recent))]
        lines.append(line[:_LONGEST_RECENT])

    def over(self, runner: str) -> None:
        """Show the unfinished lines of a runner that has ended."""
        for source in sorted(self._unfinished.pop(runner, ())):
            self._finish(source)
        if (limit := self._by_runner.pop(runner, None)) is not None:
            self._notify(limit, runner)

    def close(self) -> None:
        """Show all unfinished lines and the numbers of dropped lines."""
        for runner in list(self._unfinished):
            self.over(runner)
        for runner, limit in self._by_runner.items():
            self._notify(limit, runner)
        self._notify(self._total, "")
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def finish(self) -> None:
        """Show the remaining lines, and end."""
        self.close()

    def _finish(self, source: _Source) -> None:
        for line in self._lines.finish(source):
            self._show(source, line, free=False)
        self._unfinished.get(source[0], set()).discard(source)

    def _schedule(self) -> None:
        due = self._lines.due()
        if self._timer is not None:
            if due is not None and self._timer.when() <= due:
                return
            self._timer.cancel()
            self._timer = None
        if due is not None:
            self._timer = asyncio.get_running_loop().call_at(due, self._show_late)

    def _show_late(self) -> None:
        self._timer = None
        for source, line in self._lines.late(asyncio.get_running_loop().time()):
            self._show(source, line, free=False)
        self._schedule()

    def _show(self, source: _Source, line: str, *, free: bool) -> None:
        runner, _, name, _ = source
        self._keep(runner, name, tame(line))
        if free:
            limit = self._by_runner.get(runner)
            if limit is None:
                limit = self._by_runner[runner] = RateLimit(self._limits.burst, self._limits.rate)
            if not self._allowed(limit, runner):
                return
        if self._allowed(self._total, ""):
            who = plain(f"{runner} {name}" if name else runner)
            self._write(f"[{who}] {tame(line)}\n")

    def _allowed(self, limit: RateLimit, runner: str) -> bool:
        """Return whether one more line may be shown; if not, schedule a message about it."""
        before = limit.left_out
        if limit.offer(1, asyncio.get_running_loop().time()):
            if before:
                self._notify(limit, runner)
            return True
        if limit not in self._notices:
            self._wait(limit, runner)
        return False

    def _wait(self, limit: RateLimit, runner: str) -> None:
        loop = asyncio.get_running_loop()
        self._notices[limit] = loop.call_later(limit.pause, self._notify_or_wait, limit, runner)

    def _notify_or_wait(self, limit: RateLimit, runner: str) -> None:
        del self._notices[limit]
        if limit.left_out:
            if limit.full_enough(asyncio.get_running_loop().time()):
                self._notify(limit, runner)
            else:
                self._wait(limit, runner)

    def _notify(self, limit: RateLimit, runner: str) -> None:
        if (timer := self._notices.pop(limit, None)) is not None:
            timer.cancel()
        if count := limit.take_left_out():
            self._write(f"[{plain(runner) or 'all runners'}] {left_out(count, self._rest)}")


class Writer:
    """Writes lines to the driver's standard output in a separate thread.

    The driver's output may be closed, or a pipe that is not read. Lines that cannot be written soon
    enough are dropped, and the first error stops the thread.
    """

    def __init__(self) -> None:
        self._background = BackgroundThread("flame-prints")

    def __call__(self, line: str) -> None:
        """Queue a line."""
        self._background.do(partial(self._write, line))

    async def close(self) -> None:
        """Write the queued lines, unless the output is blocked."""
        await in_thread(self._background.close)

    def _write(self, line: str) -> None:
        # Read `sys.stdout` each time: notebooks and tests replace it.
        stream = sys.stdout
        encoding = getattr(stream, "encoding", None) or "utf-8"
        stream.write(line.encode(encoding, "backslashreplace").decode(encoding))
        if self._background.empty:
            stream.flush()


class LastLines(Show):
    """Keeps the last lines of calls, and shows none: the driver does that (scheduler's pod)."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(lambda line: None, limits, rest="")


class DriversShow(Show):
    """Shows the output of runners in the driver, without blocking the driver (driver)."""

    def __init__(self, limits: Limits) -> None:
        self._writer = Writer()
        super().__init__(self._writer, limits, rest="cluster.get_logs() has the last of them")

    async def finish(self) -> None:
        """Show the remaining lines, unless the output is blocked."""
        self.close()
        await self._writer.close()
