"""Runners that are processes of this machine: the default (driver)."""

from dask_flame.backends.local.backend import LocalBackend

__all__ = ["LocalBackend"]
