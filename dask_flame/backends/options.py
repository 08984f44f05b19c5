"""Options that a backend adds to those of a pool, and options shared by backends (driver)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from dask_flame.core.backend_options import BackendOptions as BackendOptions
from dask_flame.core.option_checks import line
from dask_flame.core.options import Option as Option
from dask_flame.core.options import option as option
from dask_flame.errors import PoolError

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def secrets_option() -> Any:
    """Declare the option ``secrets``: environment variables with hidden values."""
    return option(_secrets, '{"HF_TOKEN": "hf_…"}', secret=True)


def _secrets(name: str, value: Any) -> dict[str, str | Mapping[str, str]]:
    def fits(item: Any) -> bool:
        if isinstance(item, Mapping):
            return set(item) == {"name", "key"} and all(isinstance(v, str) for v in item.values())
        return isinstance(item, str)

    if not isinstance(value, Mapping) or not all(
        isinstance(key, str) and _VARIABLE.fullmatch(key) and fits(item)
        for key, item in value.items()
    ):
        # The values are secrets, so the error does not show them.
        raise PoolError(
            f"{name} is not a mapping of environment variables to values, or to "
            f'{{"name": …, "key": …}} of a Secret; write {line(name)}'
        )
    return dict(value)
