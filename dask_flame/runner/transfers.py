"""Transfer results between runners, including those that cannot be sent (runner)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from typing import Any

from distributed import Worker
from distributed.metrics import time
from distributed.protocol import Serialize, Serialized, serialize
from distributed.worker import WORKER_ANY_RUNNING
from distributed.worker_state_machine import (
    GatherDepFailureEvent,
    GatherDepSuccessEvent,
    StateMachineEvent,
)

from dask_flame.serialization.failures import text_of
from dask_flame.serialization.packed import is_being_cancelled

#: Called with the key of a result that cannot be sent, and the reason.
Unsendable = Callable[[Any, str], None]


class SafeComm:
    """A connection that sends results, whatever they are.

    distributed writes an error in place of a result that cannot be sent, and another runner could
    then read none of the results in the message; here it gets the others. If such a result cannot
    even be shown in the error, distributed breaks the connection, and is asked again.

    Parameters
    ----------
    comm : distributed.comm.Comm
    unsendable : callable, optional
        Called for each result left out. None: write an error in its place.
    """

    def __init__(self, comm: Any, unsendable: Unsendable | None) -> None:
        self._comm = comm
        self._unsendable = unsendable

    def __getattr__(self, name: str) -> Any:
        return getattr(self._comm, name)

    async def write(self, message: Any, serializers: Any = None) -> Any:
        data = message["data"]
        try:
            return await self._write(message, data, serializers)
        except BaseException as error:
            self._pass_on(error)
        reasons = {key: _why_not(value, serializers) for key, value in data.items()}
        try:
            return await self._write(message, self._without(data, reasons), serializers)
        except BaseException as error:
            self._pass_on(error)
            # The results could be serialized a moment ago. Without an answer, the peer would retry.
            reasons = dict.fromkeys(data, text_of(error))
        return await self._write(message, self._without(data, reasons), serializers)

    async def _write(self, message: Any, data: Any, serializers: Any) -> Any:
        on_error = "message" if self._unsendable is None else "raise"
        message = {**message, "data": data}
        return await self._comm.write(message, serializers=serializers, on_error=on_error)

    def _pass_on(self, error: BaseException) -> None:
        """Raise an error again, unless a result caused it: in that case nothing was written."""
        cancelled = isinstance(error, asyncio.CancelledError) and is_being_cancelled()
        if cancelled or self._comm.closed():
            raise error

    def _without(self, data: Any, reasons: Mapping[Any, str]) -> dict[Any, Any]:
        """Return the results without those that cannot be sent, or with errors in their place."""
        fit = {key: value for key, value in data.items() if not reasons[key]}
        for key, why in reasons.items():
            if why and self._unsendable is not None:
                self._unsendable(key, why)
            elif why:
                fit[key] = Serialized({"serializer": "error"}, [why.encode()])
        return fit


def _why_not(value: Serialize, serializers: Any) -> str:
    """Return why a result cannot be sent; empty if it can."""
    try:
        serialize(value.data, serializers=serializers, on_error="raise")
        return ""
    except BaseException as error:
        return text_of(error.__cause__ or error)


def without_unreadable(
    worker: Worker, event: StateMachineEvent, keys: Collection[Any], unsendable: Unsendable
) -> StateMachineEvent:
    """Return the event for results from another runner, some of which may be unreadable.

    Parameters
    ----------
    worker : distributed.Worker
    event : StateMachineEvent
        distributed's event; for unreadable results, a failure that is reported to nobody.
    keys : collection of Key
        The results requested.
    unsendable : callable
        Called with each result that could not be read.
    """
    if not isinstance(event, GatherDepFailureEvent) or worker.status not in WORKER_ANY_RUNNING:
        return event
    # The other side still waits for a confirmation, and would take the next request for it.
    worker.rpc.remove(event.worker, reason="what it sent could not be read")
    for key in keys:
        unsendable(key, f"it could not be read on {worker.name}: {event.exception_text}")
    return GatherDepSuccessEvent(
        worker=event.worker,
        total_nbytes=event.total_nbytes,
        data={},
        stimulus_id=f"flame-unreadable-{time()}",
    )
