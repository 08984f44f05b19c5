"""The picture: for each quantity, the figure of each contender, and the goal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from versus_measures import CONTENDERS  # beside this file
from versus_table import Row, number

#: Okabe and Ito's colors, which color-blind people can tell apart.
_COLOURS = {
    "flame": "#d55e00",
    "stock": "#0072b2",
    "ray": "#009e73",
    "loky": "#cc79a7",
    "parsl": "#e69f00",
}
#: Largest ratio of values within a panel for a linear axis.
_LINEAR = 25.0
_WIDE = 3


def draw(rows: Sequence[Row], path: Path, foot: str = "") -> None:
    """Draw a panel for each quantity with at least one figure.

    Parameters
    ----------
    rows : sequence of Row
    path : Path
        The file to write; its folder is created.
    foot : str
        Text at the bottom.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [row for row in rows if row.quantity.drawn and any(row.values.values())]
    wide = max(1, min(_WIDE, len(shown)))
    high = max(1, -(-len(shown) // wide))
    tall = [
        max((len(row.values) for row in shown[i * wide : (i + 1) * wide]), default=1)
        for i in range(high)
    ]
    figure, grid = pyplot.subplots(
        high,
        wide,
        figsize=(4.6 * wide, sum(0.3 * most + 0.95 for most in tall) + 0.9),
        gridspec_kw={"height_ratios": [0.3 * most + 0.5 for most in tall]},
        squeeze=False,
        layout="constrained",
    )
    for axes in grid.flat[len(shown) :]:
        axes.set_visible(False)
    for axes, row in zip(grid.flat, shown, strict=False):
        _panel(axes, row)
    goal = pyplot.Line2D([], [], color="black", linestyle="--", linewidth=1.4)
    dot = pyplot.Line2D([], [], color="black", marker="o", markersize=3.5, linestyle="", alpha=0.5)
    figure.legend(
        [goal, dot],
        ["dask-flame's goal: left of this line", "one run; the bar is the median. Less is better"],
        loc="outside upper center",
        ncols=2,
        frameon=False,
    )
    if foot:
        figure.supxlabel(foot, fontsize=8, color="#555555")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _panel(axes: Any, row: Row) -> None:
    who = [name for name in CONTENDERS if name in row.values]
    places = range(len(who))
    medians = [row.median(name) for name in who]
    figures = [value for name in who for value in row.values[name]]
    bound = row.bound
    least, most = min(figures), max(figures)
    if bound is not None:
        least, most = min(least, bound), max(most, bound)
    log = least > 0 and most / least > _LINEAR
    if log:
        axes.set_xscale("log")
        axes.set_xlim(least / 2.5, most * 6)
    else:
        axes.set_xlim(min(0.0, least), most * 1.3)
    for place, name, middle in zip(places, who, medians, strict=True):
        if middle is None:
            where = axes.get_yaxis_transform()
            axes.text(0.02, place, "failed", transform=where, va="center", fontsize=9, color="red")
            continue
        colour = _COLOURS[name]
        axes.barh(place, middle, height=0.62, color=colour, alpha=1 if name == "flame" else 0.75)
        found = row.values[name]
        axes.plot(found, [place] * len(found), "o", color="black", markersize=3, alpha=0.45)
        lost = " (some runs failed)" if row.failed.get(name) else ""
        axes.annotate(
            number(middle) + lost,
            (max(middle, *found) if len(found) > 1 else middle, place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
            fontweight="bold" if name == "flame" else "normal",
        )
    if bound is not None:
        axes.axvline(bound, color="black", linestyle="--", linewidth=1.4)
    axes.set_yticks(places, [CONTENDERS[name] for name in who])
    axes.set_ylim(len(who) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0)
    axes.set_title(row.label, loc="left", fontsize=10, fontweight="bold")
    words = [row.quantity.unit + (", log scale" if log else "")]
    if row.met is not None:
        words.append("goal met" if row.met else "goal missed")
    axes.set_xlabel(" · ".join(words), fontsize=9)
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
