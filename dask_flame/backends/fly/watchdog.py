"""Remove a cluster's machines when its driver has died: a process beside the driver.

``python -m dask_flame.backends.fly.watchdog``, with the configuration as one line of JSON on its
standard input. The line ``end`` says that nothing is left to do, and ``look`` that a machine may
still be created which the driver could not wait for. When the input closes without a line, the
driver was killed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dask_flame.backends.fly.connection import Connection

#: Seconds for which it tries to remove machines, between two attempts, and for which none must
#: have been there: one may still be created by a request of the driver's.
_PATIENCE, _AGAIN, _QUIET = 900.0, 5.0, 60.0
#: Seconds beyond the grace for which a scheduler's machine may run: another process may be about to
#: become the driver, or the scheduler waits for its runners to end.
_SCHEDULER_WITHIN = 180.0


def first_line(connection: Connection, cluster: str, *, grace: float, driver: str) -> bytes:
    """Return the configuration of this process, as its driver sends it. Holds the token.

    Parameters
    ----------
    connection : Connection
    cluster : str
        The cluster's id.
    grace : float
        Seconds for which machines that run may end by themselves.
    driver : str
        The id of the driver, if it has taken the cluster over; otherwise empty. Nothing is removed
        of a cluster that another driver has taken over.
    """
    config = {
        "app": connection.api.app,
        "base": connection.api.base,
        "logs": connection.logs,
        "factor": connection.factor,
        "token": connection.token.value,
        "cluster": cluster,
        "grace": grace,
        "driver": driver,
    }
    return json.dumps(config).encode()


def main() -> None:
    """Wait for the driver's end."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    source = sys.stdin.buffer
    line = source.readline()
    if not line.endswith(b"\n"):
        return  # the driver has died before anything was created
    config: dict[str, Any] = json.loads(line)
    line = source.readline()
    if line == b"end\n":
        return
    # Imported only now: until then the process is small.
    import asyncio

    asyncio.run(_remove(config, none_left=line == b"look\n"))


async def _remove(config: dict[str, Any], *, none_left: bool) -> None:
    """Remove the machines of a reserve at once, and all others after the grace.

    Nothing is removed of a cluster that another process has taken over: that has a watchdog of its
    own.

    Parameters
    ----------
    config : dict
    none_left : bool
        Whether there was no machine at the last look. Fly is then waited for no longer than a
        machine could take to appear.
    """
    import asyncio

    from dask_flame.backends.fly import connection_files
    from dask_flame.backends.fly.api.client import FlyApi, metadata_of
    from dask_flame.backends.fly.api.credentials import Token
    from dask_flame.backends.fly.api.errors import FlyError
    from dask_flame.backends.fly.api.pace import Pace
    from dask_flame.backends.fly.metadata import CLUSTER, COMPONENT, RESERVE
    from dask_flame.backends.fly.present_driver import mark_in, scheduler_of
    from dask_flame.backends.fly.removal import destroy, remove_cluster

    token, cluster = Token(config["token"]), config["cluster"]
    api = FlyApi(config["app"], token, config["base"], config["logs"], pace=Pace(config["factor"]))
    begun = quiet = time.monotonic()
    empty_for = min(_QUIET, config["grace"] + _AGAIN)
    overdue = begun + config["grace"]
    last = overdue + _SCHEDULER_WITHIN
    try:
        while time.monotonic() < (quiet + 2 * empty_for if none_left else last + _PATIENCE):
            try:
                found = await api.list_machines({CLUSTER: cluster})
                none_left = not found
                scheduler = scheduler_of(found)
                if scheduler is not None:
                    mark = mark_in(metadata_of(scheduler))
                    if mark.id != config["driver"]:
                        return
                if found:
                    quiet = time.monotonic()
                elif time.monotonic() > quiet + empty_for:
                    connection_files.remove(cluster)
                    return
                if time.monotonic() > (overdue if scheduler is None else last):
                    await remove_cluster(api, cluster)
                else:
                    for machine in found:
                        if metadata_of(machine).get(COMPONENT) == RESERVE:
                            await destroy(api, machine["id"])
            except FlyError:
                pass  # nobody reads what it prints; it tries again
            await asyncio.sleep(min(_AGAIN, max(1.0, config["grace"] / 4)) / config["factor"])
    finally:
        await api.close()


if __name__ == "__main__":
    main()
    os._exit(0)
