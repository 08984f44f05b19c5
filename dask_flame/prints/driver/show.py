"""Show the output of runners line by line, within limits (driver, scheduler)."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from dask_flame.core.terminal_text import plain, tame
from dask_flame.core.threads import BackgroundThread, in_thread
from dask_flame.prints.lines import LineFilter
from dask_flame.prints.rate_limit import Limits, RateLimit, left_out

#: A runner, the number and the name of a call's execution, and the stream.
_Place = tuple[str, int, str, int]


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
        self._lines: LineFilter[_Place] = LineFilter()
        self._of: dict[str, set[_Place]] = {}
        self._all = RateLimit(limits.total_burst, limits.total_rate)
        self._free: dict[str, RateLimit] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._saying: dict[RateLimit, asyncio.TimerHandle] = {}

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
        place = runner, call, name, stream
        for other in sorted(self._of.get(runner, ())):
            # Finish unframed output of the call that ran alone before.
            if other[3] == 0 and other[1] not in (0, call):
                self._over(other)
        now = asyncio.get_running_loop().time()
        for line in self._lines.add(place, text, now):
            self._show(place, line, free=free)
        if place in self._lines:
            self._of.setdefault(runner, set()).add(place)
        self._plan()

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
            self._over((runner, call, name, stream))

    def over(self, runner: str) -> None:
        """Show the unfinished lines of a runner that has ended."""
        for place in sorted(self._of.pop(runner, ())):
            self._over(place)
        if (limit := self._free.pop(runner, None)) is not None:
            self._say(limit, runner)

    def close(self) -> None:
        """Show all unfinished lines and the numbers of dropped lines."""
        for runner in list(self._of):
            self.over(runner)
        for runner, limit in self._free.items():
            self._say(limit, runner)
        self._say(self._all, "")
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _over(self, place: _Place) -> None:
        for line in self._lines.over(place):
            self._show(place, line, free=False)
        self._of.get(place[0], set()).discard(place)

    def _plan(self) -> None:
        due = self._lines.due()
        if self._timer is not None:
            if due is not None and self._timer.when() <= due:
                return
            self._timer.cancel()
            self._timer = None
        if due is not None:
            self._timer = asyncio.get_running_loop().call_at(due, self._look)

    def _look(self) -> None:
        self._timer = None
        for place, line in self._lines.late(asyncio.get_running_loop().time()):
            self._show(place, line, free=False)
        self._plan()

    def _show(self, place: _Place, line: str, *, free: bool) -> None:
        runner, _, name, _ = place
        if free:
            limit = self._free.get(runner)
            if limit is None:
                limit = self._free[runner] = RateLimit(self._limits.burst, self._limits.rate)
            if not self._given(limit, runner):
                return
        if self._given(self._all, ""):
            who = plain(f"{runner} {name}" if name else runner)
            self._write(f"[{who}] {tame(line)}\n")

    def _given(self, limit: RateLimit, runner: str) -> bool:
        """Return whether one more line may be shown; if not, schedule a message about it."""
        before = limit.left_out
        if limit.offer(1, asyncio.get_running_loop().time()):
            if before:
                self._say(limit, runner)
            return True
        if limit not in self._saying:
            self._wait(limit, runner)
        return False

    def _wait(self, limit: RateLimit, runner: str) -> None:
        loop = asyncio.get_running_loop()
        self._saying[limit] = loop.call_later(limit.pause, self._look_at, limit, runner)

    def _look_at(self, limit: RateLimit, runner: str) -> None:
        del self._saying[limit]
        if limit.left_out:
            if limit.full_enough(asyncio.get_running_loop().time()):
                self._say(limit, runner)
            else:
                self._wait(limit, runner)

    def _say(self, limit: RateLimit, runner: str) -> None:
        if (timer := self._saying.pop(limit, None)) is not None:
            timer.cancel()
        if count := limit.say():
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


class DriversShow(Show):
    """Shows the output of runners in the driver, without blocking the driver (driver)."""

    def __init__(self, limits: Limits) -> None:
        self._writer = Writer()
        super().__init__(self._writer, limits, rest="cluster.get_logs() has the last of them")

    async def finish(self) -> None:
        """Show the remaining lines, unless the output is blocked."""
        self.close()
        await self._writer.close()
