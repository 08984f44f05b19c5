"""Understand cells that are typed as in IPython; applications know only Python (driver).

``name?`` asks for help, and ``%timeout`` sets the time limit of cells. Other magics and shell
commands are refused with a line that says so.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field

from dask_flame.errors import AttachError

_HELP = re.compile(r"\s*(\?{0,2})\s*([A-Za-z_][\w.]*)\s*(\?{0,2})\s*;?\s*")
_TIMEOUT = re.compile(r"\s*%timeout\b[ \t]*([^\n]*)(?:\n|$)")
_MAGIC = re.compile(r"^[ \t]*([%!]{1,2}\w*)", re.MULTILINE)


@dataclass(frozen=True)
class Typed:
    """A cell as it was typed.

    Attributes
    ----------
    source : str
        Python code for the application; empty if there is none.
    help : str
        Name of an object that is asked about, or empty.
    detail : int
        1: its source, too.
    limit : dict
        Time limit that the cell sets, as the option ``timeout`` of ``run_cell``; empty for none. It
        is the cell's own, or without code that of those that follow.
    """

    source: str
    help: str = ""
    detail: int = 0
    limit: dict[str, str | None] = field(default_factory=dict)


def understood(cell: str) -> Typed:
    """Return what a cell asks for.

    Raises
    ------
    AttachError
        It has a magic or a command of the shell.
    """
    asked = _HELP.fullmatch(cell)
    if asked is not None and (marks := asked[1] or asked[3]):
        return Typed("", asked[2], len(marks) - 1)
    limit: dict[str, str | None] = {}
    timed = _TIMEOUT.match(cell)
    if timed is not None:
        given = timed[1].strip()
        if not given:
            raise AttachError('%timeout needs a duration: "%timeout 10m", or "%timeout none"')
        limit = {"timeout": None if given.lower() == "none" else given}
        cell = cell[timed.end() :]
    _check(cell)
    return Typed(cell, limit=limit)


def _check(source: str) -> None:
    magic = _MAGIC.search(source)
    if magic is None:
        return
    try:
        ast.parse(source)  # a line may begin with the operator
    except (SyntaxError, ValueError, RecursionError):
        raise AttachError(
            f"{magic[1]} does not work here: cells run inside the application, as plain "
            'Python. There are "name?", "name??" and "%timeout 10m"'
        ) from None
