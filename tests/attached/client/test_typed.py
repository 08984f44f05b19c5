"""What is typed as in IPython, and what of it an application gets."""

from __future__ import annotations

import pytest

from dask_flame.attached.client.typed import Typed, understood
from dask_flame.errors import AttachError

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("cell", "typed"),
    [
        ("a = 1\nb", Typed("a = 1\nb")),
        ("till.total?", Typed("", "till.total", 0)),
        ("??till", Typed("", "till", 1)),
        ("name", Typed("name")),
        ("%timeout 10m", Typed("", limit={"timeout": "10m"})),
        ("%timeout None\nx", Typed("x", limit={"timeout": None})),
        ("total = (10\n% 3)", Typed("total = (10\n% 3)")),
        ("'''\n!not a command\n'''", Typed("'''\n!not a command\n'''")),
        ("if True", Typed("if True")),  # a syntax error, which the application shows
    ],
)
def test_cells_are_understood(cell: str, typed: Typed) -> None:
    assert understood(cell) == typed


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("%time f()", "%time does not work here"),
        ("x = 1\n  !ls", "!ls does not work here"),
        ("%%bash\nls", "%%bash does not work here"),
        ("%timeout", "needs a duration"),
    ],
)
def test_other_magics_are_refused(cell: str, said: str) -> None:
    with pytest.raises(AttachError, match=said):
        understood(cell)
