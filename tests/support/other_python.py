"""A Python that says it is of another minor version, for images of the fake Kubernetes.

Started by ``python other_python.py -m MODULE …`` in a pod, it imports what such a pod runs, and is
from then on, for all that asks, of another version. ``DASK_FLAME_TEST_OTHER_PYTHON`` names a real
one to take in its place, which needs dask-flame's dependencies.
"""

from __future__ import annotations

import os
import platform
import runpy
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

#: Names a real interpreter.
OTHER = "DASK_FLAME_TEST_OTHER_PYTHON"
_VERSION = (sys.version_info.major, sys.version_info.minor + 1, 1, "final", 0)


def other_python(folder: Path) -> tuple[str, str]:
    """Return the program of another Python, and its version."""
    if given := os.environ.get(OTHER):
        said = subprocess.run([given, "-V"], capture_output=True, text=True, check=True).stdout
        return given, said.split()[1]
    program = folder / "python"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{__file__}" "$@"\n')
    program.chmod(0o755)
    return str(program), ".".join(map(str, _VERSION[:3]))


def main(argv: list[str]) -> None:
    """Run a module as that Python."""
    import dask_flame.backends.kubernetes.watchdog
    import dask_flame.remote.server
    import dask_flame.runner.from_file
    import dask_flame.runner.start  # noqa: F401

    fields = "major minor micro releaselevel serial"
    sys.version_info = namedtuple("version_info", fields)(*_VERSION)  # type: ignore[misc,assignment]
    version = ".".join(map(str, _VERSION[:3]))
    platform.python_version = lambda: version
    start = argv.index("-m")
    module, sys.argv = argv[start + 1], argv[start + 1 :]
    del sys.modules[module]  # what is run is not what was imported
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
