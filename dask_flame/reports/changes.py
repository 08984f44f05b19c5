"""What is told of a store's changes; no Dask in it (anywhere)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from dask.typing import Key

from dask_flame.reports.wire import Batch

logger = logging.getLogger("dask_flame")

What = Literal["reports", "begin", "end", "renewed"]
State = Literal["running", "done", "failed", "cancelled", "lost"]


@dataclass(frozen=True, slots=True)
class Change:
    """One change of a :class:`ReportStore`.

    Attributes
    ----------
    what : {"reports", "begin", "end", "renewed"}
        Reports came, in `batch`; a known call begins to run again; its `state` has changed,
        mostly as it has ended; or all that is known of it was taken from another store, and
        anything may be different: :meth:`ReportStore.get` has it.
    key : Key
        The call's.
    attempt : int
        The call's attempt that this is about.
    state : {"running", "done", "failed", "cancelled", "lost"}
        The call's state after the change.
    at : float
        Unix time, in seconds: of a beginning or an end by the scheduler's clock, of reports the
        first one's by the runner's.
    batch : Batch or None
        The reports.
    why : str
        What the exception was, short, of a call that has failed.
    """

    what: What
    key: Key
    attempt: int
    state: State
    at: float
    batch: Batch | None = None
    why: str = ""

    def pack(self) -> dict[str, Any]:
        """It, as what msgpack takes."""
        packed = {name: getattr(self, name) for name in _FIELDS}
        if self.batch is not None:
            packed["batch"] = {name: getattr(self.batch, name) for name in _BATCH}
        return packed

    @staticmethod
    def unpack(packed: Mapping[str, Any]) -> Change:
        """What was packed."""
        batch = packed["batch"]
        return Change(**{**packed, "batch": None if batch is None else Batch(**batch)})


_FIELDS = tuple(field.name for field in fields(Change))
_BATCH = tuple(field.name for field in fields(Batch))


class Subscribers:
    """Those who are told of changes; one that fails is told of nothing more."""

    def __init__(self) -> None:
        self._callbacks: tuple[Callable[[Change], object], ...] = ()

    def __bool__(self) -> bool:
        return bool(self._callbacks)

    def add(self, callback: Callable[[Change], object]) -> None:
        self._callbacks = (*self._callbacks, callback)

    def remove(self, callback: Callable[[Change], object]) -> None:
        self._callbacks = tuple(c for c in self._callbacks if c != callback)

    def tell(self, change: Change) -> None:
        for callback in self._callbacks:
            try:
                callback(change)
            except Exception:
                self.remove(callback)
                logger.exception("a subscriber of reports has failed, and is told nothing more")
