"""Settings ``flame.*`` from files, the environment or code, checked (driver).

Settings of pools are checked by :class:`dask_flame.Pool`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from dask_flame.core import backend_options, config
from dask_flame.core.budget import checked_budget
from dask_flame.core.option_checks import (
    cpus,
    line,
    number,
    one_of,
    seconds,
    size,
    whole,
    word,
    wrong,
    yes_or_no,
)
from dask_flame.core.packages_option import packages_option
from dask_flame.errors import PoolError

#: Where the scheduler can run.
SCHEDULER_PLACES = ("auto", "driver", "pod")
Check = Callable[[str, Any], Any]


def _optional(check: Check) -> Check:
    return lambda name, value: None if value is None else check(name, value)


def _template(name: str, value: Any) -> Any:
    if not isinstance(value, Mapping | str | Path) or not value:
        raise wrong(name, value, "a mapping, or the path of a YAML file")
    return value


#: Characters that need no quoting in an address.
_TOKEN = re.compile(r"[A-Za-z0-9._~-]*", re.ASCII)
_LEAST_TOKEN = 16


def _token(name: str, value: Any) -> str:
    """Check the token of dashboards, without showing it."""
    if not isinstance(value, str):
        why = f"is of type {type(value).__name__}, and not text"
    elif value == "auto" or (len(value) >= _LEAST_TOKEN and _TOKEN.fullmatch(value)):
        return str(value)
    elif not _TOKEN.fullmatch(value):
        why = "has characters other than letters, digits and -._~"
    else:
        why = f"has less than {_LEAST_TOKEN} characters"
    raise PoolError(
        f"{name} in Dask's configuration {why}; a token has {_LEAST_TOKEN} or more letters and "
        f"digits, and a random one is made if you write {line(name)}"
    )


#: The check of each setting, without ``flame.``; settings of pools and backends are not included.
SETTINGS: dict[str, Check] = {
    "backend": lambda name, value: value if callable(value) else word(name, value),
    "disconnect-grace": _optional(seconds),
    "silence": seconds,
    "max-lifetime": _optional(partial(seconds, zero=False)),
    "budget": _optional(checked_budget),
    "currency": word,
    "capacity-wait": _optional(partial(seconds, zero=False)),
    "capacity-retry": partial(seconds, zero=False),
    "scheduler.where": partial(one_of, words=SCHEDULER_PLACES),
    "scheduler.cpus": cpus,
    "scheduler.memory": size,
    "scheduler.service": _optional(
        partial(one_of, words=("LoadBalancer", "NodePort", "ClusterIP"))
    ),
    "scheduler.port": partial(whole, least=1),
    "scheduler.dashboard-port": partial(whole, least=1),
    "scheduler.pod-template": _optional(_template),
    "scheduler.timeout": partial(seconds, zero=False),
    "inline-result": size,
    "dashboard.token": _optional(_token),
    "files.limit": size,
    "packages": packages_option,
    "home.limit": size,
    "home.memory": size,
    "code.limit": size,
    "code.file-limit": size,
    "prints.show": yes_or_no,
    "prints.burst": partial(whole, least=1),
    "prints.rate": number,
    "prints.total-burst": partial(whole, least=1),
    "prints.total-rate": number,
    "reports.names": partial(whole, least=1),
    "reports.hide-random": yes_or_no,
    "reports.stop": _optional(yes_or_no),
    "reports.keep": _optional(partial(word, wanted="a path")),
    "reports.keep-runs": _optional(partial(whole, least=1)),
    "reports.keep-age": _optional(partial(seconds, zero=False)),
    "reports.keep-size": _optional(size),
    "local.echo": _optional(yes_or_no),
}


def configured(setting: str) -> Any:
    """Return the checked value of a setting: ``configured("home.limit")`` for ``flame.home.limit``.

    Raises
    ------
    PoolError
    """
    return SETTINGS[setting](f"flame.{setting}", config.get(setting))


def grace(name: str, given: Any) -> float | None:
    """Return how long a cluster outlives its drivers, as given or configured; None if neither.

    Raises
    ------
    PoolError
    """
    said: float | None = configured("disconnect-grace") if given is None else seconds(name, given)
    return said


def check_settings() -> None:
    """Check all settings except those of pools.

    Raises
    ------
    PoolError
    """
    for setting in SETTINGS:
        configured(setting)
    backend_options.check_settings()
