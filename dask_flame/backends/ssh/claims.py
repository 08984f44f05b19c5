"""What runners of this user have taken of this host: cores, memory and GPUs (host).

Each runner's share is the name of a socket in Linux's abstract namespace, which its agent holds.
Such a name ends with the process that holds it, however that ends, and leaves no file; and it is
seen by all processes of the host, so that two clusters do not take the same GPU. Elsewhere than on
Linux, only the runners of one cluster are counted.

Two more names are those of the agent and of its supervisor. An agent that is killed takes the
shares of its runners with it, a moment before they have ended: until its supervisor has ended too,
which ends them, nothing of the host is given away.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

_TABLE = Path("/proc/net/unix")
#: Seconds to wait for another agent that is taking something, and between two attempts.
_WITHIN, _PAUSE = 10.0, 0.005
#: Why nothing is free on a host for a moment.
ENDING = "runners of an agent that was killed are being ended"


@dataclass(frozen=True)
class Need:
    """The share of a host that a runner takes.

    Attributes
    ----------
    cpus : float
        Cores.
    memory : int
        Bytes; 0 if the pool has no limit.
    gpus : int
        Number of GPUs, which are the runner's alone.
    """

    cpus: float = 1.0
    memory: int = 0
    gpus: int = 0


@dataclass(frozen=True)
class Capacity:
    """What a host has for runners.

    Attributes
    ----------
    slots : int
        Number of runners; 0 for no limit of its own.
    cpus : float
        Cores.
    memory : int
        Bytes.
    gpus : tuple of str
        Their numbers, as ``nvidia-smi`` counts them.
    """

    slots: int = 0
    cpus: float = 1.0
    memory: int = 0
    gpus: tuple[str, ...] = ()

    @property
    def all(self) -> Taken:
        """All of it."""
        return Taken(self.slots, self.cpus, self.memory, len(self.gpus))

    def why_never(self, need: Need) -> str:
        """Return why a runner has no room even if there is no other one; empty if it has."""
        if need.gpus > len(self.gpus):
            return f"gpus={need.gpus}, and it has {len(self.gpus) or 'none'}"
        if need.cpus > self.cpus:
            return f"cpus={need.cpus:g}, and it has {self.cpus:g}"
        if need.memory > self.memory:
            return f"memory={need.memory / 2**30:.3g} GiB, and it has {self.memory / 2**30:.3g}"
        return ""

    def most(self, need: Need) -> int:
        """Return how many such runners have room if there are no other ones."""
        if self.why_never(need):
            return 0
        limits = [self.slots] if self.slots else []
        if need.cpus:
            limits.append(int((self.cpus + 1e-6) / need.cpus))
        if need.memory:
            limits.append(self.memory // need.memory)
        if need.gpus:
            limits.append(len(self.gpus) // need.gpus)
        return min(limits, default=1)

    def why_not(self, need: Need, taken: Taken) -> str:
        """Return what there is too little of for a runner beside others; empty if it has room."""
        if self.slots and taken.runners >= self.slots:
            return f"{taken.runners} of {self.slots} slots are taken"
        if need.gpus > len(self.gpus) - taken.gpus:
            return f"{taken.gpus} of {len(self.gpus)} GPUs are taken"
        if need.cpus > self.cpus - taken.cpus + 1e-6:
            return f"{taken.cpus:g} of {self.cpus:g} cores are taken"
        if need.memory > self.memory - taken.memory:
            took, all_ = taken.memory / 2**30, self.memory / 2**30
            return f"{took:.3g} of {all_:.3g} GiB of memory are taken"
        return ""


@dataclass(frozen=True)
class Taken:
    """The shares of several runners on a host, together."""

    runners: int = 0
    cpus: float = 0.0
    memory: int = 0
    gpus: int = 0

    def plus(self, need: Need) -> Taken:
        """Return what is taken with another runner."""
        return Taken(
            self.runners + 1,
            self.cpus + need.cpus,
            self.memory + need.memory,
            self.gpus + need.gpus,
        )


@dataclass
class _Claim:
    need: Need
    gpus: tuple[str, ...]
    held: socket.socket | None = field(default=None, repr=False)


def _together(claims: Iterable[_Claim]) -> Taken:
    """Return what several runners have taken together."""
    taken = Taken()
    for claim in claims:
        taken = taken.plus(claim.need)
    return taken


class Claims:
    """The shares of this agent's runners, which other agents of the same user see.

    Parameters
    ----------
    owner : str
        A short unique id of this agent.
    capacity : Capacity
    """

    def __init__(self, owner: str, capacity: Capacity) -> None:
        self.capacity = capacity
        self._owner = owner
        self._prefix = f"dask-flame-ssh/{os.geteuid()}/"
        self._claims: dict[str, _Claim] = {}
        self._number = 0
        self._agent = self._bound(f"agent/{owner}")

    def held_by(self, supervisor: socket.socket) -> None:
        """Let a socket, which a supervisor holds until its end, say that its runners may live."""
        if sys.platform == "linux":
            supervisor.bind(self._name(f"supervisor/{self._owner}"))

    def take(self, runner: str, need: Need) -> tuple[tuple[str, ...], str]:
        """Take the share of a runner.

        Returns
        -------
        tuple of str
            Its GPUs.
        str
            Why it has none: what there is too little of. Empty if it has been taken.
        """
        with self._alone():
            there = [*self._others(), *self._claims.values()]
            if self._left_alone():
                return (), ENDING
            if why := self.capacity.why_not(need, _together(there)):
                return (), why
            used = {gpu for claim in there for gpu in claim.gpus}
            gpus = tuple([gpu for gpu in self.capacity.gpus if gpu not in used][: need.gpus])
            if len(gpus) < need.gpus:
                return (), f"{len(used)} GPUs are taken"
            self._claims[runner] = _Claim(need, gpus, self._hold(need, gpus))
        return gpus, ""

    def give_back(self, runner: str) -> None:
        """Release the share of a runner that has ended."""
        claim = self._claims.pop(runner, None)
        if claim is not None and claim.held is not None:
            claim.held.close()

    def close(self) -> None:
        """Release everything, as the end of the process does."""
        for runner in list(self._claims):
            self.give_back(runner)
        if self._agent is not None:
            self._agent.close()

    def others(self) -> Taken:
        """Return what the runners of other agents of this user have taken.

        Everything, for as long as it is not known.
        """
        try:
            known = not self._left_alone()
            taken = _together(self._others())
        except OSError:
            known = False
        return taken if known else self.capacity.all

    def _others(self) -> list[_Claim]:
        return list(self._seen()) if sys.platform == "linux" else []

    def _seen(self) -> Iterator[_Claim]:
        for share in self._names("runner/"):
            with contextlib.suppress(ValueError):
                owner, _, cpus, memory, gpus = share.split("/")
                named = tuple(filter(None, gpus.split(",")))
                if owner != self._owner:
                    yield _Claim(Need(int(cpus) / 1000, int(memory), len(named)), named)

    def _left_alone(self) -> bool:
        """Return whether there are supervisors whose agents were killed."""
        if sys.platform != "linux":
            return False
        # Supervisors first: they begin after their agents.
        supervisors = set(self._names("supervisor/"))
        return bool(supervisors - set(self._names("agent/")))

    def _names(self, beginning: str) -> Iterator[str]:
        """Return the rest of the names of this user that begin so."""
        beginning = f"@{self._prefix}{beginning}"
        for line in _TABLE.read_text(errors="replace").splitlines():
            name = line.rpartition(" ")[2]
            if name.startswith(beginning):
                yield name.removeprefix(beginning)

    def _name(self, rest: str) -> str:
        return f"\0{self._prefix}{rest}"

    def _bound(self, rest: str) -> socket.socket | None:
        """Return a socket with a name; None where there are none."""
        if sys.platform != "linux":
            return None
        held = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        held.bind(self._name(rest))
        return held

    def _hold(self, need: Need, gpus: tuple[str, ...]) -> socket.socket | None:
        self._number += 1
        share = f"{round(need.cpus * 1000)}/{need.memory}/{','.join(gpus)}"
        return self._bound(f"runner/{self._owner}/{self._number}/{share}")

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other agents of this user from taking anything meanwhile."""
        if sys.platform != "linux":
            yield
            return
        due = time.monotonic() + _WITHIN
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as held:
            while True:
                try:
                    held.bind(self._name("taking"))
                    break
                except OSError as error:
                    if error.errno != errno.EADDRINUSE or time.monotonic() > due:
                        raise
                time.sleep(_PAUSE)
            yield
