"""Run tests with other versions of Python and of the dependencies.

``python scripts/unit_matrix.py --python 3.13 --resolution lowest-direct`` needs uv, an interpreter
of this version and a package index. The dependencies of dask-flame and of its extras have the
lowest, or the newest, versions that pyproject.toml allows; the tools of the tests are the newest.
Packages of the examples (torch, …) are not installed: tests that need them are skipped.

The unit tests are run, or those of ``--smoke``: calls, interrupts and attached applications in
processes of their own, which depend on the interpreter most. Arguments after ``--`` are pytest's.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: Extras whose lower bounds are tried.
EXTRAS = ("data", "fly", "kubernetes", "metrics", "notebook", "optuna", "tensorboard", "terminal")
#: Of the extra `test`, what the unit tests themselves import.
TOOLS = (
    "aiohttp", "grimp", "hypothesis", "jsonschema", "kubernetes-validate", "nbclient", "nbformat",
    "numpy", "pytest", "pytest-asyncio", "pytest-timeout", "pytest-xdist",
)  # fmt: skip
#: Tests of what the interpreter may change: threads, frames, exceptions, pickles and forks.
SMOKE = (
    "tests/attached/test_cells.py", "tests/attached/test_interruption.py",
    "tests/attached/looking", "tests/driver/test_calls.py", "tests/notebook/test_runner_cells.py",
    "tests/runner/test_worker.py",
)  # fmt: skip


def tools() -> list[str]:
    """Return the requirements of the tests, from the extra `test`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {
        r.partition(">")[0].partition("=")[0]: r for r in project["optional-dependencies"]["test"]
    }
    return [named[name] for name in TOOLS]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", default=f"{sys.version_info.major}.{sys.version_info.minor}")
    parser.add_argument("--resolution", choices=("lowest-direct", "highest"), default="highest")
    parser.add_argument("--smoke", action="store_true", help="Run tests with processes.")
    parser.add_argument("tests", nargs="*", help="Arguments of pytest.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="flame-matrix-") as name:
        folder = Path(name)
        python = folder / "venv" / "bin" / "python"
        resolved = folder / "resolved.txt"

        def uv(*arguments: str) -> None:
            subprocess.run([sys.executable, "-m", "uv", *arguments], cwd=ROOT, check=True)

        uv("venv", "--quiet", "--python", options.python, str(python.parent.parent))
        uv(
            "pip", "compile", "--quiet", "--python", str(python), "--no-annotate",
            "--resolution", options.resolution, *(f"--extra={extra}" for extra in EXTRAS),
            "pyproject.toml", "-o", str(resolved),
        )  # fmt: skip
        install = ("pip", "install", "--quiet", "--python", str(python))
        uv(*install, "-r", str(resolved))
        uv(*install, "-c", str(resolved), *tools())
        uv(*install, "--no-deps", "--editable", str(ROOT))
        command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        command += SMOKE if options.smoke else ("-m", "unit")
        return subprocess.run([*command, *options.tests], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
