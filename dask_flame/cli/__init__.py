"""``dask flame``: list and stop clusters from a terminal (command line)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dask_flame._lazy import attach

if TYPE_CHECKING:
    from dask_flame.cli.commands import flame as flame

__all__ = ["flame"]

__getattr__, __dir__ = attach(__name__, {"flame": "dask_flame.cli.commands"})
