"""What an application answers to a cell and to Tab, as values (driver)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from dask_flame.errors import CellError


@dataclass(frozen=True)
class CellOutcome:
    """How a cell has ended.

    Attributes
    ----------
    ok : bool
    value : dict
        Display data of the last expression's value, by MIME type; empty without a value.
    metadata : dict
        Of the display data.
    error : CellError or None
    seconds : float
        How long it has run.
    number : int
        Number of the cell in this attachment.
    """

    ok: bool
    value: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    error: CellError | None = None
    seconds: float = 0.0
    number: int = 0


@dataclass(frozen=True)
class Completions:
    """Names that fit at a place in code.

    Attributes
    ----------
    matches : tuple of str
        Each replaces the characters from ``start`` to ``end``.
    start, end : int
    types : tuple of str
        ``function``, ``module``, ``class``, ``instance`` and the like; empty where unknown.
    signatures : tuple of str
        Of functions; empty for others.
    """

    matches: tuple[str, ...]
    start: int
    end: int
    types: tuple[str, ...]
    signatures: tuple[str, ...]

    def __iter__(self) -> Iterator[str]:
        return iter(self.matches)

    def __len__(self) -> int:
        return len(self.matches)

    def __contains__(self, name: object) -> bool:
        return name in self.matches


def outcome(answer: dict[str, Any]) -> CellOutcome:
    """Return how a cell has ended, from the answer of the application."""
    failed = answer.get("error")
    error = None
    if failed is not None:
        kind = type(str(failed["name"]), (CellError,), {"__module__": "builtins"})
        error = kind(str(failed["name"]), str(failed["value"]), list(failed["traceback"]))
    return CellOutcome(
        ok=error is None,
        value=answer.get("value") or {},
        metadata=answer.get("metadata") or {},
        error=error,
        seconds=float(answer.get("seconds", 0.0)),
        number=int(answer.get("cell", 0)),
    )
