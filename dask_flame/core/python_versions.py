"""Whether processes have Pythons that can read each other's code (all places).

Code is pickled as bytecode, which is another one for each minor version: a function that a Python
3.12 reads of a Python 3.11 may end the process with a SIGSEGV.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any


def here() -> str:
    """Return the version of this process's Python."""
    return platform.python_version()


def mismatch(there: str, driver: str) -> str:
    """Return why code of the driver must not be sent to a Python; empty where it may be.

    Parameters
    ----------
    there, driver : str
        Versions; empty where one is not known.

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
    """Return the version of a worker's Python, as it says it when it registers; or nothing."""
    packages = versions.get("packages") or {}
    # Such as 3.12.1.final.0.
    return ".".join(str(packages.get("python") or "").split(".")[:3])


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])
