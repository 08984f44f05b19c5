"""Describe the calls that this process's Clients submit, and warn of stale keys (driver)."""

from __future__ import annotations

import contextvars
import functools
import logging
from typing import Any

from distributed import Client

from dask_flame.core.distributed_internals import calls_submitted, replace
from dask_flame.submission.describe import described
from dask_flame.submission.stale_keys import HeldKeys

logger = logging.getLogger("dask_flame")

#: Name of this part among the extensions of a Client.
NAME = "flame-submission"
#: The description of the calls that are being submitted.
_describing: contextvars.ContextVar[dict[str, Any] | None] = contextvars.ContextVar(
    "dask_flame_describing", default=None
)


def connect(client: Client) -> None:
    """Describe the calls of a Client whose scheduler takes descriptions."""
    client.extensions.setdefault(NAME, HeldKeys())
    _describe_with_calls()


def _describe_with_calls() -> None:
    """Let the Clients of this process describe their calls; once per process."""
    submit, send = Client._graph_to_futures, Client._send_to_scheduler
    if hasattr(submit, "dask_flame_describes"):
        return

    @functools.wraps(submit)
    def _graph_to_futures(self: Client, expr: Any, *args: Any, **kwargs: Any) -> Any:
        held = self.extensions.get(NAME)
        found = None if held is None or kwargs.get("actors") else calls_submitted(expr)
        if found is None:
            return submit(self, expr, *args, **kwargs)
        try:
            held.check(found, self.futures, _code_version(self))
            told = described(found)
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
        send(self, msg)

    _graph_to_futures.dask_flame_describes = True  # type: ignore[attr-defined]
    replace(Client, "_graph_to_futures", _graph_to_futures)
    replace(Client, "_send_to_scheduler", _send_to_scheduler)


def _code_version(client: Client) -> str | None:
    sender = client.extensions.get("flame-code")
    version: str | None = sender.announce() if hasattr(sender, "announce") else None
    return version
