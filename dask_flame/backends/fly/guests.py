"""The sizes of Fly's machines; pure (driver)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from dask_flame.backends.fly.api.types import Guest
from dask_flame.core.text import memory as size_text
from dask_flame.errors import PoolError

_MIB = 2**20


@dataclass(frozen=True)
class CpuKind:
    """A kind of virtual CPU.

    Attributes
    ----------
    cpus : tuple of int
        The numbers of CPUs that a machine may have.
    least, most : int
        Memory for each CPU, in MiB.
    step : int
        What the memory of a machine is a multiple of, in MiB.
    """

    cpus: tuple[int, ...]
    least: int
    most: int
    step: int


#: https://fly.io/docs/machines/guides-examples/machine-sizing, the cheaper kind first.
KINDS: Mapping[str, CpuKind] = {
    "shared": CpuKind((1, 2, 4, 6, 8), 256, 2048, 256),
    "performance": CpuKind((1, 2, 4, 6, 8, 10, 12, 14, 16), 2048, 8192, 1024),
}
#: Memory of a runner whose pool names none, in bytes: Python, Dask and a little data.
DEFAULT_MEMORY = 2**30


def guest(cpus: float | None, memory: int | None, kind: str | None = None) -> Guest:
    """Return the smallest machine with these CPUs and this memory.

    Without a kind, it is the cheapest that is large enough: "shared", else "performance".

    Parameters
    ----------
    cpus : float or None
        A fraction counts as one; None as one.
    memory : int or None
        Bytes. None: 1 GiB, or what the CPUs come with if that is more.
    kind : str, optional
        One of :data:`KINDS`.

    Raises
    ------
    PoolError
        If there is no such machine.

    Examples
    --------
    >>> guest(None, None)
    {'cpu_kind': 'shared', 'cpus': 1, 'memory_mb': 1024}
    >>> guest(2, 8 * 2**30)
    {'cpu_kind': 'shared', 'cpus': 4, 'memory_mb': 8192}
    >>> guest(2, 8 * 2**30, "performance")
    {'cpu_kind': 'performance', 'cpus': 2, 'memory_mb': 8192}
    """
    wanted = math.ceil((memory or DEFAULT_MEMORY) / _MIB)
    for name, known in _kinds(kind):
        for count in known.cpus:
            if count < (cpus or 1) or count * known.most < wanted:
                continue
            amount = max(count * known.least, math.ceil(wanted / known.step) * known.step)
            return {"cpu_kind": name, "cpus": count, "memory_mb": amount}
    name, known = list(_kinds(kind))[-1]
    count = known.cpus[-1]
    said = ", ".join(
        [
            *([f"cpus={cpus:g}"] if cpus else []),
            *([f"memory={size_text(memory)!r}"] if memory else []),
            *([f"cpu_kind={kind!r}"] if kind else []),
        ]
    )
    largest = f'cpus={count}, memory="{count * known.most // 1024} GiB"'
    more = "" if kind == name else f', cpu_kind="{name}"'
    raise PoolError(f"{said}: Fly has no machine of this size; its largest is {largest}{more}")


def _kinds(kind: str | None) -> Iterator[tuple[str, CpuKind]]:
    return ((name, known) for name, known in KINDS.items() if kind in (None, name))
