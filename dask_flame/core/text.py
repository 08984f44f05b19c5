"""Short texts for keys, sizes and durations, for people to read (all places)."""

from __future__ import annotations

import functools
import re
from typing import Any

from dask_flame.core.terminal_text import plain

# Tokens that distributed adds to keys to make them unique.
_TOKEN = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32}")


#: Before the settings behind a failure, at the end of its reason.
_ADVICE = "; relevant settings: "


def with_advice(why: str, settings: str) -> str:
    """Return the reason of a failure with the settings behind it.

    Examples
    --------
    >>> with_advice("no node has room. ", "cpus")
    'no node has room; relevant settings: cpus'
    """
    return f"{why.rstrip(' .')}{_ADVICE}{settings}"


def split_advice(why: str) -> tuple[str, str]:
    """Return the reason of a failure, and the settings behind it if it names them.

    Examples
    --------
    >>> split_advice("Fly has no room; relevant settings: region and cpus")
    ('Fly has no room', 'region and cpus')
    >>> split_advice("killed by SIGKILL")
    ('killed by SIGKILL', '')
    """
    said, _, settings = why.partition(_ADVICE)
    return said, settings


def label(key: Any) -> str:
    """Return a key as a short text, safe for a terminal."""
    if isinstance(key, tuple):
        return ", ".join(label(part) for part in key)
    return _TOKEN.sub(lambda token: token[0][:6], plain(str(key)))


def is_generated(key: Any) -> bool:
    """Return whether Dask has made a key, and not the user.

    Examples
    --------
    >>> is_generated("load-0123456789abcdef0123456789abcdef"), is_generated("the first")
    (True, False)
    """
    return type(key) is str and _TOKEN.search(key) is not None


def without_token(key: Any) -> str:
    """Return a key without the token that makes it unique.

    Examples
    --------
    >>> without_token("load-0123456789abcdef0123456789abcdef")
    'load'
    """
    text = plain(str(key))
    found = _TOKEN.search(text)
    return text if found is None else text[: found.start()].rstrip("-")


_DECIMAL = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_BINARY = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


def function_name(function: object) -> str:
    """Return the name of a function for messages, without values that it holds.

    Examples
    --------
    >>> function_name(memory), function_name(functools.partial(print, "a secret"))
    ('memory', 'print')
    """
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__name__", None) or type(function).__name__)


def memory(size: float, *, beside: float | None = None) -> str:
    """Return a number of bytes as a short text.

    Round sizes, as people write them, are shown in the units that make them short.

    Parameters
    ----------
    size : float
    beside : float, optional
        Another size shown next to this one; use the same kind of units.

    Examples
    --------
    >>> memory(314_572_800), memory(1.5e9), memory(123_456_789)
    ('300 MiB', '1.5 GB', '123 MB')
    >>> memory(123_456_789, beside=314_572_800)
    '118 MiB'
    """
    exact = exact_memory(size if beside is None else beside)
    units = _BINARY if exact is not None and exact.endswith("iB") else _DECIMAL
    if exact is not None and beside is None:
        return exact
    unit = next((unit for unit, scale in units.items() if size / scale < 999.5), list(units)[-1])
    number = size / units[unit]
    if beside is not None:
        # Precise enough for a reader to see when a sum exceeds the total.
        number = round(number, 1 if number < 100 else None)
        return f"{number:g} {unit}"
    digits = 1 if units[unit] >= 10**9 else 0
    return f"{number:.{digits}f} {unit}"


def exact_memory(size: float) -> str | None:
    """Return the shortest exact text for this size, with up to two decimals, or None.

    Examples
    --------
    >>> exact_memory(2**29), exact_memory(123_456_789)
    ('512 MiB', None)
    """
    ways = []
    for unit, scale in (_DECIMAL | _BINARY).items():
        for digits in range(3):
            number = f"{size / scale:.{digits}f}"
            if 1 <= float(number) < 1024 and int(float(number) * scale) == int(size):
                ways.append(f"{number} {unit}")
                break
    return min(ways, key=len, default=None)


def duration(seconds: float) -> str:
    """Return a number of seconds as a short text."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
