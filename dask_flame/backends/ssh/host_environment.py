"""What runners find on this host: their environment and a place for temporary files (host)."""

from __future__ import annotations

import contextlib
import os
import tempfile
from importlib.util import find_spec
from typing import Any

from dask_flame.core.own_folders import why_unsafe
from dask_flame.core.processes import MARK

#: The variable that names the GPUs of a process.
VISIBLE = "CUDA_VISIBLE_DEVICES"
#: Bytes that are written for a trial, to see that there is room.
_TRIAL = 1 << 16


def completed(kind: dict[str, Any]) -> dict[str, Any]:
    """Return the description of a kind of runners, with this host's environment."""
    inherited = {k: v for k, v in os.environ.items() if k not in ("TMPDIR", VISIBLE, MARK)}
    hidden = {} if kind.pop("gpus") else {VISIBLE: ""}
    own = kind["variables"]
    env = {**kind.pop("usual"), **inherited, **hidden, **kind.pop("variables")}
    preload = kind["preload"]
    if not kind["packages"]:
        # What is not here is a module of the driver, which runners fetch.
        preload = [name for name in preload if _is_here(name)]
    return {**kind, "env": env, "own": sorted(own), "preload": preload}


def check_place() -> None:
    """Raise an OSError if runners cannot have their folders where temporary files are."""
    try:
        place = tempfile.gettempdir()  # it writes a few bytes
        with tempfile.TemporaryFile(dir=place) as trial:
            trial.write(bytes(_TRIAL))
            trial.flush()
    except OSError as error:
        raise OSError(
            f"nothing can be written to a temporary folder ({error.strerror}): make room there, "
            "or set TMPDIR for this user on the host"
        ) from None
    if why := why_unsafe(place):
        raise OSError(f"the temporary folder {place} is not safe from other users: {why}")


def _is_here(module: str) -> bool:
    """Return whether a module can be imported on this host, as far as its package tells."""
    with contextlib.suppress(ImportError, ValueError):
        return find_spec(module.partition(".")[0]) is not None
    return False
