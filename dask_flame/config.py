"""Configuration (driver): dask-flame's defaults, under dask's own configuration as ``flame.*``."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import dask.config
import yaml

from dask_flame.errors import PoolError

_DEFAULTS = Path(__file__).with_name("flame.yaml")


def _load() -> None:
    dask.config.ensure_file(source=str(_DEFAULTS))
    with _DEFAULTS.open() as f:
        dask.config.update_defaults(yaml.safe_load(f))


_load()


def get(key: str) -> Any:
    """Read one setting: ``get("pool.max")`` for ``flame.pool.max``."""
    return dask.config.get(f"flame.{key}")


def check() -> None:
    """Refuse settings under ``flame.`` that there are not; sections of other backends may be there.

    Raises
    ------
    PoolError
    """
    known = yaml.safe_load(_DEFAULTS.read_text())["flame"]
    given = dask.config.get("flame")
    sections = [
        (f"{name}.", known[name])
        for name in ("scheduler", "pool", "home", "prints", "local", "kubernetes")
    ]
    for section, names in (("", known), *sections):
        values = given if not section else given.get(section[:-1]) or {}
        for name, value in values.items():
            setting = name.replace("_", "-")
            if setting in names or (not section and isinstance(value, dict)):
                continue
            close = difflib.get_close_matches(setting, [*names, *known["pool"]], n=1)
            where = "pool." if close and close[0] in known["pool"] else section
            hint = (
                f"did you mean flame.{where}{close[0]}?"
                if close
                else ("there are " + ", ".join(f"flame.{section}{n}" for n in names))
            )
            raise PoolError(f"flame.{section}{name} in Dask's configuration is no setting; {hint}")
    known["local"]["echo"] = True  # where it is given
    for section in ("prints", "local", "kubernetes"):
        for name, value in (given.get(section) or {}).items():
            setting = name.replace("_", "-")
            if (section, setting, value) == ("local", "echo", None):
                continue
            if isinstance(known[section][setting], bool) and not isinstance(value, bool):
                raise PoolError(
                    f"flame.{section}.{name} in Dask's configuration is {value!r}, which is not "
                    f"true or false; write "
                    f'dask.config.set({{"flame.{section}.{name}": False}})'
                )
