"""Find the running applications of this user (driver)."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass

import psutil

from dask_flame.attached.places import Instance, check_name, instances
from dask_flame.core.redaction import veiled
from dask_flame.errors import AttachError

#: In the command lines of processes that multiprocessing has started, which do not say of what.
_OF_MULTIPROCESSING = "from multiprocessing."


#: Maximum number of characters of a command line in an error. Its end has the program.
_MOST_SHOWN = 150


@dataclass(frozen=True)
class Found:
    """One running instance of an application.

    Attributes
    ----------
    application : str
    pid : int
    started : float or None
        When its process started, in seconds since the epoch; None if unknown.
    command : str
        Its command line, without what looks like a secret.
    """

    application: str
    pid: int
    started: float | None
    command: str


def listing() -> list[Found]:
    """Return the running applications of this user that are exposed, each instance."""
    return [_found(one) for one in instances()]


def find(name: str, instance: int | None) -> Instance:
    """Return one instance of an application.

    Raises
    ------
    AttachError
        There is none, or several.
    """
    check_name(name)
    there = instances(name)
    chosen = [one for one in there if instance is None or one.pid == instance]
    if len(chosen) == 1:
        return chosen[0]
    if not there:
        others = sorted({one.application for one in instances()})
        known = f"exposed are {', '.join(others)}" if others else "no application is exposed"
        raise AttachError(
            f"no application of this user is exposed as {name!r} ({known}); write in the "
            f'application: dask_flame.expose("{name}")'
        )
    lines = "\n".join(f"    {_line(_found(one))}" for one in there)
    what = f"has {len(there)} instances" if instance is None else f"has no instance {instance}"
    raise AttachError(
        f"{name} {what}:\n{lines}\nwrite for example "
        f'dask_flame.attach("{name}", instance={there[0].pid})'
    )


def _found(one: Instance) -> Found:
    with contextlib.suppress(psutil.Error, OSError):
        process = psutil.Process(one.pid)
        command = " ".join(process.cmdline())
        if _OF_MULTIPROCESSING in command and (parent := process.parent()) is not None:
            command = f"a process of {' '.join(parent.cmdline())}"
        shown = veiled(command, random=False)
        return Found(one.application, one.pid, process.create_time(), shown)
    return Found(one.application, one.pid, None, "?")


def _line(found: Found) -> str:
    since = ""
    if found.started is not None:
        since = time.strftime(", started %Y-%m-%d %H:%M:%S", time.localtime(found.started))
    command = found.command
    if len(command) > _MOST_SHOWN:
        command = f"{command[: _MOST_SHOWN // 3]}…{command[-_MOST_SHOWN * 2 // 3 :]}"
    return f"pid {found.pid}{since}: {command}"
