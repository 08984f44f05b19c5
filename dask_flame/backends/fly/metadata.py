"""The names and the metadata by which machines belong to a cluster (driver, command line)."""

from __future__ import annotations

import getpass
import hashlib
import os
import re
import socket
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

#: The cluster's id. All machines of any cluster have it, and lists are filtered by it.
CLUSTER = "dask_flame_cluster"
#: What the machine is: one of the values below.
COMPONENT = "dask_flame_component"
RUNNER, RESERVE, SCHEDULER = "runner", "reserve", "scheduler"
#: The runner's name, its pool, and its kind if the pool has several.
NAME = "dask_flame_runner"
POOL = "dask_flame_pool"
KIND = "dask_flame_kind"
#: Where the driver is: see :func:`owner`.
OWNER = "dask_flame_owner"
#: The driver's process, as only an observer of the same computer can find it: see :func:`process`.
PROCESS = "dask_flame_process"
#: On the machine of a scheduler: the process that has become the driver, see
#: :mod:`dask_flame.backends.fly.present_driver`.
DRIVER = "dask_flame_driver"
#: Unix time at which the driver last said that it lives; on machines of the reserve alone.
ALIVE = "dask_flame_alive"
#: Set by ``dask flame stop``, on any machine of the cluster.
STOPPED = "dask_flame_stopped"

#: Seconds between two times :data:`ALIVE`, and after which such a machine has no driver.
ALIVE_EVERY = 120.0
ALIVE_WITHIN = 600.0

_LONGEST = 63


@dataclass(frozen=True)
class Identity:
    """Whose machines these are.

    Attributes
    ----------
    cluster : str
        The cluster's id, which no other has.
    owner : str
        See :func:`owner`.
    process : str
        See :func:`process`.
    """

    cluster: str
    owner: str
    process: str = ""

    def metadata(
        self, component: str, *, pool: str = "", runner: str = "", kind: str = ""
    ) -> dict[str, str]:
        """Return the metadata of a machine, without those that are empty."""
        found = {CLUSTER: self.cluster, COMPONENT: component, OWNER: self.owner}
        given = {PROCESS: self.process, POOL: pool, NAME: runner, KIND: kind}
        return found | {name: value for name, value in given.items() if value}


def owner() -> str:
    """Return where this driver is: user, host and process, or the machine of Fly that it is in.

    Examples
    --------
    >>> owner_of({OWNER: "me@laptop:123"}), owner_of({OWNER: "fly@3d8d9014b32d89:7"})
    (('me', 'laptop', 123), ('fly', '3d8d9014b32d89', 7))
    """
    if machine := os.environ.get("FLY_MACHINE_ID"):
        return f"fly@{machine}:{os.getpid()}"
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # an id without a name, as in many containers
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}:{os.getpid()}"


def process() -> str:
    """Return this process: its computer since its last start, its number, and when it began.

    The name of a computer says little: two may have the same, and containers with the same name
    number their processes each for themselves.
    """
    return f"{computer()}:{os.getpid()}:{began(os.getpid())}"


def process_of(metadata: Mapping[str, str]) -> tuple[str, int, str]:
    """Return the computer, the number and the beginning of a driver's process, see `process`.

    Examples
    --------
    >>> process_of({PROCESS: "2f1e:123:4567"}), process_of({})
    (('2f1e', 123, '4567'), ('', 0, ''))
    """
    where, _, rest = metadata.get(PROCESS, "").partition(":")
    number, _, when = rest.partition(":")
    return where, int(number) if number.isdecimal() else 0, when


def computer() -> str:
    """Return a text that is the same for two processes if each can see the other."""
    try:
        # A new one at each start of the computer, and that of its containers.
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        parts = [boot.strip(), os.readlink("/proc/self/ns/pid")]
    except OSError:
        parts = [hex(uuid.getnode())]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]


def began(process: int) -> str:
    """Return when a process of this computer began; empty if there is none with this number."""
    import psutil

    try:
        return f"{psutil.Process(process).create_time():.1f}"
    except psutil.Error:
        return ""


def owner_of(metadata: Mapping[str, str]) -> tuple[str, str, int]:
    """Return the user (``"fly"`` if in a machine), the host or machine, and the process id."""
    user, _, rest = metadata.get(OWNER, "").rpartition("@")
    host, _, process = rest.rpartition(":")
    return user, host, int(process) if process.isdecimal() else 0


def machine_name(*parts: str) -> str:
    """Return a valid name for a machine, the same for the same parts and unique in the app.

    Examples
    --------
    >>> machine_name("my-cluster-1f2e3d", "runner-1")
    'flame-my-cluster-1f2e3d-runner-1'
    """
    plain = "-".join(("flame", *parts))
    lower = re.sub(r"[^a-z0-9-]+", "-", plain.lower()).strip("-")
    if lower == plain and len(plain) <= _LONGEST:
        return plain
    digest = hashlib.sha256(plain.encode()).hexdigest()[:10]
    return f"{lower[: _LONGEST - 11].rstrip('-')}-{digest}"
