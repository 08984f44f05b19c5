"""Decide which files belong to local code, by ``.gitignore`` files and defaults (driver)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

#: Folders that never hold a user's modules.
_FOLDERS = frozenset({"__pycache__", "node_modules", "site-packages"})
#: Ends of the names of files that are made from others.
_MADE = (".pyc", ".pyo", ".so", ".pyd", ".egg-info", ".dist-info")


@dataclass(frozen=True)
class Ignored:
    """The rules of a folder: its own ``.gitignore`` and those of the folders above.

    Attributes
    ----------
    specs : tuple
        Pairs of folder and rules; the last ones are the most specific.
    """

    specs: tuple[tuple[str, GitIgnoreSpec], ...] = ()

    @classmethod
    def above(cls, folder: str) -> Ignored:
        """Return the rules for a folder, from the top of its Git repository down."""
        chain = [folder]
        while not os.path.exists(os.path.join(chain[-1], ".git")):
            parent = os.path.dirname(chain[-1])
            if parent == chain[-1]:
                chain = [folder]  # no repository
                break
            chain.append(parent)
        rules = cls()
        for each in reversed(chain[1:]):
            rules = rules.within(each)
        # A repository of settings in a home folder ignores all other folders.
        return cls() if rules.folder(folder) else rules

    def within(self, folder: str) -> Ignored:
        """Return the rules for the entries of a folder."""
        try:
            with open(os.path.join(folder, ".gitignore"), encoding="utf-8", errors="replace") as f:
                spec = _specification(f)
        except OSError:
            return self
        return Ignored((*self.specs, (folder, spec)))

    def file(self, path: str) -> bool:
        """Return whether a file is ignored."""
        name = os.path.basename(path)
        return name.startswith(".") or name.endswith(_MADE) or self._by_rules(path)

    def folder(self, path: str) -> bool:
        """Return whether a folder is ignored, with all that it contains."""
        name = os.path.basename(path)
        if name.startswith(".") or name in _FOLDERS or name.endswith(_MADE):
            return True
        return os.path.exists(os.path.join(path, "pyvenv.cfg")) or self._by_rules(path + "/")

    def _by_rules(self, path: str) -> bool:
        for folder, spec in reversed(self.specs):
            relative = os.path.relpath(path, folder).replace(os.sep, "/")
            found = spec.check_file(relative + "/" if path.endswith("/") else relative).include
            if found is not None:
                return found
        return False


def _specification(lines: Iterable[str]) -> GitIgnoreSpec:
    """Return the rules of a file, without lines that Git ignores as well."""
    # Imported here, as its import takes a tenth of that of a FlameCluster.
    from pathspec import GitIgnoreSpec

    def patterns() -> Iterator[Any]:
        for line in lines:
            with contextlib.suppress(ValueError):
                yield from GitIgnoreSpec.from_lines([line]).patterns

    return GitIgnoreSpec(patterns())
