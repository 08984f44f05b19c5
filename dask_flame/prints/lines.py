"""Which lines of what runners print are to be shown, and when (driver). No I/O, no clock.

Of several runners' prints only whole lines can be told apart. One that is long in coming, such as
a progress bar, is shown before its end as far as it has come, again and again but ever more rarely,
and once more when it is whole. What a carriage return has gone back over is not shown.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

#: Seconds after which a line that has not ended is shown as far as it has come.
_FIRST = 0.8
#: Seconds between two looks at one, at most, where few are under way; with more, one for each.
_MOST = 10.0
#: Characters after which a line is taken to end.
LONGEST = 16_000
#: What stands behind a line that has not ended.
UNFINISHED = " …"


@dataclass(slots=True)
class _Line:
    text: str
    due: float
    wait: float = _FIRST
    shown: str = ""


class LineFilter(Generic[K]):
    """The lines that runners have begun and not ended.

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
        self._begun: dict[K, _Line] = {}

    def __contains__(self, name: object) -> bool:
        """Whether it has begun a line and not ended it."""
        return name in self._begun

    def add(self, name: K, text: str, now: float) -> list[str]:
        """A runner has printed this; the lines that are whole with it."""
        line = self._begun.pop(name, None)
        before = "" if line is None else line.text
        *whole, rest = (before + text).split("\n")
        if whole:
            line = None
        rest = trimmed(rest)
        while len(rest) > LONGEST:
            whole.append(rest[:LONGEST])
            rest, line = rest[LONGEST:], None
        if rest:
            line = line or _Line(rest, now + _FIRST)
            line.text = rest
            self._begun[name] = line
        return [part for w in whole for part in _cut(_seen(w))]

    def over(self, name: K) -> list[str]:
        """A runner prints no more: the line that it has left unfinished."""
        line = self._begun.pop(name, None)
        return [] if line is None else [_seen(line.text)]

    def late(self, now: float) -> list[tuple[K, str]]:
        """Runners whose lines have not ended for a while, and these as far as they have come."""
        late = []
        for name, line in self._begun.items():
            if now < line.due:
                continue
            line.wait = min(2 * line.wait, max(_MOST, len(self._begun)))
            line.due = now + line.wait
            if (seen := _seen(line.text)) != line.shown:
                line.shown = seen
                late.append((name, seen + UNFINISHED))
        return late

    def due(self) -> float | None:
        """When to ask for :meth:`late` next."""
        return min((line.due for line in self._begun.values()), default=None)


def _cut(text: str) -> list[str]:
    """A line, in parts where it is too long."""
    return [text[i : i + LONGEST] for i in range(0, len(text), LONGEST)] or [""]


def _seen(text: str) -> str:
    """What is seen of a line in the end: what follows the last carriage return, if anything."""
    return next((part for part in reversed(text.split("\r")) if part), "")


def trimmed(text: str) -> str:
    """As much of a line that goes on as matters for what is seen of it."""
    over, back, last = text.rpartition("\r")
    return last or _seen(over) + back
