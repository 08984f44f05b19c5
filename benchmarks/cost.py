"""Compare the cost of a pool, and the time to wait for it, with stock Dask on traces of work.

    python benchmarks/cost.py [--rounds 3] [--trace NAME] [--who NAME] [--quick] [--picture FILE]
                             [--json FILE]
    python benchmarks/cost.py --from FILE [--picture FILE]
    python benchmarks/cost.py --idle-timeouts

Each trace is served by each of these contenders in turn, round after round, by a fresh driver:

flame
    ``FlameCluster(max=8, idle_timeout=...)``.
auto
    The same with ``idle_timeout="auto"``. Its tails are those of the fixed timeout in the ratios.
stock
    ``LocalCluster(n_workers=0)`` with ``adapt(minimum=0, maximum=8)``.
tuned
    The same, tuned for these traces: it decides five times a second, aims at one second for each
    computation, keeps an idle worker as long as dask-flame does, and sends no call in advance.

Calls sleep, so that a small machine suffices. Runners are counted from outside, by examining the
operating system's processes twenty times a second: a runner is paid for from the start of its
process to its end, whatever the cluster reports. Results are held until the last one is there, and
then released; a run is over when no runner is left.

The tables, on standard output, show the medians of the rounds. Times are in seconds:

makespan
    From the first submission to the last result, without the pauses, and its ratio to the ideal:
    list scheduling on runners that boot in no time. Without boots: less the time that the same
    ideal would lose to boots of the measured duration.
waiting
    The time with at least one unfinished call, and its ratio to the same ideal. Unlike the makespan
    of a trickle, it does not depend on how often calls arrive.
paid
    Runner-seconds, divided into booting, calls, idle time, and ending after the scheduler has
    removed the runner. The ratio to the minimum, the work alone; and to the work with the idle time
    that the idle timeout demands. Without boots: less the time for booting.
runners
    The number of runners booted, and of those that never had a call.

With ``--idle-timeouts`` nothing is started: the policy plays the traces, and a day in a notebook,
with boots of several durations, for fixed timeouts and ``"auto"``. The table has the runner-seconds
over those of a known future, and the number of boots.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import psutil
from cost_account import Account, grouped, kept, restored  # beside this file
from cost_idle import rows, worst
from cost_picture import draw
from cost_processes import served
from cost_traces import Trace, traces

WHO = ("flame", "auto", "stock", "tuned")
QUICK = 0.5
MAKESPAN_GOAL = 1.10
PAID_GOAL = 1.15
#: Medians that differ by less count as equal.
ALIKE = 0.02


def run(trace: Trace, who: str) -> Account:
    """Serve a trace once, and return its account."""
    lives, told = served(trace, who)
    start = told["start"]
    ends = [end for _, _, end in told["calls"]]
    return Account(
        trace,
        who,
        start,
        lives,
        tuple((b - start, e - start) for b, e in told["parts"]),
        tuple(zip(told["submitted"], ends, strict=True)),
    )


Columns = tuple[tuple[str, str, Callable[[Account], float]], ...]
TIMES: Columns = (
    ("makespan", "{:.1f}", lambda a: a.makespan),
    ("/ ideal", "{:.2f}", lambda a: a.makespan_ratio),
    ("without boots", "{:.2f}", lambda a: a.makespan_ratio_without_boots),
    ("waiting", "{:.1f}", lambda a: a.waiting),
    ("/ ideal", "{:.2f}", lambda a: a.waiting / a.best.waiting),
)
COSTS: Columns = (
    ("paid", "{:.1f}", lambda a: a.paid),
    ("booting", "{:.1f}", lambda a: a.booting),
    ("calls", "{:.1f}", lambda a: a.working),
    ("idle", "{:.1f}", lambda a: a.idle),
    ("ending", "{:.1f}", lambda a: a.ending),
    ("/ work", "{:.2f}", lambda a: a.over_work),
    ("/ (work + tails)", "{:.2f}", lambda a: a.over_tails),
    ("without boots", "{:.2f}", lambda a: a.over_tails_without_boots),
    ("runners", "{:.0f}", lambda a: len(a.lives)),
    ("never used", "{:.0f}", lambda a: a.unused),
)
GOALS: tuple[tuple[str, float, Callable[[Account], float]], ...] = (
    (f"makespan / ideal, goal {MAKESPAN_GOAL:.2f}", MAKESPAN_GOAL, lambda a: a.makespan_ratio),
    ("without boots", MAKESPAN_GOAL, lambda a: a.makespan_ratio_without_boots),
    (f"paid / (work + tails), goal {PAID_GOAL:.2f}", PAID_GOAL, lambda a: a.over_tails),
    ("without boots", PAID_GOAL, lambda a: a.over_tails_without_boots),
)
COMPARED: tuple[tuple[str, Callable[[Account], float]], ...] = (
    ("makespan", lambda a: a.makespan),
    ("waiting", lambda a: a.waiting),
    ("paid", lambda a: a.paid),
)


def table(accounts: Iterable[Account], columns: Columns) -> str:
    """Return the medians in Markdown, with a line for each trace and contender."""
    lines = [["trace", "who", *(name for name, _, _ in columns)]]
    for trace, group in grouped(accounts).items():
        for who, runs in group.items():
            values = [form.format(_median(runs, what)) for _, form, what in columns]
            lines.append([trace, who, *values])
    return _markdown(lines)


def verdicts(accounts: Iterable[Account]) -> str:
    """Return whether the goals are met, and how stock compares, by the medians."""
    lines = [["trace", *(name for name, _, _ in GOALS)]]
    groups = {name: group for name, group in grouped(accounts).items() if "flame" in group}
    others = [who for who in WHO if any(who in g for g in groups.values()) and who != "flame"]
    lines[0] += [f"{what} against {who}" for who in others for what, _ in COMPARED]
    for trace, group in groups.items():
        line = [trace]
        for _, goal, value in GOALS:
            got = _median(group["flame"], value)
            line.append(f"{got:.2f} {'met' if got <= goal else 'MISSED'}")
        for who in others:
            for _, value in COMPARED:
                if who not in group:
                    line.append("")
                    continue
                ratio = _median(group["flame"], value) / _median(group[who], value)
                word = "less" if ratio < 1 - ALIKE else "MORE" if ratio > 1 + ALIKE else "same"
                line.append(f"{ratio:.2f} {word}")
        lines.append(line)
    return _markdown(lines)


def _markdown(lines: list[list[str]]) -> str:
    rows = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "| " + " | ".join(f"{c:<{width}}" for c, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    )


def _median(runs: Sequence[Account], what: Callable[[Account], float]) -> float:
    return statistics.median(map(what, runs))


def _measured(chosen: argparse.Namespace, every: Mapping[str, Trace]) -> list[Account]:
    """Serve the chosen traces in turn; print a line for each run, and the load of the machine."""
    accounts: list[Account] = []
    before = psutil.getloadavg()[0]
    for turn in range(chosen.rounds or (1 if chosen.quick else 3)):
        for name in chosen.trace or every:
            trace = every[name].scaled(QUICK) if chosen.quick else every[name]
            for who in chosen.who or WHO:
                accounts.append(account := run(trace, who))
                print(
                    f"round {turn + 1}: {name}: {who}: makespan {account.makespan:.1f} s, "
                    f"{account.paid:.1f} runner-seconds, {len(account.lives)} runners",
                    file=sys.stderr,
                )
    print(f"{psutil.cpu_count()} processors, load {before:.1f} before, ", end="")
    print(f"{psutil.getloadavg()[0]:.1f} after\n")
    return accounts


def main(arguments: Sequence[str] | None = None) -> None:
    every = traces()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, help="default 3, or 1 with --quick")
    parser.add_argument("--trace", action="append", choices=every, help="default: all")
    parser.add_argument("--who", action="append", choices=WHO, help="default: all")
    parser.add_argument("--quick", action="store_true", help=f"all times times {QUICK:g}")
    parser.add_argument("--idle-timeouts", action="store_true", help="compare idle timeouts")
    parser.add_argument("--picture", type=Path, default=Path("cost.png"), help="default cost.png")
    parser.add_argument("--json", type=Path, help="keep what was measured here")
    parser.add_argument(
        "--from", dest="kept", type=Path, help="measure nothing: show what is in this file again"
    )
    chosen = parser.parse_args(arguments)
    if chosen.idle_timeouts:
        lines = rows()
        most = [f"{ratio:.2f}" for ratio in worst(lines).values()]
        print(_markdown([*lines, ["largest", "", "", *most]]))
        return
    accounts = restored(chosen.kept.read_text()) if chosen.kept else _measured(chosen, every)
    if chosen.json:
        chosen.json.write_text(kept(accounts))
    print(table(accounts, TIMES), table(accounts, COSTS), sep="\n\n", end="\n\n")
    print(verdicts(accounts))
    try:
        draw(accounts, chosen.picture)
    except ImportError as error:
        print(f"no picture: {error}; pip install matplotlib", file=sys.stderr)


if __name__ == "__main__":
    main()
