"""Limit how much output of a cell is sent to the notebook (all places). No I/O, no clock."""

from __future__ import annotations

from collections import deque

from dask_flame.core.rate_limit import RateLimit

#: Lines of a cell that are shown at once, and per second after that.
BURST, RATE = 10_000, 200
#: A display counts as this many lines. Each is a message of its own, and an output in the notebook.
DISPLAY = 20
#: A line with more characters counts as several, and so does a display for each of these.
_LINE, _DISPLAY = 100, 10_000
#: Number of lines that are shown after the end of a cell with too many.
LAST = 10

#: Text for a stream, ``stdout`` or ``stderr``.
Piece = tuple[str, str]


class OutputLimit:
    """Drops output beyond a limit, and says how much.

    Parameters
    ----------
    burst : int
        Lines that are shown at once; a display counts as :data:`DISPLAY` lines.
    rate : float
        Lines per second after that.

    Examples
    --------
    >>> limit = OutputLimit(burst=3, rate=1)
    >>> limit.text("stdout", "1\\n2\\n3\\n4\\n5\\n", now=0.0)
    [('stdout', '1\\n2\\n3\\n')]
    >>> limit.text("stdout", "6\\n", now=0.1)
    []
    >>> for stream, text in limit.text("stdout", "7\\n", now=9.0):
    ...     print(stream, repr(text))
    stderr '… 3 lines not shown: a cell shows 3 lines at once, then 1 per second\\n'
    stdout '7\\n'
    """

    def __init__(self, burst: int = BURST, rate: float = RATE) -> None:
        self._limit = RateLimit(burst, rate)
        self._rule = f"a cell shows {burst:,} lines at once, then {rate:g} per second"
        self._column = 0
        self._cut = False
        self._in_line = False
        self._lines = self._displays = self._size = 0
        self._dropped: deque[Piece] = deque()

    def text(self, stream: str, text: str, now: float) -> list[Piece]:
        """Return the text to show instead of one that was written to a stream."""
        lines = self._count(text)
        given = self._limit.offer(lines, now)
        if self._cut and not given:
            kept = ""
        elif given == lines:
            kept = text
        else:
            kept = "".join(text.splitlines(keepends=True)[:given])[: given * _LINE]
        pieces = self._resumed(stream, kept) if kept else []
        if len(kept) < len(text):
            self._cut = True
            self._lines += lines - given
            self._drop(stream, text[len(kept) :])
        return pieces

    def display(self, size: int, now: float) -> tuple[list[Piece], bool]:
        """Return the text to show before a display, and whether to show the display.

        Parameters
        ----------
        size : int
            Size of the display in characters.
        now : float
            Current time in seconds.
        """
        # A display is shown as a whole, even if there is room for a part only.
        if self._limit.offer(DISPLAY + size // _DISPLAY, now):
            return (self._left_out() if self._cut else []), True
        self._cut = True
        self._displays += 1
        return [], False

    def end(self) -> list[Piece]:
        """Return the text to show after the end of the cell."""
        if not self._cut:
            return []
        last: list[Piece] = []
        ends = 0
        for stream, text in reversed(self._dropped):
            ends += text.count("\n")
            if ends > LAST:
                last.append((stream, text.split("\n", ends - LAST)[-1]))
                break
            last.append((stream, text))
        self._lines = max(0, self._lines - sum(text.count("\n") for _, text in last))
        return [*self._left_out(), *last[::-1]]

    def _count(self, text: str) -> int:
        """Return the number of lines that a text completes, long ones counted several times."""
        lines = text.count("\n")
        if not lines:
            more, self._column = divmod(self._column + len(text), _LINE)
            return more
        if len(text) > _LINE:
            lines += sum(len(line) // _LINE for line in text.split("\n"))
        self._column = (len(text) - text.rindex("\n") - 1) % _LINE
        return lines

    def _resumed(self, stream: str, text: str) -> list[Piece]:
        """Return a text to show, after a message about what was dropped before it."""
        before: list[Piece] = []
        if self._cut:
            # The beginning of the line may be among it.
            begun = self._dropped[-1] if self._dropped else (stream, "")
            if begun[0] == stream:
                text = begun[1].rpartition("\n")[2] + text
            before = self._left_out()
        self._in_line = not text.endswith("\n")
        return [*before, (stream, text)]

    def _left_out(self) -> list[Piece]:
        """Return a message about what was dropped, and begin anew."""
        counts = [
            f"{n:,} {word}" if n == 1 else f"{n:,} {word}s"
            for n, word in ((self._lines, "line"), (self._displays, "display"))
            if n
        ]
        newline = "\n" if self._in_line else ""
        self._cut = self._in_line = False
        self._lines = self._displays = self._size = 0
        self._dropped.clear()
        if not counts:
            return []
        return [("stderr", f"{newline}… {' and '.join(counts)} not shown: {self._rule}\n")]

    def _drop(self, stream: str, text: str) -> None:
        """Keep the last dropped lines, for the end."""
        most = LAST * _LINE
        text = text[-most:]
        self._dropped.append((stream, text))
        self._size += len(text)
        while self._size - len(self._dropped[0][1]) >= most:
            self._size -= len(self._dropped.popleft()[1])
