"""Check a built site: its internal links lead somewhere, and its pages load no other site.

``python scripts/check_site.py docs/_build/html`` prints each fault, and exits with 1 for any.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
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


def main(site: str) -> int:
    found = list(faults(Path(site).resolve()))
    for fault in found:
        print(fault)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
