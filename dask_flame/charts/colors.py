"""Colours, on light and on dark ground; no bokeh in it (anywhere)."""

from __future__ import annotations

from collections.abc import Collection

#: Told apart with any common colour blindness: Okabe and Ito's, without yellow and black, which
#: are too pale and too strong beside the others on white; then two of Tol's.
COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#882255",
    "#332288",
)
#: In place of colours that are too dark on a dark ground.
LIGHTER = {"#332288": "#8f83e8", "#882255": "#d0568f", "#0072B2": "#3a9bdc"}
#: Where runners outnumber colours, each further round has another dash.
DASHES = ("solid", "dashed", "dotted", "dotdash")

#: What a runner does.
BUSY, IDLE, BOOTING, DEMAND = "#E69F00", "#56B4E9", "#C9CED6", "#222222"
#: What has failed.
BAD = "#B42318"

INK, QUIET, RULE = "#222222", "#6B7280", "#DDDDDD"

#: The same as CSS, for what is HTML: ``color: var(--flame-ink)``. The first value of each is on
#: light ground, the second on dark.
VARIABLES = {
    "ground": ("#FAFAFA", "#14171C"),
    "card": ("#FFFFFF", "#1C2027"),
    "ink": (INK, "#E6E8EB"),
    "quiet": (QUIET, "#98A2B0"),
    "rule": (RULE, "#353C47"),
    "bar": ("#EEEEEE", "#20252D"),
    "bad": (BAD, "#F97066"),
    "busy": (BUSY, BUSY),
    "idle": (IDLE, IDLE),
    "booting": (BOOTING, "#5A6472"),
    "demand": (DEMAND, "#E6E8EB"),
}


class Palette:
    """Gives every runner a colour and keeps it, for as long as the runner has calls to show."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def assign(self, runners: Collection[str]) -> None:
        """Number the runners that are new; forget those that are not among these."""
        known = self._numbers
        for gone in known.keys() - set(runners):
            del known[gone]
        taken = set(known.values())
        for runner in runners:
            if runner not in known:
                free = next(n for n in range(len(taken) + 1) if n not in taken)
                known[runner] = free
                taken.add(free)

    def number(self, runner: str) -> int:
        """Which colour is this runner's: 0 for the first, 1 for the second."""
        return self._numbers[runner]
