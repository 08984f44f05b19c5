"""Shows what runners print, a line at a time, and says what is left out (driver, scheduler)."""

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
    """Marks lines with their runner and call, and has no more of them written than the limits say.

    What Python code of calls prints has been held back where it was printed; here only all together
    is, and what nobody has held back yet. To be used on the event loop.

    Parameters
    ----------
    write : callable
        Takes a line, with its end.
    limits : Limits
    rest : str
        Where lines are that are left out.
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
        """Show what a runner has said that its calls have printed."""
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
        """Show what a runner has printed, in whole lines.

        Parameters
        ----------
        runner, text : str
        call, name, stream
            See :class:`dask_flame.prints.frames.Piece`.
        free : bool
            Whether nobody has held it back yet.
        """
        place = runner, call, name, stream
        for other in sorted(self._of.get(runner, ())):
            # What was written beneath Python by the call that ran alone before.
            if other[3] == 0 and other[1] not in (0, call):
                self._over(other)
        now = asyncio.get_running_loop().time()
        for line in self._lines.add(place, text, now):
            self._show(place, line, free=free)
        if place in self._lines:
            self._of.setdefault(runner, set()).add(place)
        self._plan()

    def end(self, runner: str, call: int, name: str) -> None:
        """A call prints no more: show what it has left."""
        for stream in (0, 1, 2):
            self._over((runner, call, name, stream))

    def over(self, runner: str) -> None:
        """A runner prints no more: show what it has left."""
        for place in sorted(self._of.pop(runner, ())):
            self._over(place)
        if (limit := self._free.pop(runner, None)) is not None:
            self._say(limit, runner)

    def close(self) -> None:
        """Say what there is to say."""
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
        """Whether one more line may be shown; if not, that will be said."""
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
    """Writes lines to the driver's standard output from a thread of its own.

    The driver's output may be a pipe that nobody reads, or closed: lines that cannot be written
    soon enough are dropped, and the first error ends it.
    """

    def __init__(self) -> None:
        self._background = BackgroundThread("flame-prints")

    def __call__(self, line: str) -> None:
        """Write this, some time."""
        self._background.do(partial(self._write, line))

    async def close(self) -> None:
        """Write what is left, unless the output is stuck."""
        await in_thread(self._background.close)

    def _write(self, line: str) -> None:
        # Looked up each time: notebooks and tests replace it.
        stream = sys.stdout
        encoding = getattr(stream, "encoding", None) or "utf-8"
        stream.write(line.encode(encoding, "backslashreplace").decode(encoding))
        if self._background.empty:
            stream.flush()


class DriversShow(Show):
    """Shows in the driver what its runners print, without ever holding the driver up (driver)."""

    def __init__(self, limits: Limits) -> None:
        self._writer = Writer()
        super().__init__(self._writer, limits, rest="cluster.get_logs() has the last of them")

    async def finish(self) -> None:
        """Show what is left, unless the output is stuck."""
        self.close()
        await self._writer.close()
