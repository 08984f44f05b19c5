"""The default backend: runners as processes of this machine (driver)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dask_flame._lazy import attach

if TYPE_CHECKING:
    from dask_flame.backends.local.backend import LocalBackend as LocalBackend

__all__ = ["LocalBackend"]

__getattr__, __dir__ = attach(__name__, {"LocalBackend": "dask_flame.backends.local.backend"})
