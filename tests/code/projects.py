"""Projects whose modules are laid out in awkward ways; run by test_projects.py."""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import dedent


@dataclass(frozen=True)
class Project:
    """A project.

    Attributes
    ----------
    files : dict of str to str
        Contents of its files.
    result : object
        What its program prints, wherever the calls run.
    program : tuple of str
        Arguments of Python.
    path : tuple of str
        Folders in ``PYTHONPATH``.
    pth : tuple of str
        Folders in the file of an editable install.
    """

    files: dict[str, str]
    result: object
    program: tuple[str, ...] = ("main.py",)
    path: tuple[str, ...] = ()
    pth: tuple[str, ...] = ()


MAIN = """
import os
import sys

from tests.code.harness import run

PROJECT = os.environ["PROJECT"]
{imports}

def calls(client):
    {body}


if __name__ == "__main__":
    run(PROJECT, calls)
"""


def main(imports: str, body: str) -> str:
    """Return a program whose calls have this body."""
    indented = dedent(body).strip().replace("\n", "\n    ")
    return MAIN.format(imports=dedent(imports).strip(), body=indented)


PROJECTS = {
    "flat script": Project(
        {
            "main.py": main(
                "import helpers",
                """
                def lazily(x):
                    import rarely

                    return rarely.negative(x)

                return [
                    client.submit(helpers.double, 2).result(),
                    client.submit(lazily, 3).result(),
                    client.submit(lambda x: helpers.double(x) + helpers.LIMIT, 1).result(),
                ]
                """,
            ),
            "helpers.py": "LIMIT = 10\n\ndef double(x):\n    return 2 * x\n",
            "rarely.py": "def negative(x):\n    return -x\n",
        },
        [4, -3, 12],
    ),
    "src layout": Project(
        {
            "scripts/main.py": main(
                "from shop import basket",
                "return client.gather(client.map(basket.price, [1, 2, 3]))",
            ),
            "src/shop/__init__.py": "",
            "src/shop/basket.py": "from .taxes import with_tax\n\n"
            "def price(n):\n    return with_tax(n * 100)\n",
            "src/shop/taxes/__init__.py": "from .rates import RATE\n\n"
            "def with_tax(x):\n    return x + x * RATE // 100\n",
            "src/shop/taxes/rates.py": "RATE = 20\n",
        },
        [120, 240, 360],
        program=("scripts/main.py",),
        path=("src",),
    ),
    "editable install": Project(
        {
            "main.py": main(
                "import edited.deep.inner as inner",
                """
                from edited import Thing

                made = client.submit(inner.make, 4).result()
                return [made.value, isinstance(made, Thing), type(made).__module__]
                """,
            ),
            "elsewhere/lib/edited/__init__.py": "from .things import Thing\n",
            "elsewhere/lib/edited/things.py": "class Thing:\n    def __init__(self, value):\n"
            "        self.value = value\n",
            "elsewhere/lib/edited/deep/__init__.py": "",
            "elsewhere/lib/edited/deep/inner.py": "from ..things import Thing\n\n"
            "def make(x):\n    return Thing(x + 1)\n",
        },
        [5, True, "edited.things"],
        pth=("elsewhere/lib",),
    ),
    "namespace package": Project(
        {
            "main.py": main(
                "from company.first import one",
                """
                def both():
                    from company.second.part import two

                    return one() + two()

                return [client.submit(one).result(), client.submit(both).result()]
                """,
            ),
            "a/company/first.py": "def one():\n    return 1\n",
            "b/company/second/part.py": "def two():\n    return 2\n",
        },
        [1, 3],
        path=("a", "b"),
    ),
    "package with data": Project(
        {
            "main.py": main(
                "import words",
                """
                return [
                    client.submit(words.beside).result(),
                    client.submit(words.resource).result(),
                    client.submit(words.pkgutil_data).result(),
                ]
                """,
            ),
            "words/__init__.py": """
import pkgutil
from importlib.resources import files
from pathlib import Path


def beside():
    return (Path(__file__).parent / "lists" / "short.txt").read_text()


def resource():
    return files("words").joinpath("lists/short.txt").read_text()


def pkgutil_data():
    return pkgutil.get_data("words", "lists/short.txt").decode()
""",
            "words/lists/short.txt": "ab",
        },
        ["ab", "ab", "ab"],
    ),
    "circular imports": Project(
        {
            "main.py": main(
                "import ring.left",
                """
                def through(n):
                    import ring.right

                    return ring.right.down(n)

                return [client.submit(ring.left.up, 3).result(), client.submit(through, 2).result()]
                """,
            ),
            "ring/__init__.py": "from . import left\n",
            "ring/left.py": "import ring.right\n\n"
            "def up(n):\n    return n if n > 5 else ring.right.down(n + 2)\n",
            "ring/right.py": "from ring import left\n\ndef down(n):\n    return left.up(n + 1)\n",
        },
        [6, 6],
    ),
    "program of a package": Project(
        {
            "tool/__init__.py": "NAME = 'tool'\n",
            "tool/__main__.py": main(
                "from . import NAME\nfrom .parts import join",
                "return [client.submit(join, NAME, 'x').result(), "
                "client.submit(lambda: join(NAME, 'y')).result()]",
            ),
            "tool/parts.py": "def join(a, b):\n    return f'{a}-{b}'\n",
        },
        ["tool-x", "tool-y"],
        program=("-m", "tool"),
    ),
    "module of a package as program": Project(
        {
            "tool/__init__.py": "",
            "tool/run.py": main(
                "from tool.parts import Part\n\ndef part(n):\n    return Part(n)",
                "found = client.submit(part, 3).result()\n"
                "return [found.n, isinstance(found, Part)]",
            ),
            "tool/parts.py": "class Part:\n    def __init__(self, n):\n        self.n = n\n",
        },
        [3, True],
        program=("-m", "tool.run"),
    ),
    "classes": Project(
        {
            "main.py": main(
                "import kinds",
                """
                futures = [client.submit(make) for make in kinds.MAKERS]
                found = client.gather(futures)
                failed = client.submit(kinds.fail, 7)
                error = failed.exception()
                import traceback

                lines = "".join(traceback.format_tb(failed.traceback()))
                taken = client.submit(kinds.is_point, kinds.Point(1, 2)).result()
                chained = client.submit(kinds.is_point, client.submit(kinds.make_point)).result()
                return [
                    [type(each) is kind for each, kind in zip(found, kinds.KINDS)],
                    found[1] is kinds.Color.RED,
                    [type(error) is kinds.TooMuch, error.amount, str(error)],
                    "raise TooMuch(amount, of=\\"apples\\")" in lines,
                    taken,
                    chained,
                    client.submit(kinds.Point, 5, 6).result() == kinds.Point(5, 6),
                    client.submit(kinds.Point(1, 2).moved, 1).result() == kinds.Point(2, 3),
                ]
                """,
            ),
            "kinds.py": """
from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import ClassVar, NamedTuple


@dataclass
class Point:
    x: int
    y: int
    made: ClassVar[int] = 0

    def moved(self, by):
        return Point(self.x + by, self.y + by)


class Color(enum.Enum):
    RED = 1


class Pair(NamedTuple):
    a: int
    b: int


class Slotted:
    __slots__ = ("x",)

    def __init__(self):
        self.x = 1


class TooMuch(Exception):
    def __init__(self, amount, *, of):
        super().__init__(f"{amount} {of}")
        self.amount = amount

    def __reduce__(self):
        return _too_much, (self.amount,)


def _too_much(amount):
    return TooMuch(amount, of="apples")


def make_point():
    return Point(1, 2)


def is_point(value):
    return type(value) is Point and value == Point(1, 2)


def fail(amount):
    raise TooMuch(amount, of="apples")


KINDS = [Point, Color, Pair, Slotted]
MAKERS = [make_point, lambda: Color.RED, lambda: Pair(1, 2), Slotted]
""",
        },
        [[True] * 4, True, [True, 7, "7 apples"], True, True, True, True, True],
    ),
    "a file that an installed module also has": Project(
        {
            "main.py": main(
                "import tabnanny\nimport shlex",
                "return [client.submit(lambda: tabnanny.MINE).result(), "
                "client.submit(lambda: shlex.split('a b')).result()]",
            ),
            "tabnanny.py": "MINE = 'mine'\n",
        },
        ["mine", ["a", "b"]],
    ),
    "ignored but imported": Project(
        {
            "main.py": main(
                "import lib",
                "return client.submit(lib.version).result()",
            ),
            ".gitignore": "_version.py\n*.csv\n",
            "lib/__init__.py": "from ._version import VERSION\n\ndef version():\n"
            "    return VERSION\n",
            "lib/_version.py": "VERSION = '1.2'\n",
        },
        "1.2",
    ),
}


#: Modules that runners need before their first call: for ``preload=`` and ``setup=``.
PREPARED = Project(
    {
        "main.py": main(
            "import getting_ready\nfrom getting_ready import load\n",
            """
            def found():
                import dask_flame

                return dask_flame.setup_result()

            return [client.submit(found).result(), client.submit(getting_ready.count).result()]
            """,
        ).replace("run(PROJECT, calls)", 'run(PROJECT, calls, preload=["early"], setup=load)'),
        "getting_ready.py": """
import early

early.IMPORTED.append("by setup")

def load():
    early.IMPORTED.append("loaded")
    return "a model"

def count():
    return early.IMPORTED
""",
        "early.py": "IMPORTED = []\n",
    },
    ["a model", ["by setup", "loaded"]],
)
