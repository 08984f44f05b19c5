"""Distribute a runner's GPUs among its concurrent calls (runner)."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from dask_flame.runner.devices import VISIBLE, Devices


def visible(number: int) -> list[str]:
    """Return the names of the GPUs that this process may use.

    Parameters
    ----------
    number : int
        Number of GPUs given to this process, if its environment does not name them.
    """
    named = os.environ.get(VISIBLE)
    if named is None:
        # A container has only the GPUs given to it.
        return [str(n) for n in range(number)]
    return [d.strip() for d in named.split(",") if d.strip() not in ("", "-1", "NoDevFiles")]


@dataclass(frozen=True)
class _Held:
    devices: Devices
    asked: bool


class Gpus:
    """Give each call the GPUs with the fewest other calls.

    May be used from any thread.

    Parameters
    ----------
    names : sequence of str
        Names of the GPUs in :data:`VISIBLE`.
    slots : int
        Maximum number of concurrent calls.
    gone : callable
        Return whether a holder no longer needs its GPUs.
    waiting : callable
        Return whether a holder waits, without a slot, for its own calls, and so uses no GPU now.
    """

    def __init__(
        self,
        names: Sequence[str],
        slots: int,
        *,
        gone: Callable[[Any], bool],
        waiting: Callable[[Any], bool] = lambda holder: False,
    ) -> None:
        self.names = names
        self._slots = slots
        self._waiting = waiting
        self._gone = gone
        self._held: dict[Hashable, _Held] = {}
        self._lock = threading.Lock()

    def take(self, holder: Hashable, asked: float = 0) -> Devices:
        """Return GPUs for a call: all of them, if there is one slot.

        Parameters
        ----------
        holder : hashable
            Keeps the GPUs until ``gone`` says otherwise.
        asked : float
            Number of GPUs requested by the call; 0 if it requested none.
        """
        there = len(self.names)
        if not there:
            return Devices()
        number = int(asked) if asked >= 1 else max(1, there // self._slots)
        with self._lock:
            for other in [other for other in self._held if self._gone(other)]:
                del self._held[other]
            # Prefer GPUs without holders; then those whose holders did not ask for so many.
            users = [[0, 0, 0, n] for n in range(there)]
            for other, held in self._held.items():
                for n in held.devices:
                    kind = 2 if self._waiting(other) else 0 if held.asked else 1
                    users[n][kind] += 1
            chosen = sorted(user[-1] for user in sorted(users)[:number])
            devices = Devices(chosen, self.names)
            self._held[holder] = _Held(devices, asked >= 1)
        return devices


def make_current(devices: Devices) -> None:
    """Make the first of these the current GPU of this thread, for libraries with that concept.

    CUDA has a current device for each thread. A library that is not imported yet, or that finds no
    GPU, is left alone.
    """
    if not devices:
        return
    with contextlib.suppress(Exception):
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.set_device(devices[0])
    with contextlib.suppress(Exception):
        cupy = sys.modules.get("cupy")
        if cupy is not None and cupy.cuda.is_available():
            cupy.cuda.Device(devices[0]).use()
