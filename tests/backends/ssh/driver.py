"""A driver whose runners are on a host that answers to ssh: ``driver.py CONFIG HOST REACH``."""

from __future__ import annotations

import sys
import time
from typing import Any

import dask.config
from distributed import Client

from dask_flame import FlameCluster


def busy() -> None:
    import os
    import subprocess
    import sys
    import tempfile
    import time

    with tempfile.NamedTemporaryFile(delete=False) as file:
        file.write(b"left")
    program = "import time; time.sleep(600)"
    subprocess.Popen([sys.executable, "-c", program], start_new_session=True)
    print("begun", os.environ["TMPDIR"], flush=True)
    time.sleep(600)


def main(config: str, host: str, reach: str) -> None:
    settings: dict[str, Any] = {"flame.ssh.config": config, "flame.ssh.connect-timeout": "120s"}
    with dask.config.set(settings):
        cluster = FlameCluster(
            backend="ssh",
            hosts=[{"host": host, "slots": 4}],
            reach=reach,
            max=2,
            dashboard_address=None,
        )
        client = Client(cluster)
        calls = [client.submit(busy, pure=False) for _ in range(2)]
        time.sleep(600)
        del calls


if __name__ == "__main__":
    main(*sys.argv[1:])
