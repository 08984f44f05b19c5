"""Colors for light and dark backgrounds; without bokeh (all places)."""

from __future__ import annotations

from collections.abc import Collection

#: Distinct for all common forms of color blindness: the palette of Okabe and Ito without yellow and
#: black, which are too pale and too strong on white, and two colors of Paul Tol.
COLORS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#882255",
    "#332288",
)
#: Replacements of colors that are too dark on a dark background.
LIGHTER = {"#332288": "#8f83e8", "#882255": "#d0568f", "#0072B2": "#3a9bdc"}

#: Two sets of colors for lines on a light and on a dark background. The five colors of a set differ
#: in lightness too, so that they are distinct without colors, and for all common forms of color
#: blindness. Colors of different sets may look alike then: lines of different sets differ in dash.
_SETS = (
    (
        ("#115F9A", "#62DBFD"),
        ("#E90F60", "#FF9289"),
        ("#B38800", "#FFE87F"),
        ("#55023D", "#BA75FE"),
        ("#404601", "#4D8B01"),
    ),
    (
        ("#0A6856", "#98FFA2"),
        ("#D44606", "#FE9827"),
        ("#8D80FA", "#3898FC"),
        ("#6C0296", "#EF0E7F"),
        ("#521401", "#FEB4F4"),
    ),
)
#: Dashes of lines, as Bokeh takes them. Dotted lines are reserved for earlier attempts.
_LINE_DASHES = ("solid", "dashed", "dashdot", "16 5")


def _line(light: str, dark: str, dash: str) -> dict[str, str]:
    return {"light": light, "dark": dark, "dash": dash}


#: Looks of the lines of calls, in order. The first 20 are distinct in any vision. The next 20 have
#: the same dashes with the other set of colors.
CALL_LINES = [
    _line(light, dark, dash)
    for first in (0, 1)
    for i, dash in enumerate(_LINE_DASHES)
    for light, dark in _SETS[(first + i) % 2]
]
#: Looks of lines that have the color of their runner.
RUNNER_LINES = [
    _line(color, LIGHTER.get(color, color), dash)
    for dash in ("solid", "dashed", "dashdot")
    for color in COLORS
]

#: Colors of the states of runners, and of the demand.
BUSY, IDLE, BOOTING, DEMAND = "#E69F00", "#56B4E9", "#C9CED6", "#222222"
#: Color of failures.
BAD = "#B42318"

INK, QUIET, RULE = "#222222", "#6B7280", "#DDDDDD"

#: CSS variables for HTML: ``color: var(--flame-ink)``. The first value is for light backgrounds,
#: the second for dark ones.
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
    """Assigns colors to runners, and keeps them while the runners have calls to show."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def assign(self, runners: Collection[str]) -> None:
        """Assign numbers to new runners, and free those of runners that are not in the list."""
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
        """Return the number of a runner's color, from 0."""
        return self._numbers[runner]
