"""What a notebook sees of a cluster: cells on runners, curves and pools that move (driver).

Needs IPython, which every notebook has. The part that runs cells on runners (:mod:`.cells.run`)
needs it there only for rich displays and for magics inside of cells.
"""

from __future__ import annotations

from typing import Any


def load(shell: Any) -> None:
    """Give an IPython shell the magics ``%flame`` and ``%%flame``."""
    from dask_flame.notebook.magics import FlameMagic

    shell.register_magic_function(FlameMagic(shell).flame, "line_cell", "flame")


def unload(shell: Any) -> None:
    """Take them away again."""
    for kind in ("line", "cell"):
        shell.magics_manager.magics[kind].pop("flame", None)
