"""Refuse what observers ask for and only a driver may do (scheduler).

An observer's own process refuses it first, see :mod:`dask_flame.driver.connect.observer`. This
finds the role in the session that a client has registered, or in the id with which it asks, so it
holds for other ways to the scheduler, too. It prevents mistakes. It is no protection: who can
connect may register as a driver.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import wraps
from typing import Any

from distributed import Scheduler
from distributed.protocol import pickle

from dask_flame.core.client_ids import ONLY_LOOKS, is_observer
from dask_flame.errors import FlameError

#: Requests that change something, and name their client.
_REQUESTS = ("scatter", "retry", "restart", "restart_workers")


def refuse_observers(scheduler: Scheduler) -> None:
    """Refuse requests of observers to change something."""
    for name in _REQUESTS:
        scheduler.handlers[name] = _refusing(name, scheduler.handlers[name])
    scheduler.stream_handlers["cancel-keys"] = _ignoring(scheduler.stream_handlers["cancel-keys"])


def refuse_graph(scheduler: Scheduler, client: str, keys: Collection[Any]) -> None:
    """Fail the calls that an observer has submitted, before any of them is known."""
    error = FlameError(f"submit() {ONLY_LOOKS}")
    for key in keys:
        told = {"op": "task-erred", "key": key, "exception": pickle.dumps(error), "traceback": None}
        scheduler.report(told, client=client)


def _refusing(name: str, handler: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(handler)
    def request(*args: Any, client: str | None = None, **kwargs: Any) -> Any:
        if is_observer(client):
            raise FlameError(f"{name}() {ONLY_LOOKS}")
        return handler(*args, client=client, **kwargs)

    return request


def _ignoring(handler: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(handler)
    def message(*args: Any, client: str, **kwargs: Any) -> Any:
        # Nobody waits for an answer to such a message.
        return None if is_observer(client) else handler(*args, client=client, **kwargs)

    return message
