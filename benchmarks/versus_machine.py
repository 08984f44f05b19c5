"""The machine and the versions of the packages measured."""

from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path
from typing import Any

import psutil
from versus_measures import PACKAGES  # beside this file

#: Memory of a process with torch and transformers without sharing, and the fraction of the
#: available memory to use.
_EACH = 400e6
_SHARE = 0.5


def installed(contender: str) -> str | None:
    """Return the version of a contender; None if it is not installed."""
    try:
        return importlib.metadata.version(PACKAGES[contender])
    except importlib.metadata.PackageNotFoundError:
        return None


def machine() -> dict[str, Any]:
    """Return the processor, the system, and the versions of relevant packages."""
    versions = {"python": platform.python_version()}
    for package in (*PACKAGES.values(), "torch", "transformers"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "processor": _processor(),
        "cores": psutil.cpu_count(),
        "memory": round(psutil.virtual_memory().total / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
        "versions": versions,
    }


def fitting(most: int) -> int:
    """Return how many processes with torch and transformers fit into this machine, up to `most`."""
    fit = int(psutil.virtual_memory().available * _SHARE / _EACH)
    return max(2, min(most, fit if fit < 8 else fit - fit % 8))


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
