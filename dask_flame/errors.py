"""Every error that dask-flame raises on purpose (all places).

::

    FlameError
    ├── PoolError        (also ValueError)   an option of a Pool or FlameCluster is wrong
    ├── BackendError                         a backend is unknown, or cannot be used here
    └── BootError        (also RuntimeError) runners could not start
"""

from __future__ import annotations


class FlameError(Exception):
    """What every error of dask-flame derives from."""


class PoolError(FlameError, ValueError):
    """An option of a Pool or a FlameCluster is wrong; nothing was started."""


class BackendError(FlameError):
    """A backend is unknown, not installed, or cannot be used here."""


class BootError(FlameError, RuntimeError):
    """Runners could not start, so the calls that waited for them fail.

    The message holds the substrate's own words: the end of what the runner printed, its exit
    code, and the setting to change.
    """
