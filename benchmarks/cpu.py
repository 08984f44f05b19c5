"""Compare the CPU time of calls, and of runners, between two versions of dask-flame.

    python benchmarks/cpu.py --base FOLDER [--rounds 7] [--only MEASURE,…] [--calls 3000]
                             [--runners 16] [--profile FILE]

FOLDER is another checkout of this repository, such as a ``git worktree`` of an earlier commit. The
time on the clock depends on what else the machine does; the CPU time does so less, but on a busy
machine still by a factor of up to two, since messages are batched differently. Each version has a
driver of its own, and both are up at the same time. They run blocks in turn, and the order of the
two changes with each round. The figures are medians and, in brackets, the least of all rounds,
which other work on the machine disturbs the least; then the median, the least and the largest ratio
of the rounds (``benchmarks/steps.py`` measures parts of a call, with less noise):

warm
    One call that does nothing, and its result, on one runner; then the next one.
submit
    A loop of ``client.submit`` on two runners, then ``client.gather``.
map
    ``client.map`` on two runners, then ``client.gather``.
completed
    ``client.map`` on two runners, then a loop over ``as_completed(with_results=True)``.
    All of these in microseconds for each call: of the driver's process, which has the scheduler,
    and of all runners.
boot
    From the constructor until all runners have registered, in milliseconds for each runner: of the
    driver, of the runners, and of the processes that start them. Then the memory (PSS) and the
    memory of its own (USS) of an idle runner, in MB. Each round has a fresh driver.

With ``--profile`` the driver of the version here writes the statistics of cProfile of its event
loop, in CPU time, for one more block after the first. Figures of the other blocks are not affected.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

MEASURES = ("warm", "submit", "map", "completed", "boot")
_HERE = Path(__file__).resolve().parent
#: Seconds for which runners are idle before their memory is measured.
_IDLE = 3.0


# In the driver


def _work(client: Any, measure: str, calls: int) -> None:
    from distributed import as_completed
    from versus_calls import nothing  # beside this file

    if measure == "warm":
        for _ in range(calls):
            client.submit(nothing, pure=False).result()
    elif measure == "submit":
        client.gather([client.submit(nothing, n, pure=False) for n in range(calls)])
    elif measure == "map":
        client.gather(client.map(nothing, range(calls), pure=False))
    else:
        for _ in as_completed(client.map(nothing, range(calls), pure=False), with_results=True):
            pass


def _spent(pid: int) -> float:
    """Return the CPU time of a process in seconds."""
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        return sum(int((t / "schedstat").read_text().split()[0]) for t in threads) / 1e9
    except (OSError, ValueError, IndexError):
        times = psutil.Process(pid).cpu_times()
        return float(times.user + times.system)


def _blocks(measure: str, runners: int, calls: int, profile: str) -> Iterator[dict[str, float]]:
    from distributed import Client

    from dask_flame import FlameCluster

    with (
        FlameCluster(min=runners, max=runners, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        client.wait_for_workers(runners)
        pids = list(client.run(os.getpid).values())
        _work(client, measure, min(calls, 1_000))  # it does not count
        yield {}
        while True:
            before, driver = sum(map(_spent, pids)), time.process_time()
            _work(client, measure, calls)
            driver = time.process_time() - driver
            spent = sum(map(_spent, pids)) - before
            found = {"driver": driver / calls * 1e6, "runners": spent / calls * 1e6}
            yield {**found, "both": sum(found.values())}
            if profile:
                _profiled(client, lambda: _work(client, measure, calls), profile)
                profile = ""


def _profiled(client: Any, work: Callable[[], None], where: str) -> None:
    import cProfile

    profile = cProfile.Profile(time.thread_time)

    async def on_loop(act: Callable[[], None]) -> None:
        act()

    client.sync(on_loop, profile.enable)
    work()
    client.sync(on_loop, profile.disable)
    profile.dump_stats(where)


def _boot(runners: int) -> dict[str, float]:
    from dask_flame import FlameCluster

    began = time.process_time()
    with FlameCluster(min=runners, max=runners, dashboard_address=None) as cluster:
        scheduler = cluster.scheduler
        while len(scheduler.workers) - len(scheduler.resting) < runners:
            time.sleep(0.005)
        driver = time.process_time() - began
        mine = psutil.Process().children(recursive=True)
        names = {f"runner-{n + 1}" for n in range(runners)}
        told = {p: _name(p) for p in mine}
        own = [p for p, name in told.items() if name in names]
        spent = {p: _spent(p.pid) for p in mine}
        time.sleep(_IDLE)
        memory = [p.memory_full_info() for p in own]
    each = 1e3 / runners
    found = {
        "driver": driver * each,
        "runners": sum(spent[p] for p in own) * each,
        "starters": sum(spent[p] for p in mine if p not in own) * each,
    }
    return {
        **found,
        "all": sum(found.values()),
        "PSS": statistics.mean(m.pss for m in memory) / 1e6,
        "USS": statistics.mean(m.uss for m in memory) / 1e6,
    }


def _name(process: psutil.Process) -> str:
    words = " ".join(process.cmdline()).replace(":", " ").split()
    return next((word for word in words if word.startswith("runner-")), "")


def drive(options: dict[str, Any]) -> None:
    """Answer each line of standard input with the figures of a block."""
    if options["measure"] == "boot":
        print(json.dumps(_boot(options["runners"])), flush=True)
        return
    arguments = [options[name] for name in ("measure", "workers", "calls", "profile")]
    for found in _blocks(*arguments):
        print(json.dumps(found), flush=True)
        if not sys.stdin.readline():
            break


# In the process that compares


class Version:
    """A driver that uses one version.

    Parameters
    ----------
    folder : Path
        Checkout of the version.
    options : dict
    """

    def __init__(self, folder: Path, options: dict[str, Any]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), "--drive", json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(_HERE)])},
            cwd=folder,
        )

    def __enter__(self) -> Version:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def answer(self) -> dict[str, float]:
        """Return the figures of the block that runs now."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the driver ended with code {self._process.wait()}")
        found: dict[str, float] = json.loads(line)
        return found

    def block(self) -> dict[str, float]:
        """Run a block, and return its figures."""
        assert self._process.stdin is not None
        print("go", file=self._process.stdin, flush=True)
        return self.answer()


def _rounds(
    measure: str, folders: list[Path], rounds: int, options: dict[str, Any]
) -> list[list[dict[str, float]]]:
    """Return the figures of each round, of both versions."""
    found = []
    if measure == "boot":
        for turn in range(rounds):
            pair = {}
            for folder in folders[:: -1 if turn % 2 else 1]:
                with Version(folder, options) as version:
                    pair[folder] = version.answer()
            found.append([pair[folder] for folder in folders])
        return found
    plain = {**options, "profile": ""}
    with Version(folders[0], plain) as base, Version(folders[1], options) as here:
        both = [base, here]
        for version in both:
            version.answer()
        for turn in range(rounds):
            order = both[:: -1 if turn % 2 else 1]
            blocks = {version: version.block() for version in order}
            found.append([blocks[version] for version in both])
    return found


def main() -> None:
    """Compare two versions."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", type=Path, help="the other checkout")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default=",".join(MEASURES))
    parser.add_argument("--calls", type=int, default=3_000)
    parser.add_argument("--runners", type=int, default=16, help="that boot")
    parser.add_argument("--profile", default="")
    parser.add_argument("--drive", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.drive:
        drive(json.loads(args.drive))
        return
    if args.base is None:
        parser.error("--base is needed")
    folders = [args.base.resolve(), _HERE.parent]
    print(
        "| | | base (least) | here (least) | ratio of pairs | from, to |\n|---|---|---|---|---|---|"
    )
    for measure in args.only.split(","):
        options = {
            "measure": measure,
            "calls": args.calls // 3 if measure == "warm" else args.calls,
            "workers": 1 if measure == "warm" else 2,
            "runners": args.runners,
            "profile": args.profile,
        }
        found = _rounds(measure, folders, args.rounds, options)
        for name in found[0][0]:
            sides = [[pair[n][name] for pair in found] for n in (0, 1)]
            ratios = [there[name] and here[name] / there[name] for there, here in found]
            cells = [f"{statistics.median(side):.1f} ({min(side):.1f})" for side in sides]
            cells += [f"{statistics.median(ratios):.3f}", f"{min(ratios):.2f} to {max(ratios):.2f}"]
            print(f"| {measure} | {name} | {' | '.join(cells)} |")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
