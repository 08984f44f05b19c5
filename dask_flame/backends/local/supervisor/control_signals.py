"""What others than its driver may know of a guard, and ask of it (guard).

The command line finds guards among the processes. A signal asks one to stop its cluster, another
for what its runners have printed, which the guard writes into its scratch folder. A file there is
locked for as long as the guard or its driver lives, whatever ends them: a folder with a file that
is not locked is nobody's.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Mapping

from dask_flame.core.folder_locks import lock

#: Asks a guard to stop its cluster, and to write down what its runners have printed last.
STOP, OUTPUT = signal.SIGUSR1, signal.SIGUSR2
#: In the scratch folder: the file that is locked; what runners have printed, by name;
#: and a file that is there once the cluster has been stopped.
PRINTED, NO_MORE = ".printed.json", ".stopped"
#: What drivers say of a cluster that has been stopped so.
STOPPED = "the cluster was stopped with `dask flame stop`"


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
