"""Let other processes than the driver inspect and stop a supervisor (supervisor).

The command line finds supervisors among the processes. One signal asks a supervisor to stop its
cluster. Another asks for the output of its runners, which it writes into its scratch folder. A file
there is locked as long as the supervisor or its driver lives, whatever ends them: a folder with an
unlocked lock file is left over.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Mapping

from dask_flame.core.folder_locks import lock

#: Signals that ask a supervisor to stop its cluster, and to write the output of its runners.
STOP, OUTPUT = signal.SIGUSR1, signal.SIGUSR2
#: Files in the scratch folder: the output of runners, by name, and one that exists once the cluster
#: has been stopped.
PRINTED, NO_MORE = ".printed.json", ".stopped"


class ControlSignals:
    """Receive requests to a supervisor, and answer them.

    Parameters
    ----------
    scratch : str
        The supervisor's folder.

    Attributes
    ----------
    asked_to_stop : bool
    asked_for_output : bool
        Whether a request is pending.
    """

    def __init__(self, scratch: str) -> None:
        self.scratch = scratch
        self.asked_to_stop = False
        self.asked_for_output = False
        self._lock = lock(scratch)

    def listen(self) -> None:
        """Install the signal handlers. Any signal wakes the supervisor's loop."""
        signal.signal(STOP, self._hear)
        signal.signal(OUTPUT, self._hear)

    def write_output(self, output: Mapping[str, str]) -> None:
        """Write the output of runners into the file."""
        self.asked_for_output = False
        path = os.path.join(self.scratch, PRINTED)
        with contextlib.suppress(OSError):
            # Replaced at once, so that a waiting reader finds the complete file.
            descriptor = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                json.dump(output, file)
            os.replace(f"{path}.new", path)

    def note_stop(self) -> None:
        """Create the file that shows that this cluster has been stopped."""
        with contextlib.suppress(OSError):
            os.close(os.open(os.path.join(self.scratch, NO_MORE), os.O_CREAT, 0o600))

    def _hear(self, number: int, frame: object) -> None:
        self.asked_to_stop |= number == STOP
        self.asked_for_output |= number == OUTPUT
