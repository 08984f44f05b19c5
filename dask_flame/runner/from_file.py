"""A runner on another machine: ``python -m dask_flame.runner.from_file FILE`` (runner).

FILE contains its launch configuration as JSON, so that no secret is in an argument or in the
environment. In a pod it is mounted from a Secret; a job of Slurm has it open, as
``/proc/self/fd/3``. The process ends when the scheduler asks it to or
is gone, and in an orderly way at a SIGTERM. Processes that its calls have started end with it, or,
if it is killed, with the container, or the job, that it is in.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

from dask_flame.runner.__main__ import install


def main(argv: list[str]) -> NoReturn:
    """Run a worker by the launch configuration in a file, until it has closed."""
    code, process_exit = 1, None
    try:
        launch_config: dict[str, Any] = json.loads(_read(argv[0]))
        os.environ.update(launch_config.pop("variables", {}))
        scratch = os.environ.get("TMPDIR", "/tmp")
        launch_config |= {
            "name": os.environ.get("DASK_WORKER_NAME") or launch_config["name"],
            "host": os.environ.get("DASK_FLAME_POD_IP") or launch_config.get("host"),
            "directory": scratch,
        }
        if not os.access(os.path.expanduser("~"), os.W_OK):
            # A user unknown to the image has "/" as home: caches need a writable folder.
            os.environ["HOME"] = scratch
        if not install(launch_config, scratch):
            _end(code)
        # What stays for the life of the process is no garbage: to look for some in it takes a
        # seventh of the time of the imports, and time again when the process ends.
        gc.disable()
        from dask_flame.runner.process_exit import ProcessExit
        from dask_flame.runner.start import run

        gc.freeze()
        gc.enable()
        process_exit = ProcessExit(_end, launch_config["shutdown_timeout"])
        code = run(launch_config, process_exit, lambda _: None)
    except BaseException:
        with contextlib.suppress(Exception):
            traceback.print_exc()
    try:
        if process_exit is not None:
            process_exit(code)
    finally:
        _end(code)


def _read(file: str) -> str:
    """Return the text of a file; close one that is open, so that no process of a call has it."""
    text = Path(file).read_text()
    folder, _, name = file.rpartition("/")
    if folder == "/proc/self/fd":
        os.close(int(name))
    return text


def _end(code: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    try:
        from dask_flame.core.processes import below
        from dask_flame.core.resource_trackers import kill_but_trackers

        # Those in sessions of their own would outlive a batch job that no cgroup holds.
        kill_but_trackers(below(os.getpid()))
    finally:
        os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1:])
