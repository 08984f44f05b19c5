"""What inspectors of back ends have in common."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from dask_flame.backends.inspector import ClusterListing, Orphan, lasting_orphans, stop_outcome

pytestmark = pytest.mark.unit


def orphan(name: str, *key: object) -> Orphan:
    return Orphan(what=name, cluster="c", why="test", key=key or (name,))


class Looks:
    """What each look finds, the last one from then on."""

    def __init__(self, *found: Sequence[Orphan]) -> None:
        self.found = list(found)
        self.count = 0

    async def __call__(self) -> Sequence[Orphan]:
        self.count += 1
        return self.found.pop(0) if len(self.found) > 1 else self.found[0]


def lasting(looks: Looks, within: float) -> list[str]:
    found = asyncio.run(lasting_orphans(looks, within=within, pause=0.001))
    return [orphan.what for orphan in found]


def test_an_orphan_that_ends_by_itself_is_none_and_nobody_waits_longer() -> None:
    looks = Looks([orphan("a"), orphan("b")], [orphan("b")], [])
    assert lasting(looks, within=3600) == []
    assert looks.count == 3


def test_an_orphan_lasts_if_it_is_there_in_all_looks() -> None:
    stays, ends, later = orphan("stays"), orphan("ends"), orphan("later")
    assert lasting(Looks([stays, ends], [stays, later]), within=0.2) == ["stays"]


def test_an_orphan_whose_key_changes_is_alive() -> None:
    looks = Looks([orphan("job", "uid", 1.0)], [orphan("job", "uid", 2.0)])
    assert lasting(looks, within=3600) == []


def test_without_orphans_there_is_one_look() -> None:
    looks = Looks([])
    assert lasting(looks, within=3600) == []
    assert looks.count == 1


@pytest.mark.parametrize(
    ("state", "told", "outcome"),
    [
        ("orphaned", False, "ended; its driver was gone"),
        ("live", True, "stopped; its driver, pod me, may live on, and was told"),
        (
            "live",
            False,
            "stopped; its driver, pod me, may live on, and could not be told: it may begin again",
        ),
    ],
)
def test_a_stop_says_what_became_of_the_driver(state: str, told: bool, outcome: str) -> None:
    cluster = ClusterListing(id="c", name="c", state=state, driver="pod me")
    assert stop_outcome(cluster, told=told) == outcome
