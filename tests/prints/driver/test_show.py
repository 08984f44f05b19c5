"""What is shown of what runners print, and what is said of the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from dask_flame.core.rate_limit import Limits
from dask_flame.core.terminal_text import tame
from dask_flame.prints.driver.show import Show

pytestmark = pytest.mark.unit

GENEROUS = Limits(burst=10**6, total_burst=10**6)


def shown(use: Callable[[Show], Any], limits: Limits = GENEROUS) -> list[str]:
    """The lines that are written while, on an event loop, this is done."""
    lines: list[str] = []

    async def run() -> None:
        show = Show(lines.append, limits, rest="see there")
        done = use(show)
        if done is not None:
            await done
        show.close()

    asyncio.run(run())
    return lines


def test_each_line_has_its_runner_and_its_call() -> None:
    def use(show: Show) -> None:
        show.add("r-1", "one\ntw")
        show.add("r-1", "mine\n", call=3, name="f", stream=1)
        show.add("r-1", "o\n")
        show.said("r-2", [(1, "g", 1, "a"), (2, "g", 1, "b\n"), (1, "g", 2, "c\n")])
        show.said("r-2", [(1, "g", 0, ""), (1, "g", 1, "d\n")])

    assert shown(use) == [
        "[r-1] one\n",
        "[r-1 f] mine\n",
        "[r-1] two\n",
        "[r-2 g] b\n",
        "[r-2 g] c\n",
        "[r-2 g] a\n",
        "[r-2 g] d\n",
    ]


def test_what_a_runner_leaves_unfinished_is_shown_at_its_end_and_others_are_not() -> None:
    def use(show: Show) -> None:
        show.add("r-1", "left", call=3, name="f", stream=2)
        show.add("r-2", "mine")
        show.over("r-1")
        show.add("r-2", " too\n")
        show.add("r-3", "at the end")

    assert shown(use) == ["[r-1 f] left\n", "[r-2] mine too\n", "[r-3] at the end\n"]


def test_what_was_written_beneath_python_ends_before_the_next_call_says_something() -> None:
    def use(show: Show) -> None:
        show.add("r-1", "left", call=3, name="f")
        show.add("r-2", "mine", call=1, name="h")
        show.add("r-1", "next\n", call=4, name="g", stream=1)
        show.add("r-2", " too\n", call=1, name="h")

    assert shown(use) == ["[r-1 f] left\n", "[r-1 g] next\n", "[r-2 h] mine too\n"]


def test_what_nobody_has_held_back_is_held_back_by_runner() -> None:
    def use(show: Show) -> None:
        show.add("r-1", "x\n" * 10, free=True)
        show.add("r-2", "y\n", free=True)
        show.add("r-1", "not free\n")
        show.over("r-1")

    said = "[r-1] \u2026 7 lines not shown; see there\n"
    lines = ["[r-1] x\n"] * 3 + ["[r-2] y\n", "[r-1] not free\n", said]
    assert shown(use, Limits(burst=3, rate=1e-3, total_burst=100)) == lines


def test_all_together_are_held_back_and_that_is_said_while_nothing_comes() -> None:
    async def use(show: Show) -> None:
        for n in range(10):
            show.add(f"r-{n}", "x\n")
        async with asyncio.timeout(10):
            while not show._write.__self__[2:]:  # type: ignore[attr-defined]  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    lines = shown(use, Limits(total_burst=2, total_rate=20))
    assert lines == [
        "[r-0] x\n",
        "[r-1] x\n",
        "[all runners] \u2026 8 lines not shown; see there\n",
    ]


def test_a_progress_bar_is_shown_as_far_as_it_has_come_and_over_when_its_call_is() -> None:
    async def use(show: Show) -> None:
        show.add("r-1", " 10%\r 20%", call=1, name="f", stream=2)
        await asyncio.sleep(1)
        show.add("r-1", "\r100%", call=1, name="f", stream=2)
        show.end("r-1", 1, "f")

    assert shown(use) == ["[r-1 f]  20% \u2026\n", "[r-1 f] 100%\n"]


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("plain", "plain"),
        ("a\tb", "a\tb"),
        ("\x1b[31mred", "\x1b[31mred\x1b[0m"),
        ("\x1b[2J\x1b[1;1Hall \x1b]0;title\x07mine", "all mine"),
        ("up\x1b[A and \x1b", "up and "),
        ("beep\x07", "beep"),
    ],
)
def test_a_line_does_nothing_to_the_terminal_but_colour_itself(line: str, shown: str) -> None:
    assert tame(line) == shown
