"""What only somebody outside of a driver's pod can see."""

from __future__ import annotations

import time

import pytest
from click.testing import CliRunner

from dask_flame.backends.kubernetes.api.permissions import NEEDED
from dask_flame.cli.commands import flame
from tests.e2e.real_kubernetes.ground import NO_IMAGE
from tests.e2e.real_kubernetes.test_ends import SCRIPT
from tests.e2e.real_kubernetes.world import World, driver_rules
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process

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


#: Starts a driver whose scheduler is in a pod, and ends it as soon as that pod is held up; its own
#: pod lives on, as a notebook's does.
BEGINNING = """
import os, random, subprocess, sys, time

CHILD = '''
import sys
from dask_flame import FlameCluster
FlameCluster(
    name=sys.argv[1], backend="kubernetes", scheduler="pod", max=1, dashboard_address=None,
    disconnect_grace="5s",
)
'''
_, name, image, cpus = sys.argv
os.environ["DASK_FLAME__SCHEDULER__PORT"] = str(random.randrange(20_000, 32_000))
os.environ["DASK_FLAME__SCHEDULER__CPUS"] = cpus
if image:
    os.environ["DASK_FLAME__KUBERNETES__IMAGE"] = image
child = subprocess.Popen([sys.executable, "-c", CHILD, name], stderr=subprocess.PIPE, text=True)
for line in child.stderr:
    print(line, end="", flush=True)
    if "held up" in line:
        child.kill()
        print("killed", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize(("how", "image", "cpus"), [("room", "", "4000"), ("image", NO_IMAGE, "1")])
def test_nothing_outlives_a_driver_that_had_just_begun(
    world: World, how: str, image: str, cpus: str
) -> None:
    account = f"{world.name}-{how}"
    world.make_account(account, driver_rules("role-remote.yaml"))
    name = f"{world.token}-{how}"
    pod = world.drive(how, "-c", BEGINNING, name, image, cpus, account=account)
    try:
        wait_for(lambda: "killed" in world.said(pod), _UP, "the driver is killed")
        begun = time.monotonic()
        assert world.made_by(name)
        wait_for(lambda: not world.made_by(name), 60, "nothing is left")
        # The grace, 5 s, and 15 s.
        assert time.monotonic() - begun < 20
    finally:
        world.ask.delete("Pod", pod, grace=1)


BUSY = """
import os, random, sys, time
os.environ["DASK_FLAME__SCHEDULER__PORT"] = str(random.randrange(20_000, 32_000))
from dask.distributed import Client
from dask_flame import FlameCluster

if __name__ == "__main__":
    cluster = FlameCluster(
        name=sys.argv[1], backend="kubernetes", scheduler="pod", max=2, dashboard_address=None
    )
    client = Client(cluster)
    futures = client.map(lambda _: time.sleep(600), range(2), pure=False)
    while sum(m.busy for m in cluster.runners.values()) < 2:
        time.sleep(0.01)
    print("busy", flush=True)
    for future in futures:
        error = future.exception()
        print("ended:", type(error).__name__, error, flush=True)
    time.sleep(600)
"""


def test_a_busy_cluster_is_stopped(world: World) -> None:
    account = f"{world.name}-busy"
    world.make_account(account, driver_rules("role-remote.yaml"))
    name = f"{world.token}-busy"
    pod = world.drive("busy", "-c", BUSY, name, account=account)
    try:
        wait_for(lambda: "busy" in world.said(pod), _UP, "the driver's runners are busy")
        begun = time.monotonic()
        command = ["stop", "--backend", "kubernetes", "--namespace", world.ask.namespace, name]
        done = CliRunner().invoke(flame, command)
        assert done.exit_code == 0, done.output
        assert world.made_by(name) == []
        # Runners that are busy take the 40 s that their pods have, if they are given them first.
        assert time.monotonic() - begun < 35

        def told() -> list[str]:
            return [line for line in world.said(pod) if line.startswith("ended: ")]

        wait_for(lambda: len(told()) == 2, 60, "the calls have failed")
        assert all("BootError" in line and "dask flame stop" in line for line in told()), told()
    finally:
        world.ask.delete("Pod", pod, grace=1)


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
