"""A driver that says how far it is, and waits to be killed: ``python -m … PHASE``."""

from __future__ import annotations

import sys
import threading
import time

from distributed import Client, Event

from dask_flame import FlameCluster
from tests.backends.ssh.hosts.calls import held, shares
from tests.support.ssh_hosts import NAMES


def main(phase: str) -> None:
    cluster = FlameCluster(
        backend="ssh", hosts=shares(*NAMES), max=3, dashboard_address=None, reach="forward"
    )
    client = Client(cluster)
    calls = [client.submit(held, "go", n, pure=False) for n in range(3)]
    if phase != "boot":
        for number in range(3):
            Event(f"go-{number}", client=client).wait(timeout=240)
    if phase in ("idle", "end"):
        Event("go", client=client).set()
        client.gather(calls)
    print(phase, flush=True)
    if phase == "end":
        threading.Thread(target=cluster.close).start()
    time.sleep(600)


if __name__ == "__main__":
    main(sys.argv[1])
