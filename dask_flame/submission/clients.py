"""Describe the calls that this process's Clients submit, and warn of stale keys (driver)."""

from __future__ import annotations

import contextvars
import functools
import logging
from collections.abc import Mapping
from itertools import islice
from typing import Any

from dask.typing import Key
from distributed import Client
from distributed.client import ClosedClientError

from dask_flame.core.distributed_internals import calls_submitted, replace
from dask_flame.submission.describe import described
from dask_flame.submission.stale_keys import HeldKeys

logger = logging.getLogger("dask_flame")

#: Name of this part among the extensions of a Client.
NAME = "flame-submission"
#: Maximum number of calls of a Client that are remembered.
_MOST = 10_000
#: The description of the calls that are being submitted.
_describing: contextvars.ContextVar[dict[str, Any] | None] = contextvars.ContextVar(
    "dask_flame_describing", default=None
)


class Submissions:
    """The calls that a Client has submitted.

    Attributes
    ----------
    keys : HeldKeys
    calls : dict
        Function, arguments and parameters of the latest calls, by key.
    """

    def __init__(self) -> None:
        self.keys = HeldKeys()
        self.calls: dict[Key, tuple[str, str, Mapping[str, Any]]] = {}

    def add(self, description: Mapping[str, Any]) -> None:
        """Remember described calls; beyond a limit the oldest are forgotten."""
        function = description["function"]
        for key, *about in description["calls"]:
            self.calls.pop(key, None)
            self.calls[key] = (function, *about)
        for key in list(islice(self.calls, max(0, len(self.calls) - _MOST))):
            del self.calls[key]


def connect(client: Client) -> None:
    """Describe the calls of a Client whose scheduler takes descriptions."""
    client.extensions.setdefault(NAME, Submissions())
    _describe_with_calls()


def submissions_of(client: Client) -> Submissions | None:
    """Return the calls that a Client has submitted; None if they are not described."""
    submissions: Submissions | None = client.extensions.get(NAME)
    return submissions


def _describe_with_calls() -> None:
    """Let the Clients of this process describe their calls; once per process."""
    submit, send = Client._graph_to_futures, Client._send_to_scheduler
    if hasattr(submit, "dask_flame_describes"):
        return

    @functools.wraps(submit)
    def _graph_to_futures(self: Client, expr: Any, *args: Any, **kwargs: Any) -> Any:
        known = submissions_of(self)
        found = None if known is None or kwargs.get("actors") else calls_submitted(expr)
        if found is None or known is None:
            return submit(self, expr, *args, **kwargs)
        try:
            if found.own_keys:
                known.keys.check(found, self.futures, _code_version(self))
            told = described(found)
            known.add(told)
        except UserWarning:
            raise  # where warnings are errors
        except Exception:
            # A description is a convenience; the calls run without it.
            logger.debug("calls could not be described", exc_info=True)
            told = None
        token = _describing.set(told)
        try:
            return submit(self, expr, *args, **kwargs)
        finally:
            _describing.reset(token)

    @functools.wraps(send)
    def _send_to_scheduler(self: Client, msg: dict[str, Any]) -> None:
        told = _describing.get()
        if told is not None and msg.get("op") == "update-graph":
            msg = {**msg, "flame_calls": told}
        try:
            send(self, msg)
        except ClosedClientError as error:
            # Another process may have its cluster, or it has ended.
            if why := getattr(self.cluster, "over", ""):
                raise ClosedClientError(f"{error} The cluster has ended: {why}") from None
            raise

    _graph_to_futures.dask_flame_describes = True  # type: ignore[attr-defined]
    replace(Client, "_graph_to_futures", _graph_to_futures)
    replace(Client, "_send_to_scheduler", _send_to_scheduler)


def _code_version(client: Client) -> str | None:
    sender = client.extensions.get("flame-code")
    version: str | None = sender.announce() if hasattr(sender, "announce") else None
    return version
