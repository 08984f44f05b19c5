"""``dask_flame.connect``: a Client of a cluster that another process has made (driver)."""

from __future__ import annotations

import contextlib
from typing import Any

from distributed import Client
from distributed.utils import LoopRunner

from dask_flame.backends.base import Backend
from dask_flame.core.option_checks import Duration, seconds, word
from dask_flame.driver.connect.adopt import AdoptedCluster, claim
from dask_flame.driver.connect.entrance import Door, open_door
from dask_flame.driver.connect.observer import ObserverClient
from dask_flame.lease.resume import resume_clients


def connect(
    name: str,
    *,
    adopt: bool = False,
    backend: str | type[Backend] | None = None,
    namespace: str | None = None,
    context: str | None = None,
    app: str | None = None,
    timeout: Duration = "60s",
) -> Client:
    """Connect to a cluster of another process: look at it, or become its driver.

    Parameters
    ----------
    name : str
        The name of the cluster, or its id in ``dask flame ps``.
    adopt : bool, default False
        False: observe. The Client reads reports, results and the state of the cluster, and cannot
        submit calls. It neither keeps the cluster alive, nor ends it.
        True: become the driver of a cluster whose driver is gone, within its ``disconnect_grace``.
        ``client.cluster`` is then its :class:`FlameCluster`, which ends with this process, and
        :func:`recover` returns the futures that the driver before had.
    backend : str or Backend, optional
        The backend of the cluster (``flame.backend``).
    namespace, context : str, optional
        Where it is, for ``backend="kubernetes"``.
    app : str, optional
        Where it is, for ``backend="fly"``.
    timeout : duration, default "60s"
        Time for each step of the connection.

    Returns
    -------
    distributed.Client
        Close it when you are done. With ``adopt=True`` it is the default client, and closing it
        does not close the cluster: ``client.cluster.close()`` does.

    Raises
    ------
    BackendError
        There is no such cluster, it cannot be reached, it has a driver, or another process becomes
        its driver at the same time. Nothing has changed.

    Examples
    --------
    >>> client = dask_flame.connect("shop", adopt=True, backend="kubernetes")  # doctest: +SKIP
    >>> futures = dask_flame.recover()  # doctest: +SKIP
    >>> client.gather(list(futures.values()))  # doctest: +SKIP
    """
    word("name", name)
    limit = seconds("timeout", timeout, zero=False)
    where = {"namespace": namespace, "context": context, "app": app}
    given = {option: value for option, value in where.items() if value is not None}
    resume_clients()
    runner = LoopRunner(asynchronous=False)
    runner.start()
    stack = contextlib.AsyncExitStack()
    try:
        door = runner.run_sync(open_door, stack, name, backend, given)
        if not adopt:
            runner.run_sync(door.check, limit)
            return ObserverClient(door, stack, runner, timeout=limit)
        client = _adopt(runner, stack, door, given, limit)
    except BaseException:
        _end(runner, stack)
        raise
    _end(runner, stack)
    return client


def _adopt(
    runner: LoopRunner,
    stack: contextlib.AsyncExitStack,
    door: Door,
    places: dict[str, str],
    timeout: float,
) -> Client:
    adopted, handover = runner.run_sync(_claim, stack, door, timeout)
    places = {name: value for name, value in places.items() if name != "app"}
    cluster = AdoptedCluster(adopted, handover, backend=door.backend, places=places)
    try:
        return Client(cluster, timeout=timeout)
    except BaseException:
        # This process is not to end what it could not use.
        cluster._leave_to_another()
        raise


async def _claim(stack: contextlib.AsyncExitStack, door: Door, timeout: float) -> Any:
    return await claim(stack, door, timeout=timeout)


def _end(runner: LoopRunner, stack: contextlib.AsyncExitStack) -> None:
    with contextlib.suppress(Exception):
        runner.run_sync(stack.aclose)
    runner.stop()
