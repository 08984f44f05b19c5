"""The picture of the cost benchmark: living runners over time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from cost_account import Account, grouped  # beside this file
from cost_traces import ideal


def draw(accounts: Iterable[Account], path: Path) -> None:
    """Draw living runners over time; for each contender the run of median cost."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    looks = {  # color, style, width, and an offset that keeps lines apart
        "flame": ("#d9480f", "-", 2.4, 0.0, "dask-flame"),
        "auto": ("#9c36b5", "-", 1.5, 0.2, "dask-flame, idle_timeout=auto"),
        "stock": ("#1c7ed6", "-", 1.5, 0.1, "stock Adaptive"),
        "tuned": ("#2b8a3e", "--", 1.5, -0.1, "stock Adaptive, tuned"),
    }
    groups = grouped(accounts)
    columns = min(2, len(groups))
    rows = -(-len(groups) // columns)
    figure, grid = pyplot.subplots(
        rows,
        columns,
        figsize=(6.5 * columns, 2.9 * rows + 0.9),
        squeeze=False,
        layout="constrained",
    )
    for axes in grid.flat[len(groups) :]:
        axes.set_visible(False)
    for axes, (name, group) in zip(grid.flat, groups.items(), strict=False):
        shown = {who: _middle(runs) for who, runs in group.items()}
        trace = next(iter(shown.values())).trace
        x, y = _steps(ideal(trace).calls)
        axes.fill_between(x, y, step="post", color="#ced4da", linewidth=0, label="calls, ideally")
        for who, account in shown.items():
            colour, style, width, off, label = looks[who]
            spans = [(life.begin, life.end) for life in account.lives]
            x, y = _steps([(b - account.start, e - account.start) for b, e in spans])
            axes.step(
                x, [n + off for n in y], style, where="post", color=colour, lw=width, label=label
            )
            mark = {"color": colour, "markeredgecolor": "white", "markersize": 11}
            front = 7 if who == "flame" else 6
            axes.plot([account.parts[-1][1]], [0], "^", clip_on=False, zorder=front, **mark)
        paid = ", ".join(f"{who} {account.paid:.0f}" for who, account in shown.items())
        # Two lines: beside each other, they are wider than the axes.
        axes.set_title(name, loc="left", fontsize=11, fontweight="bold", pad=19)
        said = f"runner-seconds: work {trace.busy:.0f}, {paid}"
        axes.text(0, 1.02, said, transform=axes.transAxes, fontsize=9, va="bottom")
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(pyplot.MaxNLocator(integer=True))
        axes.set_ylim(0, trace.max + 0.5)
        axes.set_yticks(range(0, trace.max + 1, 2))
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel("runners alive")
    for axes in grid[-1]:
        axes.set_xlabel("seconds since the first call")
    handles, labels = grid.flat[0].get_legend_handles_labels()
    handles.append(pyplot.Line2D([], [], color="black", marker="^", linestyle=""))
    labels.append("last result")
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _middle(runs: Sequence[Account]) -> Account:
    return sorted(runs, key=lambda account: account.paid)[(len(runs) - 1) // 2]


def _steps(spans: Sequence[tuple[float, float]]) -> tuple[list[float], list[int]]:
    """Return the number of overlapping spans over time."""
    changes = sorted([(begin, 1) for begin, _ in spans] + [(end, -1) for _, end in spans])
    x, y = [0.0], [0]
    for at, change in changes:
        x.append(at)
        y.append(y[-1] + change)
    return x, y
