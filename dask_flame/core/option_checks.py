"""Checks of users' values; each error has the option's name, the value and a line that works."""

from __future__ import annotations

import math
import re
from contextvars import ContextVar
from datetime import timedelta
from numbers import Real
from typing import Any

from dask.utils import parse_bytes, parse_timedelta

from dask_flame.core.ranges import LONGEST, largest_size, least_size, most, option, shortest
from dask_flame.errors import PoolError

Duration = str | float | timedelta

EXAMPLES = {
    "minimum": "0",
    "maximum": "8",
    "disconnect_grace": '"10s"',
    "grace": '"10s"',
    "first": '"5m"',
    "every": '"1s"',
    "silence": '"60s"',
    "max_lifetime": '"8h"',
    "code": '["."]',
    "flame.code.limit": '"64 MiB"',
    "flame.code.file-limit": '"8 MiB"',
    "flame.inline-result": '"32 KiB"',
    "name": '"my-cluster"',
    "namespace": '"my-team"',
    "context": '"my-cluster"',
    "n": "4",
    "n_workers": "4",
    **dict.fromkeys(("cores", "minimum_cores", "maximum_cores"), "4"),
    **dict.fromkeys(("minimum_memory", "maximum_memory"), '"4 GiB"'),
    "backend": '"local"',
    "scheduler": '"auto"',
    "scheduler.cpus": "0.5",
    "scheduler.timeout": '"5m"',
    "scheduler.memory": '"2 GiB"',
    "scheduler.service": '"LoadBalancer"',
    "dashboard_address": '"127.0.0.1:8787"',
    "asynchronous": "False",
    "security": "True",
    "silence_logs": "logging.WARNING",
    "loop": "None",
    "calls": "1_000",
    "names": "1_000",
    "hide_random": "True",
    "keep_runs": "1_000",
    "keep_age": '"90 days"',
    "keep_size": '"1 GiB"',
    "raises": "False",
    "points": "4_000",
    "total": "5_000_000",
    "limit": "20_000",
    "burst": "200",
    "rate": "20",
    "total_burst": "1_000",
    "total_rate": "200",
    "limits": "None",
    "to": "print",
    "on_lapse": "print",
    "on_return": "print",
    "items": "range(100)",
    "metric": '"loss"',
    "n_trials": "200",
    "n_jobs": "8",
    "text": '"deep, rate=0.1"',
    "best": '"min"',
    "log": "True",
    "home_limit": '"16 GiB"',
    "files": '{"data/": "/data"}',
    "flame.files.limit": '"256 MiB"',
    "packages": '"check"',
    "flame.packages": '"check"',
    "pools": '{"cpu": Pool(max=8), "gpu": Pool(max=2, gpus=1)}',
    "pool": '"gpu"',
    "timeout": '"5m"',
    "rerun": "False",
    "budget": '"20 USD"',
    "flame.budget": '"20 USD"',
    "flame.currency": '"$"',
    "flame.capacity-wait": '"1m"',
    "flame.capacity-retry": '"5m"',
    "flame.scheduler.where": '"auto"',
    "flame.scheduler.cpus": "1",
    "flame.scheduler.memory": '"2 GiB"',
    "flame.scheduler.service": '"LoadBalancer"',
    "flame.scheduler.port": "8786",
    "flame.scheduler.dashboard-port": "8787",
    "flame.dashboard.token": '"auto"',
    "flame.home.limit": '"16 GiB"',
    "flame.home.memory": '"1 GiB"',
    "flame.prints.show": "True",
    "flame.reports.stop": "True",
    "flame.reports.keep": '"~/.local/share/dask-flame/runs.db"',
    "flame.local.echo": "False",
}


#: Maximum number of characters of a value in an error.
_SHOWN = 60


def shown(value: object) -> str:
    """Return the text of a value for an error, truncated."""
    try:
        text = repr(value)
    except Exception:  # an int of 5,000 digits has no repr, and that of an object may be faulty
        bits = f" of {value.bit_length():,} bits" if isinstance(value, int) else ""
        text = f"<{type(value).__name__}{bits}>"
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "\N{HORIZONTAL ELLIPSIS}"


#: The example of the option that is being checked, if its declaration has one.
declared_example: ContextVar[str] = ContextVar("declared_example", default="")


def example_for(name: str) -> str:
    """Return a valid value for an option or a setting, as Python source."""
    return declared_example.get() or EXAMPLES.get(name) or EXAMPLES[option(name)]


def line(name: str, example: str = "") -> str:
    """Return a line of code that gives an option or a setting this or another valid value."""
    example = example or example_for(name)
    if name.startswith("flame."):
        return f'dask.config.set({{"{name}": {example}}})'
    return f"{name}={example}"


def wrong(name: str, value: object, wanted: str) -> PoolError:
    """Return the error for a wrong value of an option or a setting.

    Parameters
    ----------
    name : str
        The name of the option; that of a setting begins with ``flame.``.
    value : object
    wanted : str
        A description of valid values, for the error.

    Returns
    -------
    PoolError
    """
    where = " in Dask's configuration" if name.startswith("flame.") else ""
    return PoolError(f"{name}={shown(value)}{where} is not {wanted}; write {line(name)}")


def plain(value: Any) -> Any:
    """Convert a number, text or duration of numpy to Python's own type; return others unchanged."""
    kind = getattr(getattr(value, "dtype", None), "kind", "")
    if type(value).__module__ != "numpy" or getattr(value, "ndim", None) != 0:
        return value
    if kind == "m":  # convert to microseconds, the resolution of timedelta
        return value.astype("timedelta64[us]").item()
    return value.item() if kind in "biufU" else value


def whole(name: str, value: Any, least: int, *, beside: str = "") -> int:
    """Check a whole number.

    Parameters
    ----------
    name : str
    value : object
    least : int
        The minimum.
    beside : str, default ""
        The valid values as text for the error; by default made of `least`.

    Raises
    ------
    PoolError
    """
    given, value = value, plain(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise wrong(name, given, f"a whole number of {beside or f'{least} or more'}")
    if value > most(name):
        raise wrong(name, given, f"a whole number of {most(name):,} or less")
    return value


def number(name: str, value: Any) -> float:
    """Check a number above zero."""
    given, value = value, plain(value)
    if not _is_number(value) or not 0 < value < math.inf:
        raise wrong(name, given, "a number above zero")
    if value > most(name) or not float(value):
        raise wrong(name, given, f"a number above zero, of {most(name):,} or less")
    return float(value)


#: A number of CPUs as in Kubernetes: a plain number, or thousandths with the suffix "m".
_CPUS = re.compile(r"(\d+\.?\d*|\.\d+)(m?)")


def cpus(name: str, value: Any) -> int | float:
    """Return a number of CPUs, which may be a fraction, rounded up to thousandths as in Kubernetes.

    Examples
    --------
    >>> cpus("cpus", "500m"), cpus("cpus", 0.2), cpus("cpus", "2")
    (0.5, 0.2, 2)
    """
    number = plain(value)
    if isinstance(value, str) and (match := _CPUS.fullmatch(value.strip())):
        number = float(match[1]) / (1000 if match[2] else 1)
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number < math.inf:
        raise wrong(name, value, 'a number of CPUs such as 2, 0.5 or "500m"')
    if number > most(name):
        raise wrong(name, value, f"a number of {most(name):,} CPUs or less")
    # Kubernetes rounds up too. The inner `round` removes errors of floats such as 0.2 * 3.
    thousandths = math.ceil(round(number * 1000, 6))
    return thousandths // 1000 if thousandths % 1000 == 0 else thousandths / 1000


def one_of(name: str, value: Any, words: tuple[str, ...]) -> str:
    """Check that a value is one of several words.

    Parameters
    ----------
    name : str
    value : object
    words : tuple of str
        The valid values.

    Raises
    ------
    PoolError
    """
    given, value = value, plain(value)
    if not isinstance(value, str) or value not in words:
        raise wrong(name, given, "one of " + ", ".join(map(repr, words)))
    return str(value)


def yes_or_no(name: str, value: Any) -> bool:
    given, value = value, plain(value)
    if not isinstance(value, bool):
        raise wrong(name, given, "True or False")
    return value


def word(name: str, value: Any, wanted: str = "a name") -> str:
    """Check text that is not empty and has no space around it.

    Parameters
    ----------
    name : str
    value : object
    wanted : str, default "a name"
        A description of valid values, for the error.

    Raises
    ------
    PoolError
    """
    if not isinstance(value, str) or not value.strip() or value != value.strip():
        raise wrong(name, value, wanted)
    return str(value)


def function(name: str, value: Any) -> Any:
    """Check a callable."""
    if not callable(value):
        raise wrong(name, value, "a function")
    return value


def seconds(name: str, value: Any, *, zero: bool = True) -> float:
    """Return a duration in seconds.

    Parameters
    ----------
    name : str
    value : duration
    zero : bool, default True
        Whether 0 is valid.

    Raises
    ------
    PoolError
    """
    given, value = value, plain(value)
    if isinstance(value, timedelta):
        value = value.total_seconds()
    try:
        if not (_is_number(value) or _has_digits(value)):
            raise TypeError
        # parse_timedelta does not accept negative numbers.
        duration = float(parse_timedelta(value) if isinstance(value, str) else value)
    except (TypeError, ValueError, KeyError, AttributeError, IndexError, OverflowError):
        raise wrong(name, given, 'a duration such as 60, "60s" or "2m"') from None
    if not math.isfinite(duration) or duration < 0 or not (duration or zero):
        raise wrong(name, given, f"a duration {'of zero or more' if zero else 'above zero'}")
    if duration > LONGEST:
        raise wrong(name, given, "a duration of 100 years or less")
    if duration < (least := shortest(name)):
        raise wrong(name, given, f"a duration of {least:g} s or more")
    return duration


#: Default of `disconnect_grace`, in seconds.
GRACE = 10.0


def size(name: str, value: Any) -> int:
    """Return a size in bytes."""
    given, value = value, plain(value)
    try:
        if not (_is_number(value) or _has_digits(value)):
            raise TypeError
        amount = int(parse_bytes(value) if isinstance(value, str) else value)
    except (TypeError, ValueError, AttributeError, IndexError, OverflowError):
        raise wrong(name, given, f"a size such as {example_for(name)}") from None
    if amount < min(1, least_size(name)):
        raise wrong(name, given, "a size of one byte or more")
    if not least_size(name) <= amount <= largest_size(name):
        least, largest = _bytes(least_size(name)), _bytes(largest_size(name))
        raise wrong(name, given, f"a size of {least} to {largest}")
    return amount


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _has_digits(value: object) -> bool:
    """Return whether text contains a digit; Dask accepts a unit alone."""
    return isinstance(value, str) and any(map(str.isdigit, value))


def _bytes(amount: int) -> str:
    """Format a size as :func:`dask.utils.parse_bytes` reads it."""
    units = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
    power = min(max(amount.bit_length() - 1, 0) // 10, len(units) - 1)
    return f"{amount >> 10 * power} {units[power]}"
