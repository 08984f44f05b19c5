"""What test_budget_watch.py calls on runners, without the imports of its tests (runner)."""

from __future__ import annotations

from typing import Any

from distributed import Event, get_worker


def held(event: str, *others: Any) -> str:
    """Run until the event is set."""
    Event(event).wait(600)
    return str(get_worker().name)


def works() -> str:
    return str(get_worker().name)
