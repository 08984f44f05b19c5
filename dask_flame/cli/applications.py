"""The running applications of this user, and what their processes do (command line)."""

from __future__ import annotations

import time
from collections.abc import Sequence

from dask_flame.attached.client.attaching import attach
from dask_flame.attached.client.found import Found, listing
from dask_flame.attached.looking.outside import stacks_of
from dask_flame.attached.looking.values import Stacks
from dask_flame.cli.tables import age, table
from dask_flame.core.redaction import veiled
from dask_flame.errors import AttachError

#: Maximum length of a command line in a table.
_COMMAND = 80


def applications(name: str | None = None) -> list[Found]:
    """Return the instances of all applications, or of one; without secrets in their commands."""
    return [
        Found(one.application, one.pid, one.started, veiled(one.command))
        for one in listing()
        if name in (None, one.application)
    ]


def of_applications(found: Sequence[Found], now: float | None = None) -> str:
    """Return a table with a line for each instance."""
    now = time.time() if now is None else now
    rows = []
    for one in found:
        since = age(None if one.started is None else now - one.started)
        command = one.command if len(one.command) <= _COMMAND else f"{one.command[:_COMMAND]}…"
        rows.append([one.application, str(one.pid), since, command])
    return table(["APPLICATION", "PROCESS", "AGE", "COMMAND"], rows)


def stacks(instance: Found) -> Stacks:
    """Return what an instance executes; from outside if it does not greet.

    Raises
    ------
    AttachError
        It has ended.
    """
    try:
        with attach(instance.application, instance=instance.pid) as application:
            return application.stacks()
    except AttachError as error:
        try:
            return stacks_of(instance.pid, instance.application, why=str(error))
        except ProcessLookupError:
            said = f"{instance.application}, process {instance.pid}, has ended"
            raise AttachError(said) from None
