"""Check a built site: links lead somewhere, no page loads another site, options are found.

``python scripts/check_site.py docs/_build/html`` prints each fault, and exits with 1 for any.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The ids of a page, its links, and the addresses that a browser loads with it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.ids |= {name for key in ("id", "name") if (name := values.get(key))}
        if tag == "a" and (link := values.get("href")):
            self.links.append(link)
        elif place := values.get("src") or (tag == "link" and values.get("href")) or None:
            self.loaded.append(place)


def faults(site: Path) -> Iterator[str]:
    """Return each link that leads nowhere, and each file of another site that a page loads."""
    found = (path for path in sorted(site.rglob("*.html")) if "_static" not in path.parts)
    pages = {path: Page(path) for path in found}
    if not pages:
        yield f"{site} has no pages"
    for path, page in pages.items():
        for link in [*page.links, *page.loaded]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if link in page.loaded and parts.scheme != "data":
                    yield f"{path}: loads {link}"
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target /= "index.html"
            if not target.exists():
                yield f"{path}: {link} does not exist"
            elif parts.fragment and target in pages:
                anchor = unquote(parts.fragment)
                if anchor not in pages[target].ids:
                    yield f"{path}: {link} has no such anchor"


#: The page of the site that a search for an option must list.
OPTIONS = "reference/configuration"


def not_found(site: Path, names: Iterable[str], page: str = OPTIONS) -> Iterator[str]:
    """Return each name for which a search of the site does not list a page.

    The search splits a query at all but letters, digits and underscores, as its index does the
    text of pages: ``idle_timeout`` is one word, and not found where ``idle-timeout`` is written.
    """
    from sphinx.search.en import SearchEnglish

    language = SearchEnglish({})
    text = (site / "searchindex.js").read_text()
    index = json.loads(text[text.index("(") + 1 : text.rindex(")")])
    number = index["docnames"].index(page)
    for name in names:
        pages = index["terms"].get(language.stem(name.lower()), [])
        if number not in (pages if isinstance(pages, list) else [pages]):
            yield f"a search for {name} does not list {page}"


def _names() -> set[str]:
    root = Path(__file__).resolve().parents[1]
    sys.path[:0] = [str(root), str(root / "docs/_ext")]
    import code_tables

    return {name for _, name, _ in code_tables.options()}


def main(site: str) -> int:
    folder = Path(site).resolve()
    found = [*faults(folder), *not_found(folder, sorted(_names()))]
    for fault in found:
        print(fault)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
