"""Quantities in the notation of Kubernetes, which repeats them in messages; pure (driver).

https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
"""

from __future__ import annotations

from dask.utils import parse_bytes

from dask_flame.core.text import memory

_BINARY = {f"{unit}i": 1024**power for power, unit in enumerate("KMGT", 1)}
_UNITS = _BINARY | {unit: 1000**power for power, unit in enumerate("kMGT", 1)}


def cpu_quantity(cpus: float) -> str:
    """Return a number of CPUs as a quantity.

    Examples
    --------
    >>> cpu_quantity(2), cpu_quantity(0.5)
    ('2', '500m')
    """
    return str(int(cpus)) if cpus == int(cpus) else f"{round(cpus * 1000)}m"


def memory_quantity(size: int) -> str:
    """Return a number of bytes as a quantity, in the largest unit without a fraction.

    Examples
    --------
    >>> memory_quantity(300 * 2**20), memory_quantity(8_000_000_000), memory_quantity(1_234_567)
    ('300Mi', '8G', '1234567')
    """
    whole = [(size // scale, unit) for unit, scale in _UNITS.items() if size % scale == 0]
    number, unit = min(whole, default=(size, ""))
    return f"{number}{unit}"


def memory_text(quantity: str) -> str:
    """Return a quantity of memory as text for people; unchanged if it cannot be parsed.

    Examples
    --------
    >>> memory_text("300Mi")
    '300 MiB'
    """
    try:
        return memory(int(parse_bytes(quantity)))
    except ValueError:
        return quantity
