"""What others than its driver may know of a guard, and ask of it (guard).

The command line finds guards among the processes. A signal asks one to stop its cluster, another
for what its runners have printed, which the guard writes into its scratch folder. A file there is
locked for as long as the guard or its driver lives, whatever ends them: a folder with a file that
is not locked is nobody's.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import time
from collections.abc import Mapping

#: Asks a guard to stop its cluster, and to write down what its runners have printed last.
STOP, OUTPUT = signal.SIGUSR1, signal.SIGUSR2
#: In the scratch folder: the file that is locked; what runners have printed, by name;
#: and a file that is there once the cluster has been stopped.
LOCK, PRINTED, NO_MORE = ".guard", ".printed.json", ".stopped"
#: Seconds between two looks at whether a folder is somebody's.
_PAUSE = 0.02
#: What drivers say of a cluster that has been stopped so.
STOPPED = "the cluster was stopped with `dask flame stop`"


def lock(scratch: str) -> int:
    """Let others see that this process lives, until it ends or closes the descriptor returned.

    What this process starts does not inherit it.
    """
    descriptor = os.open(os.path.join(scratch, LOCK), os.O_RDWR | os.O_CREAT, 0o600)
    with contextlib.suppress(OSError):  # a file system without locks
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor


def hold(folder: str) -> list[int]:
    """Let others see that a folder is a living process's, until all these descriptors are closed.

    The folder itself is locked as well: systemd-tmpfiles leaves alone what is.
    """
    descriptors = [lock(folder), os.open(folder, os.O_RDONLY)]
    with contextlib.suppress(OSError):
        fcntl.flock(descriptors[1], fcntl.LOCK_SH)
    return descriptors


def remove_once_nobodys(folder: str, within: float) -> bool:
    """Remove a folder that its process has held (:func:`hold`), as soon as that has ended.

    Parameters
    ----------
    folder : str
    within : float
        Seconds to wait for the process's end; it lives on, perhaps.

    Returns
    -------
    bool
        Whether it is gone.
    """
    due = time.monotonic() + within
    while True:
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            return True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
            return not os.path.exists(folder)
        except OSError:
            if time.monotonic() > due:
                return False
        finally:
            os.close(descriptor)
        time.sleep(_PAUSE)


class ControlSignals:
    """Hears what is asked of a guard, and answers.

    Parameters
    ----------
    scratch : str
        The guard's folder.

    Attributes
    ----------
    asked_to_stop : bool
    asked_for_output : bool
        Whether an answer is due.
    """

    def __init__(self, scratch: str) -> None:
        self.scratch = scratch
        self.asked_to_stop = False
        self.asked_for_output = False
        self._lock = lock(scratch)

    def listen(self) -> None:
        """Take note of signals from now on. They wake the guard as any signal does."""
        signal.signal(STOP, self._hear)
        signal.signal(OUTPUT, self._hear)

    def tell(self, output: Mapping[str, str]) -> None:
        """Write down what runners have printed."""
        self.asked_for_output = False
        path = os.path.join(self.scratch, PRINTED)
        with contextlib.suppress(OSError):
            # Whoever waits for the file finds all of it.
            descriptor = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                json.dump(output, file)
            os.replace(f"{path}.new", path)

    def note_stop(self) -> None:
        """Let others see that this cluster has been stopped."""
        with contextlib.suppress(OSError):
            os.close(os.open(os.path.join(self.scratch, NO_MORE), os.O_CREAT, 0o600))

    def _hear(self, number: int, frame: object) -> None:
        self.asked_to_stop |= number == STOP
        self.asked_for_output |= number == OUTPUT
