"""Calls, casts, placed objects, and which pool they go to (driver, and inside calls on a runner).

All of it is Dask underneath: a call is a task, what governs it are annotations of the task, a
placed object is an actor. So the same annotations govern ``client.submit``, ``client.map``,
``dask.delayed`` and collections, by :func:`on`.
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
    """Govern everything that is submitted inside the block.

    Reaches ``client.submit`` and ``client.map``, executors made by ``client.get_executor()``, what
    :func:`call`, :func:`cast` and :func:`place` do, and ``dask.delayed`` objects and collections
    that are *computed* inside. What is only built inside and computed outside may be governed or
    not, as Dask's optimizations fuse tasks and drop what was noted of them.

    Parameters
    ----------
    pool : str, optional
        Run on this pool's runners. Without it: on those of the cluster's first pool.
    timeout : duration, optional
        Seconds, or ``"5m"``, that each task may execute. See :func:`call`.
    rerun : bool, optional
        False: a task whose runner was lost is not run again; it fails with
        :class:`dask_flame.RunnerLost`.

    Raises
    ------
    PoolError
        An argument is wrong; or, when the block is entered, the current client's FlameCluster has
        no such pool.

    Notes
    -----
    Blocks may be nested: what an inner one says wins over what an outer one says.

    Examples
    --------
    >>> with dask_flame.on("gpu", timeout="10m"):
    ...     futures = client.map(describe, stills)
    """
    annotations = annotations_of(pool, timeout, rerun)
    if not annotations:
        raise PoolError('on() was told nothing; write with dask_flame.on("gpu"):')
    return _governed(annotations)


@contextlib.contextmanager
def _governed(annotations: dict[str, Any]) -> Iterator[None]:
    try:
        client = get_client()
    except ValueError:
        pass  # whoever submits inside will need one
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
    """Run a function on a runner, wait for it, and return what it returns or raise what it raises.

    Over a block, as a decorator, it runs the function at once, and the name becomes its value.

    Parameters
    ----------
    fn : callable
        A coroutine function runs on the runner's event loop.
    *args, **kwargs
        Its arguments; futures among them are replaced by their results. For a function with
        parameters of its own that are called ``pool``, ``timeout`` or ``rerun``, write
        ``call(functools.partial(fn, timeout=3))``.
    pool : str, optional
        Run on this pool's runners; by default on those of the cluster's first pool.
    timeout : duration, optional
        Seconds, or ``"5m"``, that it may execute. The clock starts when its code begins to run:
        neither the wait for a runner nor the transfer of its inputs counts (the pool's
        ``boot_timeout`` governs the first); waiting for calls of its own does.
    rerun : bool, optional
        False: if its runner is lost, it is not run again and fails with
        :class:`dask_flame.RunnerLost`. By default it is run again.

    Returns
    -------
    object
        With an asynchronous client: an awaitable for it.

    Raises
    ------
    CallTimeout
        It was not done within `timeout`.
    RunnerLost
        It went down with its runner, too often or with ``rerun=False``.
    BootError
        No runner could start.
    PoolError
        An argument is wrong, or there is no such pool.
    FlameError
        There is no client.

    Notes
    -----
    It is never taken for the same as another call, so it always runs.

    Interrupting the driver's thread (the notebook's stop button, Ctrl-C), or cancelling the asyncio
    task that awaits it, cancels it. A call that is cancelled, or runs beyond its timeout, is
    interrupted: an exception that is not an :class:`Exception` is raised in its code, again every
    second until it ends, so that ``finally:`` and ``with`` do their work. What waits outside Python
    (``time.sleep``, ``subprocess.run``, a long computation in C) is interrupted when it returns to
    Python; if that does not happen within the pool's ``shutdown_timeout``, the runner is ended and
    the other calls on it run again elsewhere. A coroutine is cancelled.

    Inside a call on a runner it makes a nested call, which needs a slot as any other: the outer
    call gives up its own while it waits, and goes on when it has one again. Its timeout is not
    handed down. Methods of placed objects keep their slot.

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
    """Run a function on a runner, and forget it: returns at once.

    Takes what :func:`call` takes. What it returns is dropped; that it failed is logged, and is
    among ``cluster.events``. It goes on when the client closes, and is lost when the cluster does.

    Raises
    ------
    PoolError
        An argument is wrong, or there is no such pool.
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
    """Make an object on a runner, where it stays, and return a proxy for it.

    It is a Dask actor: a method of the proxy returns a future, whose ``result()`` waits for what
    the method returned on the runner; an attribute that its class has is fetched when it is read.
    It holds a slot, and keeps its runner, for as long as a proxy for it is held: ``del`` the last
    one to let it go.

    Parameters
    ----------
    cls : callable
        A class, as a rule.
    *args, **kwargs
        Its arguments; futures among them are replaced by their results. For parameters of its own
        that are called ``pool`` use :func:`functools.partial`.
    pool : str, optional
        As in :func:`call`.

    Returns
    -------
    distributed.Actor
        When the object has been made. With an asynchronous client: an awaitable for it.

    Raises
    ------
    PoolError
        An argument is wrong, or there is no such pool.
    FlameError
        There is no client.

    Notes
    -----
    It is not made anew: if its runner dies, its methods raise an error that says so.

    Inside a call on a runner it needs a slot besides that of the call, which is not given up for
    it: there must be room in its pool.

    Examples
    --------
    >>> counter = dask_flame.place(collections.Counter, pool="cpu")
    >>> counter.update("abracadabra").result()
    """
    client, future = submitted(cls, args, kwargs, annotations_of(pool, None, None), actor=True)
    return _wait(client, future, placed=True)


def annotations_of(pool: Any, timeout: Any, rerun: Any) -> dict[str, Any]:
    """What is noted of a task that these govern; those that are None are not."""
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
    """Have this run, as a call of its own; `options` are those of ``client.submit``."""
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
    """Names that ``client.submit`` would take for its own."""
    parameters = inspect.signature(Client.submit).parameters.values()
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return frozenset(p.name for p in parameters if p.kind not in variable)


def _wait(client: Client, future: Future, *, placed: bool = False) -> Any:
    if client.asynchronous:
        return _awaited(client, future, placed=placed)
    with _held(client, future):
        if placed:
            # Said explicitly, it keeps the slot of the call that this is in, if it is in one: the
            # object might take it.
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
        # What is in the result, an actor for one, binds itself to the client that is current.
        with client.as_current():
            yield
    finally:
        # Whatever ended the wait: what is still running is cancelled by this.
        future.release()


def check_pool(client: Client, annotations: dict[str, Any]) -> None:
    """Refuse what the client's cluster has no pool for."""
    if not annotations.keys() & {"pool", "timeout", "rerun"} or client.cluster is None:
        return
    # Imported here: a runner has no use for it, and its clients have no cluster.
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
