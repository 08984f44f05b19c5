"""Write the control loop's decisions and observations to the journal (driver)."""

from __future__ import annotations

import re
import textwrap
import time
from collections.abc import Collection, Iterable, Mapping

from dask_flame.backends.specs import Ended
from dask_flame.core.terminal_text import tame
from dask_flame.core.text import split_advice
from dask_flame.errors import PRINTED
from dask_flame.history.boots import REGISTERED, SETTING_UP, shown
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
from dask_flame.scaling.decision_types import BootRequest, Decision
from dask_flame.scaling.fleet import Fleet

#: Maximum number of lines, and of characters per line, of a runner's last output in an event.
_SHOWN_LINES, _LONGEST_LINE = 25, 500
#: The line in a runner's output after the traceback of its setup=.
_FAILED = re.compile(r"\w+=.* has failed: ")


class JournalWriter:
    """Write journal entries about runners, without repetitions.

    Parameters
    ----------
    history : History

    Attributes
    ----------
    messages : BootMessages
        Messages about failing boots that were already written.
    """

    def __init__(self, history: History) -> None:
        self.messages = BootMessages()
        self._journal = history.journal
        self._boots = history.boots

    # Boots

    def asked(
        self, pool: str, request: BootRequest, clock: float, numbers: Mapping[str, float]
    ) -> None:
        """Record a request for runners.

        Parameters
        ----------
        pool : str
        request : BootRequest
        clock : float
            Time of the request on the monotonic clock, in seconds.
        numbers : mapping of str to float
            Numbers that led to the decision.
        """
        names = request.names
        event = event_now("boot", request.reason, runners=names, pool=pool, **numbers)
        kinds = {name: kind for name, kind in request.kinds.items() if kind}
        asked = RunnersAsked(pool=pool, runners=names, clock=clock, event=event, kinds=kinds)
        self._journal.append(asked)

    def stepped(self, name: str, step: str) -> None:
        """Record that a boot has reached a step, unless already recorded."""
        if (measured := self._boots.measure(name, step, time.monotonic())) is not None:
            boot, took = measured
            _, seconds = boot.steps[-1]
            self._journal.append(
                BootStepped(pool=boot.pool, runner=name, step=step, seconds=seconds, took=took)
            )

    def held_up(self, name: str, pool: str, why: str) -> None:
        """Record that a boot is held up, or no longer, unless already recorded.

        Parameters
        ----------
        name : str
            Name of the runner.
        pool : str
        why : str
            The reason; empty if the boot is no longer held up.
        """
        boot, event = self._boots.of(name), None
        if boot is None or boot.trouble == why:
            return
        if self._boots.is_news(name, why) and (news := self.messages.shorten(pool, name, why)):
            event = event_now("held", news, runners=[name], pool=pool)
        self._journal.append(BootHeldUp(runner=name, why=why, event=event))

    def is_setting_up(self, name: str) -> bool:
        """Return whether the last known step of a boot is the beginning of ``setup=``."""
        boot = self._boots.of(name)
        return boot is not None and boot.last == SETTING_UP

    def registered(self, name: str, pool: str, took: float) -> None:
        """Record that a runner has registered.

        Parameters
        ----------
        name : str
            Name of the runner.
        pool : str
        took : float
            Seconds since the runner was requested.
        """
        self.messages.forget(pool)
        self.stepped(name, REGISTERED)
        boot = self._boots.of(name)
        steps = dict(boot.steps) if boot is not None else {}
        before = [f"{step} {shown(at)}" for step, at in steps.items() if step != REGISTERED]
        why = f"registered {took:.2f} s after its boot"
        why += f" ({', '.join(before)})" if before else ""
        event = event_now("ready", why, runners=[name], pool=pool, **{"seconds": took, **steps})
        self._journal.append(RunnerRegistered(pool=pool, runner=name, seconds=took, event=event))

    def how_far(self, names: Collection[str]) -> str:
        """Return the progress of these boots as part of a sentence; empty if unknown."""
        how_far = self._boots.how_far(names)
        return f" ({how_far})" if how_far else ""

    def how_far_one_came(self, what: Ended) -> str:
        """Return the progress of a failed boot, without trouble that its end already mentions."""
        boot = self._boots.of(what.name)
        if boot is not None and boot.trouble and boot.trouble in what.why:
            self._journal.append(BootHeldUp(runner=what.name, why=""))
        return self.how_far([what.name])

    # Ends

    def retired(self, pool: str, fleet: Fleet, decision: Decision) -> None:
        """Record that runners are asked to end, in one event per reason.

        Parameters
        ----------
        pool : str
        fleet : Fleet
        decision : Decision
        """
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
        """Return the text of a failed boot's event, shortened if similar ones were written.

        Parameters
        ----------
        pool : str
        what : Ended
        how_far : str
            Progress of the boot; see :meth:`how_far`.
        printed : str
            Last output of the runner; see :func:`last_words`.

        Returns
        -------
        str
            Empty if it adds nothing to earlier events.
        """
        news = self.messages.shorten(pool, what.name, what.why + printed)
        said, mark, lines = news.partition(PRINTED)
        return said + how_far + mark + lines if news else ""

    def none_of_kind(self, pool: str, what: Ended, kind: str, other: str) -> str:
        """Return the text of the event that another kind is asked for, shortened likewise.

        Parameters
        ----------
        pool : str
        what : Ended
        kind : str
            The kind of which there is none.
        other : str
            The kind to be asked for.

        Returns
        -------
        str
            Empty if earlier events have said all of it.
        """
        why, _ = split_advice(what.why)  # there is no need to change a setting
        return self.messages.shorten(
            pool, what.name, f"{kind} has none: {why}; {other} is asked for instead"
        )

    def ended(
        self,
        what: Ended,
        pool: str,
        how: str,
        text: str,
        seconds: float,
        *,
        queued: float = 0.0,
        kind: str = "",
    ) -> None:
        """Record that a runner has ended.

        Parameters
        ----------
        what : Ended
        pool : str
        how : {"failed", "lost", "ended"}
        text : str
            Text of the event. A failed boot, or one for lack of capacity, has none without text.
        seconds : float
            Seconds since the runner was requested.
        queued : float, default 0
            Those of them that it waited in a queue.
        kind : str, default ""
            The runner's kind.
        """
        event = event_now(how, text, runners=[what.name], pool=pool)
        boot = self._boots.of(what.name)
        self._journal.append(
            RunnerEnded(
                at=event.at,
                pool=pool,
                runner=what.name,
                how=how,
                why=what.why,
                seconds=seconds,
                queued=queued,
                late=boot is not None and boot.failed,
                kind=kind,
                event=event if text or not (how == "failed" or what.no_capacity) else None,
            )
        )


def last_words(output: str) -> str:
    """Return a runner's last output as the end of a sentence; empty without output."""
    tail = output.strip()
    return PRINTED + textwrap.indent(last_lines(tail), "    ") if tail else ""


def cause_in(output: str) -> str:
    """Return the error in a runner's last output as the end of a sentence; empty without one."""
    _, traceback, after = output.rpartition("Traceback (most recent call last):\n")
    lines = [line for line in after.splitlines() if line and not line[0].isspace()]
    said = [line for line in lines if _FAILED.match(line)] or (lines[:1] if traceback else [])
    return f": {tame(said[-1])[:_LONGEST_LINE]}" if said else ""


def last_lines(text: str) -> str:
    """Return the last lines of a text, shortened and safe to print on a terminal."""
    lines: Iterable[str] = tame(text).splitlines()
    return "\n".join(line[:_LONGEST_LINE] for line in list(lines)[-_SHOWN_LINES:])
