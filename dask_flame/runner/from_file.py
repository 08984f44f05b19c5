"""A runner's life on another machine: ``python -m dask_flame.runner.from_file FILE`` (runner).

FILE has its orders, as JSON, so that nothing of them is in an argument or in the environment. In a
pod it is mounted from a Secret. The runner ends when the scheduler tells it to or is gone, and at a
SIGTERM in peace. What its calls have started ends with the container, or the job, that it is in.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn


def main(argv: list[str]) -> NoReturn:
    """Carry out the orders in a file until the worker has closed."""
    code, farewell = 1, None
    try:
        orders: dict[str, Any] = json.loads(Path(argv[0]).read_text())
        scratch = os.environ.get("TMPDIR", "/tmp")
        orders |= {
            "name": os.environ.get("DASK_WORKER_NAME") or orders["name"],
            "host": os.environ.get("DASK_FLAME_POD_IP") or orders.get("host"),
            "directory": scratch,
        }
        if not os.access(os.path.expanduser("~"), os.W_OK):
            # A user that the image does not know, whose home is "/": caches have to be somewhere.
            os.environ["HOME"] = scratch
        from dask_flame.runner.process_exit import ProcessExit
        from dask_flame.runner.worker import run

        farewell = ProcessExit(_end, orders["shutdown_timeout"])
        code = run(orders, farewell, lambda _: None)
    except BaseException:
        traceback.print_exc()
    if farewell is not None:
        farewell(code)
    _end(code)


def _end(code: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1:])
