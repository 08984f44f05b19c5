"""Calls, casts and placed objects (driver, and inside calls on a runner).

A call is a Dask task, its options are task annotations, and a placed object is an actor. With
:func:`on`, the same annotations apply to ``client.submit``, ``client.map``, ``dask.delayed`` and
collections.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import dask
from distributed import Client, Future, fire_and_forget, get_client

from dask_flame.core.option_checks import Duration, seconds, shown, word, yes_or_no
from dask_flame.driver.actors import Placed
from dask_flame.errors import FlameError, PoolError


def on(
    pool: str | None = None, *, timeout: Duration | None = None, rerun: bool | None = None
) -> contextlib.AbstractContextManager[None]:
    """Apply these options to all tasks submitted inside the block.

    This includes ``client.submit`` and ``client.map``, executors from ``client.get_executor()``,
    :func:`call`, :func:`cast` and :func:`place`, and ``dask.delayed`` objects and collections that
    are *computed* inside the block. Collections that are built inside and computed outside may lose
    the options, because Dask's optimizations fuse tasks and drop annotations.

    Parameters
    ----------
    pool : str, optional
        Name of the pool whose runners run the tasks; the cluster's first pool by default.
    timeout : duration, optional
        Maximum execution time of each task, in seconds or as a string such as ``"5m"``. See
        :func:`call`.
    rerun : bool, optional
        If False, a task whose runner was lost does not run again; it fails with
        :class:`dask_flame.RunnerLost`.

    Raises
    ------
    PoolError
        An argument is invalid; or, on entering the block, the current client's FlameCluster has no
        such pool.

    Notes
    -----
    Blocks may be nested; options of the inner block take precedence.

    Examples
    --------
    >>> with dask_flame.on("gpu", timeout="10m"):
    ...     futures = client.map(describe, stills)
    """
    annotations = annotations_of(pool, timeout, rerun)
    if not annotations:
        raise PoolError('on() needs a pool or an option; write with dask_flame.on("gpu"):')
    return _governed(annotations)


@contextlib.contextmanager
def _governed(annotations: dict[str, Any]) -> Iterator[None]:
    try:
        client = get_client()
    except ValueError:
        pass  # a submission inside the block raises if there is still no client
    else:
        check_pool(client, annotations)
    with dask.annotate(**annotations):
        yield


def call(
    fn: Callable[..., Any] | None = None,
    /,
    *args: Any,
    pool: str | None = None,
    timeout: Duration | None = None,
    rerun: bool | None = None,
    **kwargs: Any,
) -> Any:
    """Run a function on a runner, wait for it, and return its result or raise its exception.

    As a decorator, run the function immediately and bind its name to the result.

    Parameters
    ----------
    fn : callable
        The function. A coroutine function runs on the runner's event loop.
    *args, **kwargs
        Arguments of the function; futures are replaced by their results. If the function itself has
        a parameter ``pool``, ``timeout`` or ``rerun``, write
        ``call(functools.partial(fn, timeout=3))``.
    pool : str, optional
        Name of the pool whose runners run the call; the cluster's first pool by default.
    timeout : duration, optional
        Maximum execution time, in seconds or as a string such as ``"5m"``. It starts when the
        function begins: the time to wait for a runner (see the pool's ``boot_timeout``) and to
        transfer inputs does not count. The time to wait for nested calls counts.
    rerun : bool, optional
        If False, the call does not run again when its runner is lost; it fails with
        :class:`dask_flame.RunnerLost`. By default it runs again.

    Returns
    -------
    object
        The function's result; with an asynchronous client, an awaitable.

    Raises
    ------
    CallTimeout
        The call did not finish within `timeout`.
    RunnerLost
        Its runner was lost, too often or with ``rerun=False``.
    BootError
        No runner could start.
    PoolError
        An argument is invalid, or there is no such pool.
    FlameError
        There is no client.

    Notes
    -----
    Each call runs, even if an identical one has run before.

    Interrupting the driver's thread (the notebook's stop button, Ctrl-C), or cancelling the asyncio
    task that awaits the call, cancels it. A call that is cancelled or exceeds its timeout is
    interrupted: an exception that is not an :class:`Exception` is raised in its code, and again
    every second until it ends, so that ``finally:`` and ``with`` blocks run. If it waits for a
    child process (``subprocess.run``, the methods ``wait`` and ``communicate``), this process and
    its descendants get a SIGTERM, and are killed a second later. Other code that waits outside
    Python (``time.sleep``, a long computation in C) is interrupted when it returns to Python. If it
    does not return within the pool's ``shutdown_timeout``, the runner is ended and its other calls
    run again elsewhere. A coroutine is cancelled.

    Inside a call on a runner, this makes a nested call, which needs its own slot. The outer call
    releases its slot while it waits, and needs a slot again to continue. Nested calls do not
    inherit its timeout. Methods of placed objects keep their slot.

    Examples
    --------
    >>> dask_flame.call(train, 0.1, pool="gpu", timeout="2h")
    0.9
    >>> @dask_flame.call
    ... def total():
    ...     return sum(range(1000))
    >>> total
    499500
    """
    if fn is None:
        if args:
            raise TypeError("fn=None cannot be called; write call(fn, 1, 2)")
        return functools.partial(call, pool=pool, timeout=timeout, rerun=rerun, **kwargs)
    client, future = submitted(fn, args, kwargs, annotations_of(pool, timeout, rerun))
    return _wait(client, future)


def cast(
    fn: Callable[..., Any],
    /,
    *args: Any,
    pool: str | None = None,
    timeout: Duration | None = None,
    rerun: bool | None = None,
    **kwargs: Any,
) -> None:
    """Run a function on a runner without waiting for it.

    The result is dropped. A failure is logged and recorded in ``cluster.events``. The call
    continues if the client closes, and is lost if the cluster closes.

    Parameters
    ----------
    fn, *args, pool, timeout, rerun, **kwargs
        As in :func:`call`.

    Raises
    ------
    PoolError
        An argument is invalid, or there is no such pool.
    FlameError
        There is no client.

    Examples
    --------
    >>> dask_flame.cast(upload, "model.bin", rerun=False)
    """
    annotations = {**annotations_of(pool, timeout, rerun), "cast": True}
    _, future = submitted(fn, args, kwargs, annotations)
    fire_and_forget(future)
    future.release()


def place(cls: Callable[..., Any], /, *args: Any, pool: str | None = None, **kwargs: Any) -> Any:
    """Create an object that stays on a runner, and return a proxy for it.

    The object is a Dask actor. Methods of the proxy return futures; ``result()`` waits for the
    method's return value. Attributes of the class are fetched when they are read. The object
    occupies a slot and keeps its runner until the last proxy for it is deleted.

    Parameters
    ----------
    cls : callable
        Usually a class.
    *args, **kwargs
        Arguments of `cls`; futures are replaced by their results. If `cls` itself has a parameter
        ``pool``, use :func:`functools.partial`.
    pool : str, optional
        As in :func:`call`.

    Returns
    -------
    distributed.Actor
        The proxy, once the object exists; with an asynchronous client, an awaitable.

    Raises
    ------
    PoolError
        An argument is invalid, or there is no such pool.
    FlameError
        There is no client.

    Notes
    -----
    The object is not created again if its runner is lost; its methods then raise an error.

    Inside a call on a runner, the object needs its own slot while the call keeps its slot: its pool
    must have room.

    Examples
    --------
    >>> counter = dask_flame.place(collections.Counter, pool="cpu")
    >>> counter.update("abracadabra").result()
    """
    client, future = submitted(cls, args, kwargs, annotations_of(pool, None, None), actor=True)
    return _wait(client, future, placed=True)


def annotations_of(pool: Any, timeout: Any, rerun: Any) -> dict[str, Any]:
    """Return the task annotations for these options.

    Parameters
    ----------
    pool : str or None
    timeout : duration or None
    rerun : bool or None
        Options as in :func:`call`; None omits the annotation.

    Raises
    ------
    PoolError
        An option is invalid.
    """
    annotations: dict[str, Any] = {}
    if pool is not None:
        annotations["pool"] = word("pool", pool, "the name of a pool")
    if timeout is not None:
        annotations["timeout"] = seconds("timeout", timeout, zero=False)
    if rerun is not None:
        annotations["rerun"] = yes_or_no("rerun", rerun)
    return annotations


def submitted(
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    annotations: dict[str, Any],
    **options: Any,
) -> tuple[Client, Future]:
    """Submit a function to the current client, as a new call.

    Parameters
    ----------
    fn : callable
    args : tuple
    kwargs : dict
        Arguments of `fn`.
    annotations : dict
        Annotations of the task.
    **options
        Options of ``client.submit``.

    Returns
    -------
    tuple of (Client, Future)

    Raises
    ------
    PoolError
        There is no such pool.
    FlameError
        There is no client.
    """
    if not callable(fn):
        raise TypeError(f"fn={shown(fn)} cannot be called; write call(fn, 1, 2)")
    try:
        client = get_client()
    except ValueError:
        raise FlameError(
            "there is no Dask client, so nothing can run this; "
            "write client = Client(FlameCluster(max=8)) before it"
        ) from None
    check_pool(client, annotations)
    own = {name: kwargs[name] for name in kwargs.keys() & _options_of_submit()}
    if own:
        fn = functools.partial(fn, **own)
        kwargs = {name: value for name, value in kwargs.items() if name not in own}
    with dask.annotate(**annotations):
        return client, client.submit(fn, *args, pure=False, **options, **kwargs)


@functools.cache
def _options_of_submit() -> frozenset[str]:
    """Return the names of the parameters of ``client.submit``."""
    parameters = inspect.signature(Client.submit).parameters.values()
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return frozenset(p.name for p in parameters if p.kind not in variable)


def _wait(client: Client, future: Future, *, placed: bool = False) -> Any:
    if client.asynchronous:
        return _awaited(client, future, placed=placed)
    with _held(client, future):
        if placed:
            # An explicit `asynchronous` keeps the slot of a surrounding call; otherwise the object
            # could occupy it.
            return Placed(client.gather(future, asynchronous=False))
        return future.result()


async def _awaited(client: Client, future: Future, *, placed: bool) -> Any:
    with _held(client, future):
        if placed:
            return Placed(await client.gather(future, asynchronous=True))
        return await future


@contextlib.contextmanager
def _held(client: Client, future: Future) -> Iterator[None]:
    try:
        # Objects in the result, such as actors, bind themselves to the current client.
        with client.as_current():
            yield
    finally:
        # However the wait ended, this cancels a call that still runs.
        future.release()


def check_pool(client: Client, annotations: dict[str, Any]) -> None:
    """Raise PoolError if the client's cluster cannot apply these annotations."""
    if not annotations.keys() & {"pool", "timeout", "rerun"} or client.cluster is None:
        return
    # Imported here: runners do not need it, as their clients have no cluster.
    from dask_flame.driver.cluster import FlameCluster

    if not isinstance(client.cluster, FlameCluster):
        raise PoolError(
            f"pool=, timeout= and rerun= are a FlameCluster's, and this client's cluster is a "
            f"{type(client.cluster).__name__}; write client = Client(FlameCluster(max=8))"
        )
    pool = annotations.get("pool")
    if pool is not None and pool not in client.cluster.pools:
        names = ", ".join(map(repr, client.cluster.pools))
        raise PoolError(f"there is no pool {pool!r}; there are {names}")
