"""However a driver's process ends, nothing of its cluster is left, though its pod lives on."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.real_kubernetes.ground import Ground
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process

SCRIPT = """
import sys, time
from dask.distributed import Client
from dask_flame import FlameCluster

if __name__ == "__main__":
    cluster = FlameCluster(
        name=sys.argv[1], backend="kubernetes", max=2, dashboard_address=None,
        disconnect_grace="1s",
    )
    client = Client(cluster)
    futures = client.map(lambda _: time.sleep(600), range(2), pure=False)
    print("submitted", flush=True)
    def busy():
        return sum(bool(ws.processing) for ws in cluster.scheduler.workers.values()) == 2
    while not busy():
        time.sleep(0.01)
    print("busy", flush=True)
    if sys.argv[2] == "returns":
        sys.exit()
    time.sleep(600)
"""


@pytest.mark.parametrize(
    ("moment", "end"),
    [
        ("submitted", signal.SIGKILL),
        ("accepted", signal.SIGKILL),
        ("busy", signal.SIGKILL),
        ("busy", signal.SIGTERM),
        ("returns", None),
    ],
)
def test_nothing_outlives_a_driver(
    ground: Ground, moment: str, end: signal.Signals | None, tmp_path: Path
) -> None:
    script = tmp_path / "driver.py"
    script.write_text(SCRIPT)
    arguments = [sys.executable, str(script), f"{ground.token}-{moment}", moment]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as driver:
        try:
            assert driver.stdout is not None
            wanted = {"accepted": "submitted", "returns": "busy"}.get(moment, moment)
            for line in driver.stdout:
                if line.strip() == wanted:
                    break
            else:
                pytest.fail(f"the driver ended before it was {wanted}")
            if moment == "accepted":
                wait_for(lambda: len(ground.pods()) == 2)
        finally:
            if end is not None:
                driver.send_signal(end)
            driver.wait(timeout=60)
    wait_for(ground.at_rest, 120, "nothing is left")
