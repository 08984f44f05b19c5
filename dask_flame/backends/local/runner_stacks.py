"""Read the stacks of a local runner from a process that is not its driver (command line).

A runner listens on a socket in a folder of its own, and accepts connections of the same user. If it
does not answer there, its process is read from outside.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import psutil
from distributed.core import rpc
from distributed.protocol import pickle

from dask_flame.attached.looking import looks
from dask_flame.attached.looking.outside import stacks_of
from dask_flame.attached.looking.values import Stacks
from dask_flame.attached.looking.wire import packed
from dask_flame.attached.looking.worker import look_inside, without_surroundings
from dask_flame.comm import backend as comm_backend
from dask_flame.comm.addresses import PREFIX, location
from dask_flame.errors import BackendError

#: Seconds for the answer of a process that could answer at once.
WITHIN = 5.0


async def runner_stacks(process: psutil.Process, runner: str) -> Stacks:
    """Return what a runner executes.

    Parameters
    ----------
    process : psutil.Process
        The runner's.
    runner : str
        Its name.

    Raises
    ------
    BackendError
        It has ended.
    """
    why = "it listens on no socket"
    for path in _sockets(process, runner):
        try:
            answer = await asyncio.wait_for(_ask(path), WITHIN)
        except TimeoutError:
            why = f"{runner} has not answered within {WITHIN:g} s: a call holds its interpreter"
            why += " or its event loop, or it is suspended"
        except OSError as error:
            why = f"{runner} cannot be reached: {error}"
        else:
            if answer["status"] == "OK":
                stacks: Stacks = looks.opened("stacks", answer["result"])
                return stacks
            why = f"{runner} cannot look at itself: {answer['exception']}"
    try:
        found = await asyncio.to_thread(stacks_of, process.pid, runner, why=why)
    except ProcessLookupError:
        raise BackendError(f"{runner} has ended") from None
    told: Stacks = looks.opened("stacks", without_surroundings(packed(found)))
    return told


async def _ask(path: str) -> dict[str, Any]:
    comm_backend.register()
    async with rpc(PREFIX + location(path)) as worker:
        answer: dict[str, Any] = await worker.run_coroutine(
            function=pickle.dumps(look_inside),
            args=pickle.dumps(("stacks", {})),
            kwargs=pickle.dumps({}),
        )
        return answer


def _sockets(process: psutil.Process, runner: str) -> list[str]:
    """Return the paths of the sockets in the runner's own folder."""
    try:
        connections = process.net_connections(kind="unix")
    except psutil.Error:
        return []
    paths = [str(c.laddr) for c in connections if c.laddr]
    return list(dict.fromkeys(p for p in paths if os.path.basename(os.path.dirname(p)) == runner))
