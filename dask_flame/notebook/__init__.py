"""Notebook features: cells on runners, live curves and pools (driver).

Requires IPython. The code that runs cells on runners (:mod:`.cells.run`) requires it there only for
rich displays and for magics in cells.
"""

from __future__ import annotations

from typing import Any


def load(shell: Any) -> None:
    """Register the magics ``%flame`` and ``%%flame`` in an IPython shell."""
    from dask_flame.notebook.magics import FlameMagic

    shell.register_magic_function(FlameMagic(shell).flame, "line_cell", "flame")


def unload(shell: Any) -> None:
    """Remove the magics from an IPython shell."""
    for kind in ("line", "cell"):
        shell.magics_manager.magics[kind].pop("flame", None)
