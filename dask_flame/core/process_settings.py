"""Settings of the driver's process that its runners share: folder, flags, hash seed (driver)."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from collections.abc import Iterator

#: Options ``-X`` that affect what code does or the details of errors; not those that only print.
_X_OPTIONS = (
    "cpu_count",
    "dev",
    "faulthandler",
    "frozen_modules",
    "gil",
    "int_max_str_digits",
    "no_debug_ranges",
    "pycache_prefix",
    "tracemalloc",
    "utf8",
    "warn_default_encoding",
)
HASH_SEED = "PYTHONHASHSEED"
_MOST = 2**32 - 1


def working_directory() -> str | None:
    """Return the driver's working directory; None if it was deleted."""
    try:
        folder = os.getcwd()
    except OSError:
        return None
    return folder if os.path.isdir(folder) else None


def main_program() -> dict[str, str]:
    """Return the source of the driver's ``__main__``: a file, or the name of a module.

    multiprocessing imports it again in spawned children. A notebook has none.
    """
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name != "__main__":
        return {"name": spec.name.removesuffix(".__main__")}
    file = getattr(main, "__file__", None)
    return {"file": os.path.abspath(file)} if file and os.path.isfile(file) else {}


def interpreter_flags() -> list[str]:
    """Return the interpreter options that make another interpreter behave as this one.

    Options about where modules are found are left out: runners get the driver's ``sys.path``.
    """
    flags = sys.flags
    words = ["-" + "O" * flags.optimize] if flags.optimize else []
    words += ["-" + "b" * flags.bytes_warning] if flags.bytes_warning else []
    words += ["-B"] if flags.dont_write_bytecode and not os.environ.get(_NO_BYTECODE) else []
    words += ["-s"] if flags.no_user_site and not os.environ.get(_NO_USER_SITE) else []
    for name in _X_OPTIONS:
        value = sys._xoptions.get(name, False)  # documented, in spite of its underscore
        if value is not False:
            words += ["-X", name if value is True else f"{name}={value}"]
    for option in _warning_options():
        words += ["-W", option]
    return words


def hash_seed() -> str:
    """Return a seed for ``hash()`` that all runners of a cluster share.

    This is the driver's seed, if it was set; a random seed cannot be read.
    """
    own = os.environ.get(HASH_SEED, "")
    if own.isdecimal() and int(own) <= _MOST and not sys.flags.ignore_environment:
        return own
    return str(1 + secrets.randbelow(_MOST))


_NO_BYTECODE, _NO_USER_SITE = "PYTHONDONTWRITEBYTECODE", "PYTHONNOUSERSITE"


def _warning_options() -> list[str]:
    """Return the options ``-W``, without those that a runner inherits from its environment."""
    options = list(sys.warnoptions)
    inherited = [w for w in os.environ.get("PYTHONWARNINGS", "").split(",") if w]
    # Inherited options come first; -X dev and development builds put their own before them.
    if "dev" in sys._xoptions and options[:1] == ["default"]:
        options = options[1:]
    if options[: len(inherited)] == inherited:
        options = options[len(inherited) :]
    if sys.flags.bytes_warning and options[-1:] == [_OF_BYTES[min(sys.flags.bytes_warning, 2)]]:
        options = options[:-1]
    return options


#: Folder of distributed's servers for temporary files.
_SCRATCH = "dask-scratch-space"
_OF_BYTES = {1: "default::BytesWarning", 2: "error::BytesWarning"}


def import_path() -> list[str]:
    """Return the folders that the driver imports from, as absolute paths.

    The folders of Dask's servers in this process are left out: distributed adds each to
    ``sys.path``, for files that are uploaded to it.
    """
    return list(_absolute())


def is_scratch(path: str) -> bool:
    """Return whether a path is in the folder of a scheduler or worker of distributed."""
    return _SCRATCH in path.split(os.sep)


def _absolute() -> Iterator[str]:
    for folder in sys.path:
        # "" where the working directory was deleted, or an entry that Python ignores.
        with contextlib.suppress(OSError, TypeError, ValueError):
            path = os.path.abspath(os.fsdecode(folder))
            if not is_scratch(path):
                yield path
