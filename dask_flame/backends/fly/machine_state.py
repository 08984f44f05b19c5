"""What the state and the events of a machine mean; pure (driver)."""

from __future__ import annotations

import signal as signals
from typing import Any

from dask_flame.backends.fly.api.client import events_of
from dask_flame.backends.fly.api.types import Machine

#: States of a machine whose process is not there yet.
BEFORE = frozenset({"created", "starting", "replacing"})
#: States of a machine whose process has ended, and which stays until it is destroyed.
ENDED = frozenset({"stopped", "suspended", "failed"})
#: States in which a machine is as good as gone, or gone.
GONE = frozenset({"destroying", "destroyed"})

#: Events with which another life of a machine begins.
_BEGINNINGS = frozenset({"launch", "start", "update"})
_DESTROYED = "its machine was destroyed by somebody else"


def is_gone(machine: Machine) -> bool:
    """Return whether Fly has removed a machine."""
    return machine.get("state") == "destroyed"


def has_ended(machine: Machine) -> bool:
    """Return whether the process of a machine that was started has ended."""
    state = machine.get("state") or ""
    return state in ENDED or (state in GONE and exit_event(machine) is not None)


def exit_event(machine: Machine) -> dict[str, Any] | None:
    """Return what Fly says of the exit of a machine's process; None if it has not ended.

    Exits before the last start do not count: a machine of the reserve may have run before.
    """
    for event in events_of(machine):
        if event.get("type") in _BEGINNINGS:
            return None
        if event.get("type") != "exit":
            continue
        request = event.get("request") or {}
        monitor = request.get("MonitorEvent") or request.get("monitor_event") or {}
        found = request.get("exit_event") or monitor.get("exit_event")
        if isinstance(found, dict):
            return found
    return None


def _destroyed_first(machine: Machine) -> bool:
    """Return whether somebody asked for the removal of a machine before its process ended."""
    ended = False
    for event in events_of(machine):
        kind = event.get("type")
        if kind in _BEGINNINGS:
            return False
        if kind == "destroy" and ended:
            return True
        ended = ended or kind == "exit"
    return False


def why_ended(machine: Machine | None, *, ending: bool = False) -> str:
    """Return the reason of a machine's end.

    Parameters
    ----------
    machine : Machine or None
        As the API shows it last; None if it does not know it any more.
    ending : bool, default False
        Whether this driver has asked for the end.
    """
    event = None if machine is None else exit_event(machine)
    if event is not None:
        if event.get("oom_killed"):
            return f"ran out of memory (limit {_limit(machine)}); relevant settings: memory"
        if not ending and machine is not None and _destroyed_first(machine):
            return _DESTROYED  # its process was killed for that
        return _exit_reason(event)
    if ending:
        return "ended by force"
    if machine is not None and machine.get("state") == "failed":
        return f"its machine has failed{_last_words(machine)}"
    if machine is not None and machine.get("state") in ENDED:
        return f"its machine is {machine['state']}"
    return _DESTROYED


def ended_well(machine: Machine) -> bool:
    """Return whether the process of a machine ended by itself with code 0."""
    event = exit_event(machine)
    if event is None or event.get("oom_killed"):
        return False
    return _exit_reason(event) == "exit code 0"


def _exit_reason(event: dict[str, Any]) -> str:
    code, signal = _number(event, "exit_code"), _number(event, "signal")
    guest_signal = _number(event, "guest_signal")
    # A signal that Fly sent itself is in one of two fields, and -1 in the other.
    number = signal if signal > 0 else guest_signal
    if number <= 0 and code > 128:
        number = code - 128
    if number > 0:
        try:
            return f"killed by {signals.Signals(number).name}"
        except ValueError:
            return f"killed by signal {number}"
    why = f"exit code {code}"
    error = str(event.get("error") or event.get("guest_error") or "").strip()
    return f"{why}: {error}" if error else why


def _limit(machine: Machine | None) -> str:
    guest = ((machine or {}).get("config") or {}).get("guest")
    return f"{guest['memory_mb']} MiB" if guest and "memory_mb" in guest else "unknown"


def _number(event: dict[str, Any], name: str) -> int:
    value = event.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else -1


def _last_words(machine: Machine) -> str:
    """Return what the last event of a machine says, as far as it says something."""
    for event in events_of(machine):
        request = event.get("request") or {}
        for key in ("error", "message", "reason"):
            if text := str(request.get(key) or "").strip():
                return f": {text}"
        return f" ({event.get('type')}: {event.get('status')})"
    return ""
