"""Split the output of runners into lines to show (driver). No I/O, no clock.

Lines of several runners are shown whole, so that they do not mix. A line that takes long, such as a
progress bar, is also shown unfinished, at growing intervals. Text before a carriage return is not
shown.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

#: Seconds after which an unfinished line is shown.
_FIRST_WAIT = 0.8
#: Maximum interval in seconds for showing an unfinished line, or one second for each such line if
#: that is longer.
_MAX_WAIT = 10.0
#: Maximum length of a line, in characters; a longer one is split.
LONGEST = 16_000
#: Suffix of an unfinished line.
UNFINISHED = " …"


@dataclass(slots=True)
class _Line:
    text: str
    due: float
    wait: float = _FIRST_WAIT
    shown: str = ""


class LineFilter(Generic[K]):
    """Unfinished lines, by source.

    Examples
    --------
    >>> lines: LineFilter[str] = LineFilter()
    >>> lines.add("runner-1", "one\\n 10%", now=0.0)
    ['one']
    >>> lines.add("runner-1", "\\r 20%", now=0.5), lines.late(now=1.0)
    ([], [('runner-1', ' 20% …')])
    >>> lines.add("runner-1", "\\r100%\\n", now=1.5)
    ['100%']
    """

    def __init__(self) -> None:
        self._unfinished: dict[K, _Line] = {}

    def __contains__(self, name: object) -> bool:
        """Return whether a source has an unfinished line."""
        return name in self._unfinished

    def add(self, name: K, text: str, now: float) -> list[str]:
        """Add output of a source; return the lines that it completes.

        Parameters
        ----------
        name : hashable
            The source.
        text : str
            Its output.
        now : float
            Current time in seconds.

        Returns
        -------
        list of str
        """
        line = self._unfinished.pop(name, None)
        before = "" if line is None else line.text
        *whole, rest = (before + text).split("\n")
        if whole:
            line = None
        rest = trimmed(rest)
        while len(rest) > LONGEST:
            whole.append(rest[:LONGEST])
            rest, line = rest[LONGEST:], None
        if rest:
            line = line or _Line(rest, now + _FIRST_WAIT)
            line.text = rest
            self._unfinished[name] = line
        return [part for w in whole for part in _cut(_visible(w))]

    def finish(self, name: K) -> list[str]:
        """Return the unfinished line of a source that has ended."""
        line = self._unfinished.pop(name, None)
        return [] if line is None else [_visible(line.text)]

    def late(self, now: float) -> list[tuple[K, str]]:
        """Return the unfinished lines that are due to be shown, with their sources."""
        late = []
        for name, line in self._unfinished.items():
            if now < line.due:
                continue
            line.wait = min(2 * line.wait, max(_MAX_WAIT, len(self._unfinished)))
            line.due = now + line.wait
            if (seen := _visible(line.text)) != line.shown:
                line.shown = seen
                late.append((name, seen + UNFINISHED))
        return late

    def due(self) -> float | None:
        """Return the time of the next call of :meth:`late`, or None."""
        return min((line.due for line in self._unfinished.values()), default=None)


def _cut(text: str) -> list[str]:
    """Split a line that is too long."""
    return [text[i : i + LONGEST] for i in range(0, len(text), LONGEST)] or [""]


def _visible(text: str) -> str:
    """Return the visible text of a line: the part after the last carriage return, if not empty."""
    return next((part for part in reversed(text.split("\r")) if part), "")


def trimmed(text: str) -> str:
    """Drop the invisible text of an unfinished line."""
    over, back, last = text.rpartition("\r")
    return last or _visible(over) + back
