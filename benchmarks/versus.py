"""Compare dask-flame with plain Dask, Ray, loky and Parsl: one table and one picture.

    python benchmarks/versus.py [--only MEASURE,…] [--contenders NAME,…] [--rounds 3] [--short]
                                [--ml N] [--picture FILE] [--json FILE] [--from FILE…]

Contenders that are not installed (``pip install '.[benchmarks]'``) are left out, and named. Every
run is a fresh process in its own session. In a round each contender has its turn, and each round
begins with the next contender. Processes left behind are killed before the next run. The figures
are medians; a run that fails or takes too long is marked in the table. Dashboards are disabled.

register64
    From the constructor until 64 runners have registered; without imports, here and below.
cold
    From the constructor, and from the start of the interpreter, to the result of a call that does
    nothing. Up to 8 runners are allowed; Ray, loky and Parsl start them at once, Dask as it adapts.
wave16, wave64
    As many calls of 5 s (they sleep) as runners allowed, from the constructor to the last result.
    Without boots: less the time that list scheduling loses by boots of the measured duration.
    Dask's runners are up when they have registered, others' when their first call begins.
ml64
    From the constructor until each of 64 runners has answered a call that uses torch and
    transformers' BertModel, which dask-flame's pool has in its `preload`; and the memory of all
    processes except the driver then, with shared pages divided by their users. As many runners as
    fit into half of the available memory at 0.4 GB each, or `--ml`; the label shows the number.
warm
    A call that does nothing, and its result, on one runner: 50 in a block.
map10k
    10,000 calls that do nothing, by `map` or its equivalent, on two runners: one block.
    In these two all contenders are up at the same time, and run blocks in turn.
report
    The time that a report() adds to each turn of a loop in a call. Plain Dask: log_event().
reports64
    64 runners report 100 times a second for a minute. CPU time of the scheduler, in cores: that of
    its process, the driver's, less that of a minute before with idle runners; divided by the share
    of reports that have arrived, which is less than one on an overloaded machine. Then for half a
    minute a subscriber in the driver (`Client.subscribe_topic`) records the age of each report.
    Plain Dask: log_event() at the same rate.
kill
    From SIGKILL of the driver until no process of its 64 runners is left.
"""

from __future__ import annotations

import argparse
import compileall
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from versus_machine import fitting, installed, machine  # beside this file
from versus_measures import CONTENDERS, MEASURES, Measure
from versus_run import Run, RunError, killed
from versus_table import Sample, failures, rows, table

import dask_flame

#: Contenders that need no packages beyond dask-flame's.
_NO_RIVALS = ("flame", "stock")


def told(measure: Measure, *, short: bool, ml: int | None) -> dict[str, Any]:
    """Return the options for the runs of a measure."""
    options = {**measure.options, **(measure.short if short else {})}
    if measure.name == "ml64" and not short:
        options["runners"] = ml or fitting(options["runners"])
    return options


def samples(
    measure: Measure, contenders: Sequence[str], options: Mapping[str, Any], rounds: int
) -> Iterator[Sample]:
    """Have each contender run a measure so often, in turn."""
    with contextlib.ExitStack() as stack:
        sessions: dict[str, Run] = {}

        def session(who: str) -> Run:
            if who not in sessions:
                run = Run(measure.name, who, options, timeout=measure.timeout)
                stack.enter_context(run)
                sessions[who] = run
                run.answer()
            return sessions[who]

        def once(who: str) -> dict[str, Any]:
            if measure.blocks:
                return session(who).ask()
            with Run(measure.name, who, options, timeout=measure.timeout) as run:
                return killed(run, options["wait"]) if measure.name == "kill" else run.answer()

        if measure.blocks:
            for who in contenders:
                with contextlib.suppress(RunError):  # reported by the first block
                    session(who)
        for turn in range(rounds * max(1, measure.blocks)):
            first = turn % len(contenders)
            for who in (*contenders[first:], *contenders[:first]):
                yield _sample(measure.name, who, turn, lambda who=who: once(who))


def _sample(measure: str, who: str, turn: int, once: Callable[[], dict[str, Any]]) -> Sample:
    before = os.getloadavg()[0]
    values: dict[str, Any] = {}
    error = ""
    try:
        values = once()
    except RunError as failed:
        error = str(failed)
    return Sample(measure, who, turn, values, error, (before, os.getloadavg()[0]))


def measured(
    names: Sequence[str], contenders: Sequence[str], rounds: int, *, short: bool, ml: int | None
) -> dict[str, Any]:
    """Run all measures; return the contents for `--json`."""
    # As pip does at installation: other libraries are not compiled in each process either.
    compileall.compile_dir(Path(dask_flame.__file__).parent, quiet=2)
    there = [who for who in contenders if installed(who) is not None]
    found: dict[str, Any] = {
        "machine": machine(),
        "begun": time.strftime("%Y-%m-%d %H:%M"),
        "rounds": rounds,
        "skipped": [who for who in contenders if who not in there],
        "options": {},
        "samples": [],
    }
    for name in names:
        measure = MEASURES[name]
        options = found["options"][name] = told(measure, short=short, ml=ml)
        mine = [who for who in there if who in measure.contenders]
        for sample in samples(measure, mine, options, rounds) if mine else ():
            found["samples"].append(asdict(sample))
            shown = sample.error.splitlines()[-1:] or {
                q.name: round(sample.values[q.name], 3) for q in measure.quantities
            }
            print(f"{name}, round {sample.turn + 1}: {sample.contender}: {shown}", file=sys.stderr)
    return found


def notes(found: Mapping[str, Any]) -> list[str]:
    """Return the notes below the table."""
    of = found["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in of["versions"].items())
    taken = [Sample.from_dict(sample) for sample in found["samples"]]
    loads = [load for sample in taken for load in sample.load]
    load = f"{min(loads, default=0):.1f} to {max(loads, default=0):.1f}"
    lines = [
        f"{of['processor']}, {of['cores']} cores, {of['memory']:g} GB, {of['system']}; {versions}.",
        f"Medians of {found['rounds']} alternating rounds, {found['begun']}; load average {load}.",
    ]
    if found["skipped"]:
        names = ", ".join(CONTENDERS[who] for who in found["skipped"])
        lines.append(f"Not installed, and so left out: {names}.")
    return lines + [f"Failed: {line}" for line in failures(taken)]


def show(found: Mapping[str, Any], picture: Path | None) -> None:
    """Print the table, and draw the picture."""
    lines = rows(map(Sample.from_dict, found["samples"]), found["options"])
    under = notes(found)
    print(table(lines), *under, sep="\n\n")
    if picture is not None:
        try:
            from versus_picture import draw

            of = found["machine"]
            foot = f"{of['processor']}, {of['cores']} cores · medians of {found['rounds']} rounds"
            draw(lines, picture, f"{foot} · {found['begun']}")
        except ImportError as error:
            print(f"no picture: {error}; pip install matplotlib", file=sys.stderr)


def together(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Merge measurements taken at different times on one machine."""
    first = found[0]
    return {
        **first,
        "rounds": max(f["rounds"] for f in found),
        "skipped": [who for who in first["skipped"] if all(who in f["skipped"] for f in found)],
        "options": {name: options for f in found for name, options in f["options"].items()},
        "samples": [sample for f in found for sample in f["samples"]],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", type=_some_of(MEASURES), default=list(MEASURES))
    parser.add_argument("--contenders", type=_some_of(CONTENDERS))
    parser.add_argument("--rounds", type=int, help="default 3, or 1 with --short")
    parser.add_argument("--short", action="store_true", help="a tiny form of each, without rivals")
    parser.add_argument("--ml", type=int, metavar="N", help="runners of ml64")
    parser.add_argument("--picture", type=Path, default=Path("versus.png"))
    parser.add_argument("--json", type=Path, help="keep what was measured here")
    parser.add_argument(
        "--from",
        type=Path,
        dest="sources",
        nargs="+",
        metavar="FILE",
        help="measure nothing: show what is in these again, together",
    )
    chosen = parser.parse_args(arguments)
    if chosen.sources:
        show(together([json.loads(file.read_text()) for file in chosen.sources]), chosen.picture)
        return
    # Exit in an orderly way, to end the processes that were started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to end"))
    contenders = chosen.contenders or (_NO_RIVALS if chosen.short else list(CONTENDERS))
    rounds = chosen.rounds or (1 if chosen.short else 3)
    found = measured(chosen.only, contenders, rounds, short=chosen.short, ml=chosen.ml)
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=1))
    show(found, chosen.picture)


def _some_of(names: Mapping[str, Any]) -> Callable[[str], list[str]]:
    def some(text: str) -> list[str]:
        if unknown := set(text.split(",")) - names.keys():
            known = ", ".join(names)
            raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: there are {known}")
        return text.split(",")

    return some


if __name__ == "__main__":
    main()
