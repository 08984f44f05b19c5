"""Attach to a runner, as to an application (driver)."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from distributed import Client
from distributed.comm import connect

from dask_flame.attached.client.application import Application
from dask_flame.attached.client.channel import Channel, program
from dask_flame.attached.looking import looks
from dask_flame.attached.looking.values import Stacks
from dask_flame.attached.wire import SocketWire
from dask_flame.core.client_ids import ONLY_LOOKS, is_observer
from dask_flame.core.messages import ATTACH, LOOK
from dask_flame.core.tunnel import carry
from dask_flame.errors import AttachError

#: Seconds for the connection.
_WITHIN = 10.0
#: Connections under way.
_carrying: set[asyncio.Task[None]] = set()


class AttachedRunner(Application):
    """A runner to which a notebook is attached; or the frame of a failed call on it.

    It has the methods of an application. Cells run beside the runner's calls: they take no slot,
    are no calls, and do not keep an idle runner.
    """

    def __init__(self, channel: Channel, cluster: Any) -> None:
        super().__init__(channel)
        self._cluster = cluster

    def stacks(self) -> Stacks:
        """Return what its threads and asyncio tasks execute, those of calls first."""
        if not self.attached:
            raise AttachError(f"{self.name}: the attachment is over; attach again")
        request = getattr(_scheduler(self._cluster), LOOK)

        async def ask() -> dict[str, Any]:
            answer: dict[str, Any] = await request(name=self.name, what="stacks")
            return answer

        told = self._cluster.sync(ask)
        if "failed" in told:
            raise AttachError(told["failed"])
        found: Stacks = looks.opened("stacks", told["found"])
        return found


def attach_runner(cluster: Any, runner: str, **options: Any) -> AttachedRunner:
    """Attach to a runner of a cluster.

    Parameters
    ----------
    cluster : distributed.Client or FlameCluster
    runner : str
        Its name.
    **options
        ``key`` and ``frame``: of a failed call.

    Raises
    ------
    AttachError
        There is no such runner, or it cannot be reached; the client only observes; or it is
        asynchronous.
    """
    if is_observer(_id(cluster)):
        raise AttachError(f"a cell in {runner} {ONLY_LOOKS}")
    if cluster.asynchronous:
        raise AttachError(
            f"cells in {runner} need a client and a cluster that are not asynchronous; write "
            "client = Client(FlameCluster(…))"
        )
    sock: socket.socket = cluster.sync(_connected, cluster, runner, options)
    return AttachedRunner(Channel(SocketWire(sock), program()), cluster)


def _id(cluster: Any) -> str:
    return cluster.id if isinstance(cluster, Client) else ""


def _scheduler(cluster: Any) -> Any:
    """Return what calls the scheduler of a client, or of a cluster."""
    return cluster.scheduler if isinstance(cluster, Client) else cluster.scheduler_comm


async def _connected(cluster: Any, runner: str, options: dict[str, Any]) -> socket.socket:
    """Return a socket whose bytes go to the runner and back, through the scheduler."""
    asked = _scheduler(cluster)
    arguments = (cluster if isinstance(cluster, Client) else asked).connection_args
    address = asked.address
    try:
        comm = await connect(address, timeout=_WITHIN, **arguments)
        try:
            asks = {"name": runner, "options": options, "client": _id(cluster)}
            await comm.write({"op": ATTACH, "reply": False, **asks})
            answer = await comm.read()
        except BaseException:
            comm.abort()
            raise
    except OSError as error:
        raise AttachError(f"{runner} cannot be reached: {error}") from None
    if "failed" in answer:
        comm.abort()
        raise AttachError(answer["failed"])
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=ours)
    task = asyncio.ensure_future(carry(comm, reader, writer))
    _carrying.add(task)
    task.add_done_callback(_carrying.discard)
    return theirs
