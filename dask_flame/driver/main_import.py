"""Refuse a cluster in a process that imports the driver's script again (driver).

A child that ``multiprocessing`` spawns imports the script of its parent before anything else, to
find functions in it. Without a guard the script would make a second cluster there, whose calls
spawn children in their turn.
"""

from __future__ import annotations

import multiprocessing

from dask_flame.errors import FlameError


def refuse_in_import_of_main() -> None:
    """Raise an error if this process is a spawned one that imports its ``__main__``.

    Raises
    ------
    FlameError

    Notes
    -----
    ``multiprocessing`` itself refuses to start a process there. It tells by the same attribute.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise FlameError(
            "this process was spawned by multiprocessing, perhaps in a call, and imports the "
            "script to find a function in it; it must not make a cluster of its own. Put the "
            'lines that make the cluster and use it under if __name__ == "__main__":'
        )
