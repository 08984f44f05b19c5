"""What would be sent to the substrate, to be read, checked and dumped (driver)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import yaml


class Manifest(list[dict[str, Any]]):
    """Objects, as they would be sent but for their secrets; what is the same is there once.

    Shown as YAML, each object a document of its own.

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

    # Else a notebook would show it as any other list.
    def __repr__(self) -> str:
        return str(self)
