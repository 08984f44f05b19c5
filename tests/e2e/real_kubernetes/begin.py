"""What a pod of the tests begins with (pod): ``begin.py PROGRAM [ARGUMENTS]``.

Unpacks the tests that lie beside it into the folder that it begins in, and becomes that program.
"""

from __future__ import annotations

import os
import sys
import tarfile
from pathlib import Path


def main(argv: list[str]) -> None:
    """Unpack, and go on as what was asked for."""
    here, work = Path(__file__).parent, Path.cwd()
    with tarfile.open(here / "tests.tgz") as tests:
        tests.extractall(work, filter="data")
    Path(os.environ["TMPDIR"]).mkdir(parents=True, exist_ok=True)
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(work), before)))
    os.execv(sys.executable, [sys.executable, *argv])


if __name__ == "__main__":
    main(sys.argv[1:])
