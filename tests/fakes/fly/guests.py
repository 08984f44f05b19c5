"""The sizes that a machine of the fake Fly may have (test process)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.fakes.fly.errors import Refused, invalid

#: MiB for each CPU: least and most.
_MEMORY = {"shared": (256, 2048), "performance": (2048, 8192)}
_CPUS = {"shared": (1, 2, 4, 6, 8), "performance": (1, 2, 4, 6, 8, 10, 12, 14, 16)}
#: The presets of the deprecated field ``size``.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    f"{name}-{cpus}x": {"cpu_kind": kind, "cpus": cpus, "memory_mb": cpus * _MEMORY[kind][0]}
    for kind, name in (("shared", "shared-cpu"), ("performance", "performance"))
    for cpus in _CPUS[kind]
}


def guest_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the guest that a machine's configuration asks for, with its defaults.

    Parameters
    ----------
    config : mapping
        ``config`` of a create or update request.

    Raises
    ------
    Refused
        With status 400 if there is no such size, and with 422 if GPUs are asked for.

    Examples
    --------
    >>> guest_of({"guest": {"cpu_kind": "performance", "cpus": 2, "memory_mb": 4096}})
    {'cpu_kind': 'performance', 'cpus': 2, 'memory_mb': 4096}
    >>> guest_of({"size": "shared-cpu-2x"})
    {'cpu_kind': 'shared', 'cpus': 2, 'memory_mb': 512}
    """
    given = dict(config.get("guest") or {})
    if not given:
        size = config.get("size") or "shared-cpu-1x"
        if size not in PRESETS:
            raise invalid(f"invalid config.size: {size}")
        given = dict(PRESETS[size])
    if given.get("gpu_kind") or given.get("gpus"):
        raise Refused(422, "GPU machines are not available: they were withdrawn on 2026-08-01")
    kind, cpus = given.get("cpu_kind", "shared"), given.get("cpus", 1)
    if kind not in _MEMORY:
        raise invalid(f"invalid config.guest.cpu_kind: {kind}")
    if cpus not in _CPUS[kind]:
        raise invalid(f"invalid config.guest.cpus: {cpus}")
    least, most = (cpus * mebibytes for mebibytes in _MEMORY[kind])
    memory = given.get("memory_mb", least)
    if memory < least:
        raise invalid(f"invalid config.guest.memory_mb, minimum required {least} MiB, got {memory}")
    if memory > most:
        raise invalid(f"invalid config.guest.memory_mb, maximum allowed {most} MiB, got {memory}")
    if memory % 256:
        raise invalid(f"invalid config.guest.memory_mb: {memory} is no multiple of 256 MiB")
    return {**given, "cpu_kind": kind, "cpus": cpus, "memory_mb": memory}
