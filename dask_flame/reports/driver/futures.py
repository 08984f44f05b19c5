"""Check the futures passed to ``stream()`` and ``watch()`` (driver)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from distributed import Client, Future

from dask_flame.core.option_checks import shown
from dask_flame.errors import FlameError


def futures_of(given: Any, what: str, use: str) -> tuple[list[Future], Client | None]:
    """Return the futures as a list, and their client; None if there are no futures.

    Parameters
    ----------
    given : Future or iterable of Future
    what : str
        Name of the function that received them, for error messages.
    use : str
        Example of correct use, for error messages.

    Returns
    -------
    tuple of (list of Future, Client or None)

    Raises
    ------
    TypeError
        `given` contains something other than futures.
    FlameError
        The futures belong to more than one client.
    """
    if isinstance(given, Future):
        given = [given]
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise TypeError(_refusal(given, what, use))
    futures = list(given)
    for future in futures:
        if not isinstance(future, Future):
            raise TypeError(_refusal(future, what, use))
    clients = {id(future.client): future.client for future in futures}
    if len(clients) > 1:
        raise FlameError(
            f"these futures are of {len(clients)} clients, and {what}() follows one; write a line "
            f"for each client's futures: {use}"
        )
    return futures, next(iter(clients.values()), None)


def _refusal(given: object, what: str, use: str) -> str:
    return (
        f"{what}() takes futures, not {type(given).__name__} (futures={shown(given)}); "
        f"a line that works: {use}"
    )
