"""Measure what the imports of a local cluster's first process cost, and what lazy ones would save.

    python benchmarks/imports.py [--rounds 7] [--only CUT,…] [--json FILE]

All runners of a local cluster are forked from one process, the template, which imports Dask once.
No result can arrive before that. For each *cut*, a fresh interpreter imports the same modules, but
an empty module stands for each module of the cut, as if it were imported only when it is used. What
else needs such a module still imports the rest, so that the cuts do not add up. The interpreters of
all cuts run in turns. The table has the medians of CPU time, user and system, from the start of the
interpreter, the least of all rounds, which other work on the machine disturbs the least, and the
ratio of the medians to that without a cut.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

#: Modules that an import of distributed loads, and that a worker does not need to begin a call.
CUTS: dict[str, tuple[str, ...]] = {
    "nothing": (),
    "numpy": ("numpy",),
    "HTML: jinja2": ("jinja2",),
    "versions: packaging": ("packaging.requirements", "packaging.specifiers"),
    "command line: click": ("click",),
    "clusters: distributed.deploy": ("distributed.deploy",),
    "nannies: distributed.nanny": ("distributed.nanny",),
    "shuffles: distributed.shuffle": ("distributed.shuffle",),
    "graphs: dask.delayed, dask.highlevelgraph, …": (
        "dask._expr",
        "dask.datasets",
        "dask.delayed",
        "dask.highlevelgraph",
    ),
    "WebSockets: distributed.comm.ws": ("distributed.comm.ws",),
}
_ALL_BUT_NUMPY = "all of these but numpy"
_ALL = "all of these"

#: Runs in the fresh interpreter. A class stands for whatever is imported from a module of the cut.
_IMPORTS = """
import importlib, importlib.abc, importlib.machinery, json, os, sys, types

cut = json.loads(sys.argv[1])


class Anything(type):
    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Absent

    __or__ = __ror__ = lambda cls, other: cls


class Absent(metaclass=Anything):
    def __init__(self, *args, **kwargs):
        pass

    def __init_subclass__(cls, **kwargs):
        pass

    def __class_getitem__(cls, key):
        return cls

    def __call__(self, *args, **kwargs):
        return args[0] if args and callable(args[0]) else Absent


def attribute(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return Absent


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path, target=None):
        if any(name == one or name.startswith(one + ".") for one in cut):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        module = types.ModuleType(spec.name)
        module.__getattr__ = attribute
        return module

    def exec_module(self, module):
        pass


sys.meta_path.insert(0, Finder())
from dask_flame.backends.local.fork_server import RUNNER_IMPORTS

for module in RUNNER_IMPORTS:
    importlib.import_module(module)
times = os.times()
print(json.dumps([times.user + times.system, len(sys.modules)]))
"""


def cuts() -> dict[str, tuple[str, ...]]:
    """Return the modules of each cut, and of all together."""
    every = tuple(module for modules in CUTS.values() for module in modules)
    lean = tuple(module for module in every if module != "numpy")
    return {**CUTS, _ALL_BUT_NUMPY: lean, _ALL: every}


def measure(modules: tuple[str, ...]) -> tuple[float, int]:
    """Return the CPU time, in seconds, and the number of modules of one fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", _IMPORTS, json.dumps(modules)],
        cwd=Path(__file__).resolve().parents[1],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    seconds, modules_loaded = json.loads(done.stdout)
    return seconds, modules_loaded


def main() -> None:
    """Measure the cuts in turns, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", help="names of cuts, separated by commas")
    parser.add_argument("--json", type=Path, help="keep what was measured here")
    options = parser.parse_args()
    chosen = cuts()
    if options.only:
        wanted = {name.strip() for name in options.only.split(",")}
        if unknown := wanted - set(chosen):
            parser.error(f"there is no cut {sorted(unknown)[0]!r}; there are: {', '.join(chosen)}")
        chosen = {name: chosen[name] for name in chosen if name in wanted or not chosen[name]}
    found: dict[str, list[tuple[float, int]]] = {name: [] for name in chosen}
    for _ in range(options.rounds):
        for name, modules in chosen.items():
            found[name].append(measure(modules))
    whole = statistics.median(seconds for seconds, _ in found["nothing"])
    print("| imported only when used | CPU time, ms | least | ratio | modules |")
    print("|---|---|---|---|---|")
    for name, rounds in found.items():
        seconds = [one for one, _ in rounds]
        median = statistics.median(seconds)
        print(
            f"| {name} | {median * 1000:.0f} | {min(seconds) * 1000:.0f} | {median / whole:.2f} "
            f"| {rounds[0][1]} |"
        )
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
