"""Pages of the site from files outside of docs/, and links to them (Sphinx).

The pages of docs/ link to files of the repository, such as ``../deploy/README.md``, so that these
links work on the repository's web view. On the site, each file in :data:`PAGES` is a page below
``project/``, which is written before each build, and every other file is a download.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
#: Files of the repository that are pages of the site.
PAGES = {
    "README.md": "project/readme.md",
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "deploy/README.md": "project/deployment.md",
    "deploy/fly/README.md": "project/deployment-fly.md",
    "examples/README.md": "project/examples.md",
    "tests/e2e/dask_client/README.md": "project/dask-client-tests.md",
}
#: A link, or code, which may contain what looks like one. A link whose text is code is a link.
_LINK = re.compile(
    r"^```.*?^```$|(?P<text>!?\[[^\]]*\])\((?P<target>[^)\s]+)\)|`[^`\n]+`",
    re.DOTALL | re.MULTILINE,
)


def on_site(text: str, source: Path, page: Path) -> str:
    """Return the text of a file of the repository with the links that the site has.

    Parameters
    ----------
    text : str
    source, page : Path
        The file, and its page of the site.
    """

    def link(match: re.Match[str]) -> str:
        target, hash, anchor = (match["target"] or "").partition("#")
        if not target or re.match(r"[a-z]+:", target):
            return match[0]
        path = (source.parent / target).resolve()
        if not path.is_relative_to(ROOT):
            return match[0]
        if path.is_dir():  # only the repository's web view can show a folder
            return match["text"][1:-1]
        if found := PAGES.get(path.relative_to(ROOT).as_posix()):
            path = DOCS / found
        return f"{match['text']}({os.path.relpath(path, page.parent)}{hash}{anchor})"

    return _LINK.sub(link, text)


def write_pages(app: Any) -> None:
    for file, place in PAGES.items():
        source, page = ROOT / file, DOCS / place
        text = on_site(source.read_text(), source, page)
        page.parent.mkdir(exist_ok=True)
        # A page that has not changed is not read again.
        if not page.exists() or page.read_text() != text:
            page.write_text(text)


def rewrite(app: Any, name: str, content: list[str]) -> None:
    page = DOCS / f"{name}.md"
    if page.exists() and f"{name}.md" not in PAGES.values():
        content[0] = on_site(content[0], page, page)


def setup(app: Any) -> dict[str, bool]:
    app.connect("builder-inited", write_pages, priority=100)
    app.connect("source-read", rewrite)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
