"""Regions of the fake Fly, and the room that is left in them (test process)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.fakes.fly.errors import invalid, no_capacity

#: Regions by group: a request may name a group, or ``any``.
GROUPS = {
    "eu": ("ams", "arn", "cdg", "fra", "lhr"),
    "na": ("dfw", "ewr", "iad", "lax", "ord", "sjc", "yyz"),
    "us": ("dfw", "ewr", "iad", "lax", "ord", "sjc"),
    "apac": ("bom", "nrt", "sin", "syd"),
    "sa": ("gru",),
    "af": ("jnb",),
}
REGIONS = tuple(sorted({name for names in GROUPS.values() for name in names}))


def candidates(asked: str | None, default: str) -> list[str]:
    """Return the regions that a request names, in its order.

    Examples
    --------
    >>> candidates("fra,us", "iad")[:3]
    ['fra', 'dfw', 'ewr']
    """
    found: list[str] = []
    for name in (asked or default).split(","):
        name = name.strip()
        if name == "any":
            found += REGIONS
        elif name in GROUPS:
            found += GROUPS[name]
        elif name in REGIONS:
            found.append(name)
        else:
            raise invalid(f"region {name} not found")
    return list(dict.fromkeys(found))


@dataclass
class Capacity:
    """How many machines there is room for.

    Attributes
    ----------
    limits : dict
        By region, or by region and ``cpu_kind``, the number of machines; what is not in it has no
        limit.
    """

    limits: dict[str | tuple[str, str], int] = field(default_factory=dict)

    def room(self, region: str, kind: str, there: Collection[tuple[str, str]]) -> bool:
        """Return whether one more machine of a kind fits beside those there are."""
        for key, count in (
            (region, sum(r == region for r, _ in there)),
            ((region, kind), sum((r, k) == (region, kind) for r, k in there)),
        ):
            if key in self.limits and count >= self.limits[key]:
                return False
        return True

    def choose(
        self, regions: list[str], guest: Mapping[str, Any], there: Collection[tuple[str, str]]
    ) -> str:
        """Return the first region with room; refuse with 412 if there is none."""
        for region in regions:
            if self.room(region, guest["cpu_kind"], there):
                return region
        raise no_capacity(",".join(regions))
