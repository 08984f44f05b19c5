"""Notifications of changes in a report store; without Dask (all places)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from dask.typing import Key

from dask_flame.reports.wire import Batch

logger = logging.getLogger("dask_flame")

What = Literal["reports", "begin", "end", "renewed"]
State = Literal["waiting", "running", "done", "failed", "cancelled", "lost"]


@dataclass(frozen=True, slots=True)
class Change:
    """One change of a :class:`ReportStore`.

    Attributes
    ----------
    what : {"reports", "begin", "end", "renewed"}
        ``reports``: new reports arrived, in `batch`. ``begin``: a known call runs again. ``end``:
        the `state` of the call changed, usually because it ended. ``renewed``: the record of the
        call was loaded from another store and may differ in everything; read it with
        :meth:`ReportStore.get`.
    key : Key
        Key of the call.
    attempt : int
        Attempt of the call that changed.
    state : {"running", "done", "failed", "cancelled", "lost"}
        State of the call after the change.
    at : float
        Unix time in seconds. For ``begin`` and ``end`` by the scheduler's clock; for ``reports``
        the time of the first report, by the runner's clock.
    batch : Batch or None
        The new reports.
    why : str
        Short text of the exception, if the call failed.
    """

    what: What
    key: Key
    attempt: int
    state: State
    at: float
    batch: Batch | None = None
    why: str = ""

    def pack(self) -> dict[str, Any]:
        """Return the change as plain values for msgpack."""
        packed = {name: getattr(self, name) for name in _FIELDS}
        if self.batch is not None:
            packed["batch"] = {name: getattr(self.batch, name) for name in _BATCH}
        return packed

    @staticmethod
    def unpack(packed: Mapping[str, Any]) -> Change:
        """Return the change from the values that :meth:`pack` returned."""
        batch = packed["batch"]
        return Change(**{**packed, "batch": None if batch is None else Batch(**batch)})


_FIELDS = tuple(field.name for field in fields(Change))
_BATCH = tuple(field.name for field in fields(Batch))


class Subscribers:
    """Callbacks that receive each change; a callback that raises is removed."""

    def __init__(self) -> None:
        self._callbacks: tuple[Callable[[Change], object], ...] = ()

    def __bool__(self) -> bool:
        return bool(self._callbacks)

    def add(self, callback: Callable[[Change], object]) -> None:
        self._callbacks = (*self._callbacks, callback)

    def remove(self, callback: Callable[[Change], object]) -> None:
        self._callbacks = tuple(c for c in self._callbacks if c != callback)

    def notify(self, change: Change) -> None:
        for callback in self._callbacks:
            try:
                callback(change)
            except Exception:
                self.remove(callback)
                logger.exception("a subscriber of reports has failed, and is told nothing more")
