"""The table of contents from the links of each index page (Sphinx).

The repository's web view shows an index page as headings with links, and would show a toctree as
code. So each page named ``index`` is read with a hidden toctree behind every ``##`` section that
has links at the beginning of its list items or table rows; the heading is its caption.
"""

from __future__ import annotations

import os
import re
from typing import Any

_ITEM = re.compile(r"^(?:[-*|]|\d+\.) *\[[^\]]*\]\((?P<page>[^)#\s]+)\.md\)", re.MULTILINE)


def with_toctrees(text: str) -> str:
    """Return the text of an index page with a toctree for each of its sections."""
    first, *sections = re.split(r"^(?=## )", text, flags=re.MULTILINE)
    made = [first]
    for section in sections:
        pages = [match["page"] for match in _ITEM.finditer(section)]
        made.append(section)
        if pages:
            caption = section.splitlines()[0].removeprefix("## ")
            toctree = [
                "",
                "```{toctree}",
                ":hidden:",
                f":caption: {caption}",
                "",
                *pages,
                "```",
                "",
            ]
            made.append("\n".join(toctree) + "\n")
    return "".join(made)


def rewrite(app: Any, name: str, content: list[str]) -> None:
    if os.path.basename(name) == "index":
        content[0] = with_toctrees(content[0])


def setup(app: Any) -> dict[str, bool]:
    # After the links outside of docs/ have been replaced.
    app.connect("source-read", rewrite, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
