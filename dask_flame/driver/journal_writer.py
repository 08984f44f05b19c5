"""What the control loop decides and sees of runners, as entries of the journal (driver)."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Collection, Iterable, Mapping

from dask_flame.backends.base import Ended
from dask_flame.core.terminal_text import tame
from dask_flame.errors import PRINTED
from dask_flame.history.boots import REGISTERED, shown
from dask_flame.history.journal import (
    BootFailed,
    BootHeldUp,
    BootStepped,
    RunnerEnded,
    RunnerRegistered,
    RunnersAsked,
    RunnersRetired,
    event_now,
)
from dask_flame.history.records import History
from dask_flame.scaling.boot_messages import BootMessages
from dask_flame.scaling.decisions import BootRequest, Decision
from dask_flame.scaling.fleet import Fleet

#: Of what a runner printed last, in the event of its end: lines, and characters of each.
_SHOWN_LINES, _LONGEST_LINE = 25, 500


class JournalWriter:
    """Writes what the control loop decides and sees of runners, each time once.

    Parameters
    ----------
    history : History

    Attributes
    ----------
    told : BootMessages
        What was said of boots that fail.
    """

    def __init__(self, history: History) -> None:
        self.told = BootMessages()
        self._journal = history.journal
        self._boots = history.boots

    # Boots

    def asked(
        self, pool: str, request: BootRequest, clock: float, numbers: Mapping[str, float]
    ) -> None:
        """Note that runners were asked for, at a time of the monotonic clock."""
        names = request.names
        event = event_now("boot", request.reason, runners=names, pool=pool, **numbers)
        self._journal.append(RunnersAsked(pool=pool, runners=names, clock=clock, event=event))

    def stepped(self, name: str, step: str) -> None:
        """Note that a boot has come to a step, if that is news."""
        if (measured := self._boots.measure(name, step, time.monotonic())) is not None:
            boot, took = measured
            _, seconds = boot.steps[-1]
            self._journal.append(
                BootStepped(pool=boot.pool, runner=name, step=step, seconds=seconds, took=took)
            )

    def held_up(self, name: str, pool: str, why: str) -> None:
        """Note that a boot is held up, or no longer, if that is news."""
        boot, event = self._boots.of(name), None
        if boot is None or boot.trouble == why:
            return
        if self._boots.is_news(name, why) and (news := self.told.shorten(pool, name, why)):
            event = event_now("held", news, runners=[name], pool=pool)
        self._journal.append(BootHeldUp(runner=name, why=why, event=event))

    def registered(self, name: str, pool: str, took: float) -> None:
        """Note that a runner has come up, so many seconds after it was asked for."""
        self.told.forget(pool)
        self.stepped(name, REGISTERED)
        boot = self._boots.of(name)
        steps = dict(boot.steps) if boot is not None else {}
        before = [f"{step} {shown(at)}" for step, at in steps.items() if step != REGISTERED]
        why = f"registered {took:.2f} s after its boot"
        why += f" ({', '.join(before)})" if before else ""
        event = event_now("ready", why, runners=[name], pool=pool, **{"seconds": took, **steps})
        self._journal.append(RunnerRegistered(pool=pool, runner=name, seconds=took, event=event))

    def how_far(self, names: Collection[str]) -> str:
        """Return how far these boots have come, as a part of a sentence; empty if unknown."""
        how_far = self._boots.how_far(names)
        return f" ({how_far})" if how_far else ""

    def how_far_one_came(self, what: Ended) -> str:
        """Return how far a boot has come that is over, without what its end says anyway."""
        boot = self._boots.of(what.name)
        if boot is not None and boot.trouble and boot.trouble in what.why:
            self._journal.append(BootHeldUp(runner=what.name, why=""))
        return self.how_far([what.name])

    # Ends

    def retired(self, pool: str, fleet: Fleet, decision: Decision) -> None:
        """Note that runners are told to end, in one event for each reason."""
        for reason in dict.fromkeys(item.reason for item in decision.retire):
            items = [item for item in decision.retire if item.reason == reason]
            late = [item.name for item in items if item.failed]
            why = f"{reason}{self.how_far(late)}"
            for name in late:
                seconds = time.monotonic() - fleet.members[name].asked
                self._journal.append(BootFailed(runner=name, why=reason, seconds=seconds))
            names = [item.name for item in items]
            event = event_now("retire", why, runners=names, pool=pool, **decision.numbers)
            self._journal.append(RunnersRetired(runners=event.runners, event=event))

    def why_it_failed(self, pool: str, what: Ended, how_far: str, printed: str) -> str:
        """Return why a boot has failed, without what was said of others; empty if all of it was."""
        news = self.told.shorten(pool, what.name, what.why + printed)
        said, mark, lines = news.partition(PRINTED)
        return said + how_far + mark + lines if news else ""

    def ended(self, what: Ended, pool: str, how: str, told: str, seconds: float) -> None:
        """Note that a runner is gone.

        Parameters
        ----------
        what : Ended
        pool : str
        how : str
            ``failed``, ``lost`` or ``ended``.
        told : str
            Why, for the event. A boot that has failed has none if this is empty.
        seconds : float
            Since the runner was asked for.
        """
        event = event_now(how, told, runners=[what.name], pool=pool)
        boot = self._boots.of(what.name)
        self._journal.append(
            RunnerEnded(
                at=event.at,
                pool=pool,
                runner=what.name,
                how=how,
                why=what.why,
                seconds=seconds,
                late=boot is not None and boot.failed,
                event=event if told or how != "failed" else None,
            )
        )


def last_words(output: str) -> str:
    """Return the end of what a runner printed, as the end of a sentence; empty if it was silent."""
    tail = output.strip()
    return PRINTED + textwrap.indent(last_lines(tail), "    ") if tail else ""


def last_lines(text: str) -> str:
    """Return the last lines of a text, each shortened, safe for a terminal."""
    lines: Iterable[str] = tame(text).splitlines()
    return "\n".join(line[:_LONGEST_LINE] for line in list(lines)[-_SHOWN_LINES:])
