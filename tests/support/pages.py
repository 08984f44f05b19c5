"""Pages of the documentation: their blocks of code, and the output that they show.

A block in ``text`` right below a block in ``python`` is the output of that block; ``…`` in it
stands for anything, and below ``<!-- numbers vary -->`` each number for any number. A block without
one prints nothing. Pages that do not need a backend of their own run in one process, one after
another, each in a namespace of its own, because the imports take longer than the pages.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.support.paths import ROOT

DOCS = ROOT / "docs"
#: The line above a block that is not run, and why.
NOT_RUN = re.compile(r"<!-- not run here: (\S.+) -->\n$")
_BLOCK = re.compile(
    r"^```python\n(?P<code>.*?)^```$(?:\n\n(?P<vary><!-- numbers vary -->\n)?"
    r"```text\n(?P<shown>.*?)^```$)?",
    re.DOTALL | re.MULTILINE,
)
#: A number, a time of the day, or what has several numbers.
_NUMBER = r"\d[\d.,:]*"
_MARK = "\x1e"
_RUNNER = "[runner-"
_PLAY = """
import json, sys, traceback
for name, codes in json.load(sys.stdin):
    names = {"__name__": "__main__"}
    for number, code in enumerate(codes):
        print(f"\\x1e{name}\\x1e{number}\\x1e", flush=True)
        try:
            exec(compile(code, f"{name}, block {number + 1}", "exec"), names)
        except BaseException:
            traceback.print_exc()
            sys.exit(1)
        sys.stdout.flush()
"""


@dataclass(frozen=True)
class Block:
    """A block of Python, and the output that the page shows below it (empty: it shows none).

    If `vary` is true, numbers in it stand for any number.
    """

    code: str
    shown: str
    vary: bool = False

    def fits(self, printed: str, later: str) -> bool:
        """Return whether this was printed; `later` includes what later blocks have printed.

        Lines of runners, which begin with their names, may come after the block has ended.
        """
        if self.shown.startswith(_RUNNER):
            return re.search(self._pattern(), later) is not None
        own = [line for line in printed.splitlines() if not line.startswith(_RUNNER)]
        return re.fullmatch(self._pattern(), "\n".join(own).strip(), re.DOTALL) is not None

    def _pattern(self) -> str:
        return ".*?".join(map(self._escaped, self.shown.strip().split("…")))

    def _escaped(self, text: str) -> str:
        if not self.vary:
            return re.escape(text)
        return _NUMBER.join(map(re.escape, re.split(_NUMBER, text)))


def all_pages() -> list[Path]:
    """Return the pages of docs/, without those that a build of the site has made."""
    made = [DOCS / "_build", DOCS / "project", DOCS / "reference" / "api"]
    found = sorted(DOCS.rglob("*.md"))
    return [page for page in found if not any(page.is_relative_to(folder) for folder in made)]


def python_blocks(page: Path) -> list[Block]:
    """Return the blocks in Python, without those that are marked as not run."""
    text = page.read_text()
    return [
        Block(match["code"], match["shown"] or "", vary=bool(match["vary"]))
        for match in _BLOCK.finditer(text)
        if not NOT_RUN.search(text[: match.start()])
    ]


def check_pages(pages: Iterable[Path], cwd: Path | None = None, **env: str) -> None:
    """Run pages in one process, and compare what each block prints with what its page shows.

    They run in the folder `cwd`, by default the current one.
    """
    blocks = {os.path.relpath(page, ROOT): python_blocks(page) for page in pages}
    codes = [(name, [block.code for block in found]) for name, found in blocks.items()]
    done = subprocess.run(
        # Another cluster on this machine may have the dashboard's usual port.
        [sys.executable, "-W", "error::UserWarning", "-W", "ignore:Port:UserWarning", "-c", _PLAY],
        input=json.dumps(codes),
        capture_output=True,
        text=True,
        timeout=800,
        env=os.environ | env,
        cwd=cwd,
    )
    assert done.returncode == 0, done.stderr
    _, *parts = done.stdout.split(_MARK)
    printed = list(zip(*[iter(parts)] * 3, strict=True))
    for place, (name, number, text) in enumerate(printed):
        later = "".join(more for other, _, more in printed[place:] if other == name)
        shown = blocks[name][int(number)]
        page = shown.shown or "(nothing)"
        wrong = f"{name} shows\n{page}\nand not\n{text}\nbelow\n{shown.code}"
        assert shown.fits(text, later), wrong
