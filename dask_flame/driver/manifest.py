"""The objects that a backend would send to its substrate, for inspection (driver)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import yaml


class Manifest(list[dict[str, Any]]):
    """A list of distinct objects as a backend would send them, with secrets hidden.

    It is shown as YAML, with one document per object.

    Parameters
    ----------
    objects : iterable of mapping

    Examples
    --------
    >>> print(Manifest([{"kind": "Pod"}, {"kind": "Pod"}, {"kind": "Job"}]))
    kind: Pod
    ---
    kind: Job
    """

    def __init__(self, objects: Iterable[Mapping[str, Any]] = ()) -> None:
        super().__init__()
        for item in objects:
            if item not in self:
                self.append(dict(item))

    def __str__(self) -> str:
        return str(yaml.safe_dump_all(self, sort_keys=False, allow_unicode=True)).rstrip("\n")

    # Notebooks would otherwise show it as a plain list.
    def __repr__(self) -> str:
        return str(self)
