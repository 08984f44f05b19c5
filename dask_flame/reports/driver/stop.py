"""``stop()``: end calls kindly, at their next report (driver)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dask.typing import Key
from distributed import Client, Future, default_client

from dask_flame.core.client_ids import ONLY_LOOKS, is_observer
from dask_flame.core.messages import STOP
from dask_flame.core.option_checks import shown, yes_or_no
from dask_flame.core.terminal_text import plain
from dask_flame.errors import FlameError, PoolError
from dask_flame.reports.driver.futures import futures_of

#: Maximum number of characters of a reason.
_LONGEST = 200


def stop(
    futures: Future | str | Iterable[Future | str], *, raises: bool = True, why: str = ""
) -> Any:
    """End calls kindly: their next :func:`dask_flame.report` tells them to stop.

    Parameters
    ----------
    futures : Future, str, or iterable of both
        Futures of one client, on a FlameCluster or any other Dask cluster with the
        :class:`Reports` plugin. A string is the key of a call, as in the attribute ``key`` of a
        :class:`Report`; its future must be held in this process.
    raises : bool, default True
        Whether :func:`dask_flame.report` raises :class:`CallStopped` in the calls. If False, it
        returns False instead of True, and the calls should return by themselves.
    why : str, optional
        The reason, in one line: it is in the error of the calls, and on the page ``/flame``.

    Returns
    -------
    None
        Once the scheduler knows. With an asynchronous client: an awaitable of it.

    Raises
    ------
    FlameError
        The futures belong to more than one client, or to one that only observes; the client holds
        no future of a key; or the cluster has no :class:`Reports` plugin.
    TypeError
        `futures` contains something other than futures and keys.
    PoolError
        `why` is not a text.

    Notes
    -----
    A call that has begun is stopped at its next report, in whichever thread or child process makes
    it; a call that never reports runs to its end. It may catch :class:`CallStopped` and return a
    result, which its future then gives; it is done as usual. If :class:`CallStopped` leaves the
    call, it is the error of its future, and the call counts as ``cancelled``, not as ``failed``:
    ``client.gather(futures, errors="skip")`` leaves it out. It is not retried. If its runner ends,
    it is stopped again on the next one.

    :class:`CallStopped` is an Exception, so that the code of a call can clean up as for any other
    error. An ``except Exception`` in a training loop may swallow it; but every further report
    raises it again.

    A call that waits for a runner does not begin: its future fails with :class:`CallStopped`. A
    call that has ended is left as it is. Of a call and the calls that it has submitted, only those
    whose futures are given are stopped.

    Examples
    --------
    >>> futures = client.map(train, rates)
    >>> for r in dask_flame.stream(futures):
    ...     if r.step >= 10 and r.values["loss"] > 1:
    ...         dask_flame.stop(r.key)
    """
    given, client = futures_of(
        _with_futures(futures), "stop", "dask_flame.stop(client.submit(train, 0.1))"
    )
    how = "raise" if yes_or_no("raises", raises) else "return"
    if not isinstance(why, str):
        raise PoolError(
            f"why={shown(why)} is not a text; write dask_flame.stop(future, why='it is too slow')"
        )
    # Other programs may have made it, with characters that no message can carry.
    why = why.encode(errors="backslashreplace").decode()
    if reason := plain(" ".join(why.split()))[:_LONGEST]:
        how = f"{how} {reason}"
    if client is None:
        return None
    if is_observer(client.id):
        raise FlameError(f"stop() {ONLY_LOOKS}")
    keys = [future.key for future in given if future.status == "pending"]
    return client.sync(_stop, client, keys, how)


def _with_futures(given: Any) -> Any:
    """Return what was given, with a future in place of each key.

    Raises
    ------
    FlameError
        There is no client, or it holds no future of a key.
    """
    if isinstance(given, str):
        given = [given]
    if isinstance(given, Future | bytes) or not isinstance(given, Iterable):
        return given
    several = list(given)
    if not any(isinstance(each, str) for each in several):
        return several
    of_futures = (each.client for each in several if isinstance(each, Future))
    try:
        client = next(of_futures, None) or default_client()
    except ValueError:
        raise FlameError(
            "stop() got a key, and there is no Client; write dask_flame.stop(future)"
        ) from None
    return [_future(each, client) if isinstance(each, str) else each for each in several]


def _future(key: str, client: Client) -> Future:
    if key not in client.futures:
        raise FlameError(
            f"stop() got the key {shown(key)}, of which this Client holds no future: keep the "
            "futures until the calls have ended; or write dask_flame.stop(future), if the future "
            "is of another Client"
        )
    return Future(key, client)


async def _stop(client: Client, keys: list[Key], how: str) -> None:
    if keys and await getattr(client.scheduler, STOP)(keys=keys, how=how, client=client.id) is None:
        raise FlameError(
            "this cluster has no Reports plugin, so calls cannot be stopped at their reports; "
            "write client.register_plugin(dask_flame.Reports())"
        )
