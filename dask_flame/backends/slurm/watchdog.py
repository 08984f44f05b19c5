"""Cancel a cluster's jobs when its driver has died: a process beside the driver.

``python -m dask_flame.backends.slurm.watchdog NAME FOLDER``. The line ``end`` on its standard input
says that nothing is left to do. When the input closes without it, the driver was killed: jobs of
this name are cancelled, and the folder is removed with the private keys in it. Jobs that run end by
themselves too; those that wait in the queue cannot.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time

#: Seconds for which it tries to cancel jobs, between two attempts, and for which none must have
#: been there: one may still be submitted by a command that the driver has started.
_PATIENCE, _AGAIN, _QUIET = 900.0, 2.0, 6.0


def main(arguments: list[str]) -> None:
    """Wait for the driver's end."""
    # A job that the driver is in may be cancelled, or a terminal be closed: there is still time.
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    name, folder = arguments
    if sys.stdin.buffer.readline() == b"end\n":
        return
    # First, so that a job that begins now ends at once.
    _remove_launch_files(folder)
    begun = quiet = time.monotonic()
    while time.monotonic() < begun + _PATIENCE:
        there = _jobs(name)
        if there:
            quiet = time.monotonic()
            _cancel(name)
        elif there is not None and time.monotonic() > quiet + _QUIET:
            break
        time.sleep(_AGAIN)
    shutil.rmtree(folder, ignore_errors=True)


def _remove_launch_files(folder: str) -> None:
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            if entry.name.endswith(".json") and not entry.name.startswith(("wave-", "cluster")):
                os.unlink(entry.path)


def _jobs(name: str) -> list[str] | None:
    """Return the jobs of this name; None if Slurm does not answer."""
    done = _run("squeue", "--noheader", f"--user={os.getuid()}", f"--name={name}", "--format=%i")
    return None if done is None else done.split()


def _cancel(name: str) -> None:
    """End those that run at once, and all."""
    who = (f"--user={os.getuid()}", f"--name={name}")
    _run("scancel", "--batch", "--signal=USR1", "--state=RUNNING", *who, within=3)
    _run("scancel", *who)


def _run(*arguments: str, within: float = 60) -> str | None:
    try:
        done = subprocess.run(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=within,
            text=True,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


if __name__ == "__main__":
    main(sys.argv[1:])
    os._exit(0)
