"""What only somebody outside of a driver's pod can see."""

from __future__ import annotations

import time

import pytest
from conftest import wait_for

from dask_flame.backends.kubernetes.rights import NEEDED
from real_kubernetes.test_ends import SCRIPT
from real_kubernetes.world import World, driver_rules

_UP = 300


@pytest.mark.parametrize(("how", "grace"), [("told", None), ("forced", 0)])
def test_everything_goes_with_the_drivers_pod(world: World, how: str, grace: int | None) -> None:
    name = f"{world.token}-{how}"
    pod = world.drive(how, "-c", SCRIPT, name, "busy", grace=2)

    def busy() -> bool:
        assert world.phase(pod) not in ("", "Failed", "Succeeded"), "\n".join(world.ask.log(pod))
        return "busy" in world.said(pod)

    try:
        wait_for(busy, _UP, "the driver's runners are busy")
        made = world.made_by(name)
        assert sum(line.startswith("Pod ") for line in made) >= 3, made
    finally:
        world.ask.delete("Pod", pod, grace=grace)
    wait_for(lambda: not world.made_by(name), 120, "nothing is left")


def test_a_driver_without_rights_is_told_the_rules(world: World) -> None:
    account = f"{world.name}-poor"
    given = driver_rules()[:1]
    world.make_account(account, given)
    name = f"{world.token}-poor"
    pod = world.drive("poor", "-c", SCRIPT, name, "busy", account=account)
    wait_for(lambda: world.phase(pod) == "Failed", _UP, "the driver has ended")
    said = "\n".join(world.said(pod))
    assert "BackendError" in said
    for kind, part, _ in NEEDED[1:]:
        assert f'resources: ["{kind.plural}{"/" * bool(part)}{part}"]' in said
    assert world.made_by(name) == []


def test_all_is_as_it_was(world: World) -> None:
    """The last of all: nothing that a cluster made is left; then nothing that the tests made."""
    until = time.monotonic() + 120
    while (left := world.made_by()) and time.monotonic() < until:
        time.sleep(1)
    assert left == []
    world.end()
    assert not [line for line in world.left() if world.token in line]
