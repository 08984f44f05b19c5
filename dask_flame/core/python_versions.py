"""Check that Python versions can exchange pickled code (all places).

Code is pickled as bytecode, which differs between minor versions: a function that Python 3.12 reads
from Python 3.11 may crash the process with SIGSEGV.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any


def here() -> str:
    """Return the version of this process's Python."""
    return platform.python_version()


def mismatch(there: str, driver: str) -> str:
    """Return why the driver's code must not be sent to a Python version; empty if it may be.

    Parameters
    ----------
    there, driver : str
        Versions; empty if unknown.

    Examples
    --------
    >>> mismatch("3.11.9", "3.11.7")
    ''
    >>> mismatch("3.12.1", "3.11.7").partition(":")[0]
    'has Python 3.12.1, and the driver has Python 3.11.7'
    """
    if not there or not driver or _minor(there) == _minor(driver):
        return ""
    return (
        f"has Python {there}, and the driver has Python {driver}: functions that one pickles can "
        f"end the other. Build an image with Python {_minor(driver)} (docker build --build-arg "
        f"PYTHON={_minor(driver)}-slim-bookworm -f deploy/docker/Dockerfile -t IMAGE .) and write "
        f'image="IMAGE", or run the driver with Python {_minor(there)}'
    )


def of_worker(versions: Mapping[str, Any]) -> str:
    """Return a worker's Python version, as stated in its registration; empty if it is not."""
    packages = versions.get("packages") or {}
    # For example 3.12.1.final.0.
    return ".".join(str(packages.get("python") or "").split(".")[:3])


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])
