"""Text of others does nothing to a terminal, wherever it comes from."""

from __future__ import annotations

import io
import logging
import re
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from dask_flame.backends.inspector import ClusterListing, Orphan, RunnerListing
from dask_flame.charts.curves import board, text
from dask_flame.charts.ranking import labels
from dask_flame.cli import commands
from dask_flame.cli.tables import of_clusters, of_orphans, of_runners
from dask_flame.core.terminal_text import plain, tame
from dask_flame.core.text import label
from dask_flame.driver.journal_writer import last_lines
from dask_flame.errors import PRINTED, RunnerLost
from dask_flame.history.boots import BootLog
from dask_flame.history.events import EventLog
from dask_flame.history.journal import BootFailed, event_now
from dask_flame.notebook.terminal import Drawn
from dask_flame.reports import ReportStore
from dask_flame.reports.runner.validate import InvalidValue, number, unfit_name
from dask_flame.reports.wire import Batch

#: Clears the screen, writes to the clipboard, sets the title; the same by C1; reverses text.
NASTY = "\x1b[2J\x1b]52;c;aGk=\x07\x1b]0;mine\x1b\\\x9b2J\x9d0;mine\x9c\x85\u202e\u2066\u200f\x08\r"
#: What a terminal takes for an order, but colours, newlines and tabs.
ORDER = re.compile(
    "[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"
    r"|\x1b(?!\[[0-9;:]*m)"
)

pieces = st.sampled_from(
    ["\x1b", "[", "]", "P", "31", "m", "2J", ";", "\x07", "\\", "\x9b", "\x9d", "\x9c", "\r", "\n",
     "\t", "\x08", "\u202e", "\u2069", "\u200e", "\u061c", "a", "é", "(", "0", "\x1b[31m", " "]
)  # fmt: skip
texts = st.text() | st.lists(pieces | st.characters(), max_size=30).map("".join)


@pytest.mark.unit
@given(texts)
def test_what_is_tamed_orders_nothing_but_colours(given: str) -> None:
    shown = tame(given)
    assert ORDER.search(shown) is None
    # Nor when it has gone through it twice.
    assert ORDER.search(tame(shown)) is None
    assert "\x1b[" not in shown or shown.endswith("\x1b[0m")
    assert shown.count("\n") <= given.count("\n")


@pytest.mark.unit
@given(texts)
def test_a_name_is_in_one_line_and_orders_nothing(given: str) -> None:
    shown = plain(given)
    assert ORDER.search(shown) is None
    assert "\x1b" not in shown
    assert "\n" not in shown
    assert plain(shown) == shown


@pytest.mark.unit
@given(st.text(st.characters(exclude_categories=["C", "Zl", "Zp"])))
def test_other_text_is_as_it_was(given: str) -> None:
    assert tame(given) == plain(given) == given


@pytest.mark.unit
@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("\x9b2Jx", "x"),
        ("\x9d0;title\x9cx", "x"),
        ("a\x85b", "a\\x85b"),
        ("user\u202e txt", "user\\u202e txt"),
        ("\u2066a\u2069", "\\u2066a\\u2069"),
        ("\x1b[38:2::1:2:3mx", "\x1b[38:2::1:2:3mx\x1b[0m"),
        ("\x1b[?1049hx", "x"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b[3\x1b[2Jx", "3x"),
        ("a\tb\nc", "a\tb\nc"),
    ],
)
def test_what_is_shown(line: str, shown: str) -> None:
    assert tame(line) == shown


# Where it comes from


def _of_event() -> str:
    log = EventLog()
    log.apply(event_now("failed", NASTY, runners=["r-1"]))
    return f"{log[0]}\n{log!r}\n{log[0].text}"


def _of_boot() -> str:
    boots = BootLog()
    boots.asked(["r-1", "r-2"], "p", 0.0, at=0.0)
    boots.held_up("r-1", NASTY)
    boots.apply(BootFailed(runner="r-2", why=NASTY, seconds=1.0))
    return f"{boots!r}\n{boots.how_far(['r-1'])}"


def _of_log_line() -> str:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logger = logging.getLogger("dask_flame")
    logger.addHandler(handler)
    try:
        logger.warning("pod %s: %s", NASTY, "why")
    finally:
        logger.removeHandler(handler)
    return stream.getvalue()


def _of_call(metric: str = f"loss{NASTY}") -> tuple[list[Any], dict[Any, Any]]:
    store = ReportStore()
    key = f"train{NASTY}"
    store.add(Batch(key, "a", "r0", False, [0, 1], [0.0, 1.0], {metric: [1.0, 2.0]}))
    return [key], dict(store.calls)


def _of_watch_in_a_terminal() -> str:
    stream = io.StringIO()
    drawn = Drawn(board(*_of_call(), {}))
    Console(file=stream, width=120, height=40, no_color=True).print(drawn)
    return stream.getvalue()


def _of_unfit_value() -> str:
    try:
        number(f"a{NASTY}", "no number")
    except InvalidValue as error:
        return str(error)
    raise AssertionError


def _of_tables() -> str:
    runner = RunnerListing(name=NASTY, pool=NASTY, state="busy", started=0.0, where=NASTY)
    cluster = ClusterListing(
        id=f"a{NASTY}", name="a", state="live", driver=NASTY, runners=(runner,)
    )
    orphans = [Orphan(what=NASTY, cluster=NASTY, why=NASTY)]
    return "\n".join((of_clusters([cluster]), of_runners([cluster]), of_orphans(orphans)))


PLACES = {
    "event": _of_event,
    "boot": _of_boot,
    "log line": _of_log_line,
    "label": lambda: label((NASTY, NASTY)),
    "labels": lambda: "".join(labels([NASTY, f"{NASTY}\0"]).values()),
    "lost": lambda: str(RunnerLost(NASTY, "r-1", f"{NASTY}{PRINTED}{NASTY}")),
    "watch in a terminal": _of_watch_in_a_terminal,
    "watch in a file": lambda: text(board(*_of_call(), {})),
    "unfit value": _of_unfit_value,
    "long name": lambda: unfit_name(NASTY * 100),
    "tables": _of_tables,
    "last lines": lambda: last_lines(NASTY),
}


@pytest.mark.unit
@pytest.mark.parametrize("place", PLACES)
def test_nothing_that_others_write_gets_through(place: str) -> None:
    shown = PLACES[place]()
    assert shown.strip()
    assert ORDER.search(shown) is None, repr(shown)
    # What belongs into one line is in one.
    assert "\x85" not in shown


@pytest.mark.process
def test_what_runners_have_printed_gets_through_only_with_its_colours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = {f"r{NASTY}": f"\x1b[31mred\x1b[0m {NASTY}\nplain"}
    monkeypatch.setattr(commands, "_inspect", lambda what, where: answers)
    result = CliRunner().invoke(commands.flame, ["logs", "any"], color=True)
    assert result.exit_code == 0, result.output
    assert "\x1b[31mred" in result.output
    assert ORDER.search(result.output) is None, repr(result.output)
