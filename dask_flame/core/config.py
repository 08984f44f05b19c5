"""The defaults of dask-flame in Dask's configuration, under ``flame.*`` (driver)."""

from __future__ import annotations

import contextlib
import copy
import os
import reprlib
import tempfile
import warnings
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import dask.config
import yaml

from dask_flame.core.own_folders import make_own
from dask_flame.core.processes import MARK
from dask_flame.errors import PoolError

_FILE = Path(__file__).parents[1] / "flame.yaml"
#: The defaults, nested as in ``dask.config.config``; never modified.
DEFAULTS: dict[str, Any] = yaml.load(
    _FILE.read_text(),
    # Each driver and runner reads it: libyaml takes 1 ms, and the parser in Python 14 ms.
    Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader),
)


def _load() -> None:
    # A runner may be on somebody else's machine, or in a home that all runners write to at once.
    if MARK not in os.environ:
        with contextlib.suppress(OSError):
            _show_defaults()
    dask.config.update_defaults(DEFAULTS)


def _show_defaults() -> None:
    """Put a file with the defaults, as comments, into the user's folder of Dask's configuration.

    Dask would give it and the folder the process's usual permissions. Where these let others write,
    they could have code run by all that read this configuration.
    """
    folder = str(dask.config.PATH)
    place = os.path.join(folder, _FILE.name)
    if os.path.isfile(folder) or os.path.lexists(place):
        return
    make_own(folder)
    with tempfile.TemporaryDirectory(prefix=".flame-", dir=folder) as own:
        dask.config.ensure_file(source=str(_FILE), destination=own)
        made = os.path.join(own, _FILE.name)
        os.chmod(made, os.stat(made).st_mode & 0o755)
        os.rename(made, place)


_load()


def get(key: str, *default: Any) -> Any:
    """Return a setting: ``get("pool.max")`` for ``flame.pool.max``.

    `default` is for a setting that is not in ``flame.yaml``, such as one of another package.

    The defaults are loaded again if they are missing. If a ``with dask.config.set(...)`` block
    began before this module was imported, its end removes all names below the ones that it set.
    """
    if "flame" not in dask.config.config:
        with dask.config.config_lock:
            dask.config.update(dask.config.config, DEFAULTS, priority="old")
    otherwise = dask.config.get(f"flame.{key}", *default, config=DEFAULTS)
    return dask.config.get(f"flame.{key}", otherwise)


def is_written(key: str) -> bool:
    """Return whether the user has written a setting, and not only a package as its default."""
    missing = object()
    value = dask.config.get(f"flame.{key}", missing)
    defaults = [DEFAULTS, *dask.config.defaults]
    return value is not missing and not any(
        dask.config.get(f"flame.{key}", missing, config=place) == value for place in defaults
    )


def check(hint_for: Callable[[str, str], str] = lambda section, name: "") -> None:
    """Raise for unknown settings under ``flame.``, except in sections of other backends.

    Settings that a file ``flame.yaml`` has beside ``flame:``, where they have no effect, are a
    warning.

    Parameters
    ----------
    hint_for : callable, optional
        Called with a section and an unknown name in it; returns what to write, or ``""``.

    Raises
    ------
    PoolError
    """
    for file, name, written in _misplaced():
        warnings.warn(
            f"{name} has no effect at the top of {file}; write it below flame, indented:\n"
            f"{written}",
            UserWarning,
            stacklevel=4,
        )
    known = copy.deepcopy(DEFAULTS["flame"])
    given = dask.config.get("flame", None) or {}
    sections = [(f"{name}.", names) for name, names in known.items() if isinstance(names, dict)]
    for section, names in (("", known), *sections):
        values = given if not section else given.get(section[:-1])
        if values is not None and not isinstance(values, dict):
            setting, (first, default) = f"flame.{section}".rstrip("."), next(iter(names.items()))
            raise PoolError(
                f"{setting}={reprlib.repr(values)} in Dask's configuration is not a section of "
                f'settings; write dask.config.set({{"{setting}.{first}": {default!r}}})'
            )
    for section, names in (("", known), *sections):
        values = given if not section else given.get(section[:-1]) or {}
        for name, value in values.items():
            setting = str(name).replace("_", "-")
            if setting in names or (not section and isinstance(value, dict)):
                continue
            raise unknown_setting(section, name, names, hint_for(section.rstrip("."), setting))


def unknown_setting(section: str, name: object, names: Collection[str], hint: str) -> PoolError:
    """Return the error for a setting that there is not.

    Parameters
    ----------
    section : str
        With a dot at its end; empty for the settings that are in no section.
    name : str
        The setting, as it is written.
    names : collection of str
        The settings that there are.
    hint : str
        What to write; if it is empty, a setting with a similar name.
    """
    import difflib  # for errors only

    pool = DEFAULTS["flame"]["pool"]
    close = difflib.get_close_matches(str(name).replace("_", "-"), [*names, *pool], n=1)
    where = "pool." if close and close[0] in pool else section
    hint = hint or (
        f"did you mean flame.{where}{close[0]}?"
        if close
        else ("there are " + ", ".join(f"flame.{section}{n}" for n in names))
    )
    return PoolError(f"flame.{section}{name} in Dask's configuration is no setting; {hint}")


def _misplaced() -> Iterator[tuple[str, str, str]]:
    """Yield settings at the top of a ``flame.yaml``: the file, the name, and what to write."""
    # Dask has merged all files: usually, none has such a key, and no file is read again.
    if not any(map(_path_of, dask.config.config)):
        return
    with contextlib.suppress(OSError, ValueError):
        for file, values in dask.config.collect_yaml(dask.config.paths, return_paths=True):
            # In other files they may be settings of other packages.
            if file.stem != "flame" or not isinstance(values, dict):
                continue
            for name, value in values.items():
                path = _path_of(name)
                # `scheduler: threads` is a setting of Dask.
                if not path or (path == ("scheduler",) and not isinstance(value, dict)):
                    continue
                lines = [f"{'  ' * depth}{part}:" for depth, part in enumerate(("flame", *path))]
                yield str(file), str(name), "\n".join(lines) + " …"


def _path_of(name: object) -> tuple[str, ...]:
    """Return the place below ``flame`` that a key at the top seems to mean; empty if none."""
    first, *more = str(name).replace("_", "-").split(".")
    if first == "flame":
        return tuple(more)
    return (first, *more) if first in DEFAULTS["flame"] else ()
