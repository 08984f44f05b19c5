"""Run the tests of the last run that failed again, one after the other, if they are few.

    python scripts/run_failed_again.py

A test of processes may fail beside others on a busy machine, and that is a fault of the test. One
such fault among five thousand tests must not hide what else a run has found, so `.ci/run` goes on
if each passes alone. They are named as flaky: mend them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

#: Where pytest keeps the tests that have failed, in the folder that it runs in.
KEPT = Path(".pytest_cache/v/cache/lastfailed")
#: More than these are no accident.
MOST = 3


def main() -> int:
    """Return the exit status."""
    failed = list(json.loads(KEPT.read_text())) if KEPT.exists() else []
    if not 0 < len(failed) <= MOST:
        print(f"{len(failed)} tests have failed: none of them runs again, at most {MOST} would")
        return 1
    print(f"running again, one after the other: {' '.join(failed)}", flush=True)
    if subprocess.call([sys.executable, "-m", "pytest", *failed]):
        return 1
    for test in failed:
        print(f"FLAKY {test}: it failed beside others and passes alone; mend it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
