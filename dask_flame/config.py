"""Configuration (driver): dask-flame's defaults, under dask's own configuration as ``flame.*``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask.config
import yaml

_DEFAULTS = Path(__file__).with_name("flame.yaml")


def _load() -> None:
    dask.config.ensure_file(source=str(_DEFAULTS))
    with _DEFAULTS.open() as f:
        dask.config.update_defaults(yaml.safe_load(f))


_load()


def get(key: str) -> Any:
    """Read one setting: ``get("pool.max")`` for ``flame.pool.max``."""
    return dask.config.get(f"flame.{key}")
