"""Measure what it costs that local modules travel with calls.

    python benchmarks/local_code.py [--files 50 1000] [--rounds 5]

For projects of this many modules, the table shows the medians of

notified, read
    the check for changes when nothing has changed: with the kernel's notifications (Linux), and by
    reading the times of all files;
first
    the first scan of the project, with all of its contents read;
again
    the same for the next cluster of the process, which finds the project unchanged;
edit
    the scan after a module was saved, without the wait of 20 ms for a file that has just changed;
edit to result
    from the moment when a module is saved until the result of a call is there that runs it;
warm, off
    a call and back, with ``code=True`` and, in turns, with ``code=False``.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from distributed import Client

from dask_flame import FlameCluster
from dask_flame.code.driver import scan
from dask_flame.code.driver.local_code import LocalCode
from dask_flame.code.driver.shared_scan import scans

COLUMNS = ("notified", "read", "first", "again", "edit", "edit to result", "warm", "off")


def seconds(work: Callable[[], object], times: int = 1) -> float:
    """Return the median duration of a function."""
    found = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def make_project(folder: Path, modules: int) -> None:
    """Write a package with this many modules, of 2 kB each, in folders of 25."""
    for number in range(modules):
        package = folder / "project" / f"part{number // 25}"
        package.mkdir(parents=True, exist_ok=True)
        (package / "__init__.py").touch()
        (package / f"module{number}.py").write_text(f"VALUE = {number}\n" + "# comment\n" * 200)
    (folder / "project" / "__init__.py").write_text("def value():\n    return 0\n")


def check(folder: Path) -> dict[str, float]:
    """Measure the driver's part."""
    scans.forget()
    code = LocalCode([folder])
    times = {"first": seconds(code.version)}
    code.close()
    code = LocalCode([folder])
    times |= {"again": seconds(code.version), "notified": seconds(code.version, 500)}
    assert code.scan._tree is not None
    tree = code.scan._tree
    times["read"] = seconds(lambda: scan.changed(tree), 50)
    edits = []
    for number in range(5):
        (folder / "project" / "part0" / "module0.py").write_text(f"VALUE = {-number}\n")
        time.sleep(0.03)
        edits.append(seconds(code.version))
    times["edit"] = statistics.median(edits)
    code.close()
    return times


def calls(folder: Path) -> dict[str, float]:
    """Measure calls."""
    times: dict[str, list[float]] = {"edit to result": [], "warm": [], "off": []}
    for code, name in ((True, "warm"), (False, "off")):
        cluster = FlameCluster(max=1, min=1, dashboard_address=None, code=code)
        with cluster, Client(cluster) as client:
            client.submit(int).result()
            times[name].append(
                seconds(lambda client=client: client.submit(int, pure=False).result(), 300)
            )
            if not code:
                continue
            import project

            assert client.submit(project.value).result() == 0
            file = folder / "project" / "__init__.py"
            for number in range(1, 6):
                start = time.perf_counter()
                file.write_text(f"def value():\n    return {number}\n")
                assert client.submit(project.value).result() == number
                times["edit to result"].append(time.perf_counter() - start)
            file.write_text("def value():\n    return 0\n")
    return {name: statistics.median(found) for name, found in times.items()}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--files", type=int, nargs="+", default=[50, 1000])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(argv)
    print("milliseconds".ljust(14), *(f"{name:>15}" for name in COLUMNS))
    for files in options.files:
        with tempfile.TemporaryDirectory() as folder:
            make_project(Path(folder), files)
            sys.path.insert(0, folder)
            found = [check(Path(folder)) | calls(Path(folder)) for _ in range(options.rounds)]
            sys.path.remove(folder)
            for name in [name for name in sys.modules if name.partition(".")[0] == "project"]:
                del sys.modules[name]
        medians = [statistics.median(each[name] for each in found) * 1000 for name in COLUMNS]
        print(f"{files} files".ljust(14), *(f"{value:>15.3f}" for value in medians))
    return 0


if __name__ == "__main__":
    sys.exit(main())
