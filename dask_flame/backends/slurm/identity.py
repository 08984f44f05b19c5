"""The names by which jobs belong to a cluster, and its driver (driver, command line)."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path

import psutil

from dask_flame.core.connection import this_user

#: How the names of all jobs begin.
PREFIX = "flame-"


@dataclass(frozen=True)
class Identity:
    """Whose jobs these are.

    Attributes
    ----------
    cluster : str
        The cluster's id, which no other has. Its jobs are named ``flame-<id>``.
    driver : str
        User, host and process of the driver, for people.
    process : str
        See :func:`this_process`.
    """

    cluster: str
    driver: str
    process: str

    @classmethod
    def new(cls, name: str) -> Identity:
        """Return that of a new cluster of this process."""
        plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", name)[:60].strip("-") or "cluster"
        # Clusters may have the same name; the random part keeps their jobs apart.
        cluster = f"{plain}-{secrets.token_hex(3)}"
        return cls(cluster, f"{this_user()}:{os.getpid()}", this_process())

    @property
    def job_name(self) -> str:
        """The name of its jobs."""
        return PREFIX + self.cluster

    def comment(self, pool: str, wave: int) -> str:
        """Return the comment of a wave of jobs."""
        plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", pool)
        return (
            f"dask-flame cluster={self.cluster} pool={plain} wave={wave} driver={self.driver} "
            f"process={self.process}"
        )


def this_process() -> str:
    """Return the computer of this process since its last start, its number, and when it began."""
    return f"{computer()}:{os.getpid()}:{_began(os.getpid())}"


def lives(process: str) -> bool | None:
    """Return whether a process lives, see `this_process`; None if that cannot be told from here."""
    where, _, rest = process.partition(":")
    number, _, when = rest.partition(":")
    if where != computer() or not number.isdecimal():
        return None
    return _began(int(number)) == when


def computer() -> str:
    """Return a text that is the same for two processes if each can see the other."""
    parts = [socket.gethostname()]
    try:
        # A new one at each start of the computer, and that of its containers.
        parts = [Path("/proc/sys/kernel/random/boot_id").read_text().strip()]
        parts.append(os.readlink("/proc/self/ns/pid"))
    except OSError:
        pass
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]


def _began(process: int) -> str:
    try:
        return f"{psutil.Process(process).create_time():.1f}"
    except psutil.Error:
        return ""
