"""Notebook features: cells on runners, live curves and pools (driver).

Requires IPython. The code that runs cells on runners (:mod:`.cells.run`) requires it there only for
rich displays and for magics in cells.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

#: Undoes what was done for completion, by shell.
_undo: WeakKeyDictionary[Any, Callable[[], None]] = WeakKeyDictionary()


def load(shell: Any) -> None:
    """Register the magics ``%flame`` and ``%%flame`` in an IPython shell."""
    from dask_flame.driver.connect.hint import report_left_in_background
    from dask_flame.notebook.attached_cells import hook
    from dask_flame.notebook.magics import FlameMagic

    unload(shell)
    report_left_in_background()
    magic = FlameMagic(shell)
    shell.register_magic_function(magic.flame, "line_cell", "flame")
    _undo[shell] = hook(shell, magic.attached)


def unload(shell: Any) -> None:
    """Remove the magics from an IPython shell."""
    for kind in ("line", "cell"):
        shell.magics_manager.magics[kind].pop("flame", None)
    if (undo := _undo.pop(shell, None)) is not None:
        undo()
