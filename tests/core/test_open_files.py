"""Where few files may be open: the limit is raised, more is refused, and nothing floods."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from dask_flame.core.open_files import BESIDES, EACH, why_no_room

pytestmark = pytest.mark.process


def run(script: str, soft: int, hard: int, within: float = 120) -> str:
    """Run a driver that may have so many open files; what it prints."""
    limits = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))\n"
    done = subprocess.run(
        [sys.executable, "-c", limits + textwrap.dedent(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=within,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


def test_the_soft_limit_is_raised_for_the_driver_and_not_for_what_it_starts() -> None:
    said = run(
        """
        import os, resource, subprocess, sys
        import dask
        from dask.distributed import Client
        from dask_flame import FlameCluster

        def limits(fork):
            import subprocess
            own = resource.getrlimit(resource.RLIMIT_NOFILE)
            return own[0], int(subprocess.check_output("ulimit -Sn", shell=True))

        if __name__ == "__main__":
            for fork in (True, False):
                with (
                    dask.config.set({"flame.local.fork": fork}),
                    FlameCluster(max=1, dashboard_address=None) as cluster,
                    Client(cluster) as client,
                ):
                    # A supervisor that was killed is followed by one that gives the same.
                    runner = client.submit(limits, fork).result()
                    supervisor = cluster.backend._supervisor.pid
                    supervisors = resource.prlimit(supervisor, resource.RLIMIT_NOFILE)[0]
                    print(resource.getrlimit(resource.RLIMIT_NOFILE)[0], supervisors, *runner)
        """,
        200,
        1000,
    )
    assert said.split("\n") == ["1000 1000 200 200", "1000 1000 200 200", ""]


def test_more_runners_than_there_is_room_for_are_refused_with_the_line_to_write() -> None:
    said = run(
        """
        import resource
        from dask.distributed import Client
        from dask_flame import FlameCluster, Pool, PoolError

        def refused(make):
            try:
                make()
            except PoolError as error:
                print(error)

        if __name__ == "__main__":
            refused(lambda: FlameCluster(max=100, dashboard_address=None))
            pools = {"a": Pool(max=20), "b": Pool(max=20)}
            refused(lambda: FlameCluster(pools=pools, dashboard_address=None))
            with FlameCluster(max=2, dashboard_address=None) as cluster:
                refused(lambda: cluster.resize(max=100))
                refused(lambda: cluster.scale(100))
                refused(lambda: cluster.adapt(maximum=100))
                cluster.resize(max=20)
                with Client(cluster) as client:
                    print(sum(client.gather(client.map(int, range(40)))))
        """,
        128,
        256,
    )
    one, pools, *resized, total = said.splitlines()
    needed, most = BESIDES + 100 * EACH, (256 - BESIDES) // EACH
    assert one == (
        f"max=100 runners need {needed} open files and connections in the driver, {EACH} for each "
        f"of them, and the system allows this process 256; write max={most}, or start it where "
        f"`ulimit -n {needed}` has been allowed and typed"
    )
    assert pools.startswith(f"max=40 runners need {BESIDES + 40 * EACH} open files")
    assert resized == [one] * 3
    assert int(total) == sum(range(40))


def test_what_a_runner_takes_is_no_more_than_is_counted(flame: Any) -> None:
    if not Path("/proc/self/fd").exists():
        pytest.skip("there is no /proc")

    def there() -> int:
        return len(os.listdir("/proc/self/fd"))

    number = 6
    cluster, client = flame(max=number, idle_timeout="10m")
    before = there()
    futures = client.map(lambda i: time.sleep(0.2) or bytes(i), range(1000, 1000 + 3 * number))
    most = 0
    while not all(future.done() for future in futures):
        most = max(most, there())
        time.sleep(0.01)
    client.gather(futures)
    client.submit(lambda *results: len(results), *futures).result()
    client.run(os.getpid)
    most = max(most, there())
    cluster.sync(cluster.home.copy, list(cluster.scheduler.workers))
    most = max(most, there())
    assert number < (most - before) <= number * EACH + 10


def test_why_there_is_no_room() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert why_no_room(1) == ""
    why = why_no_room(10**30)
    if hard == resource.RLIM_INFINITY:
        return
    assert "write max=" in why
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (max(soft, hard), hard)


FLOOD = """
import os, resource, socket, time
from dask.distributed import Client
from dask_flame import FlameCluster
from dask_flame.comm.addresses import path_of

def connection(to):
    if isinstance(to, int):
        return socket.create_connection(("127.0.0.1", to))
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(to)
    return sock

def connect(to, number):
    # In another process, which has not reached its own limit.
    made = [connection(to) for _ in range(number)]
    time.sleep(3)
    for one in made:
        one.close()
    return len(made)

if __name__ == "__main__":
    cluster = FlameCluster(max=2, dashboard_address="127.0.0.1:0")
    client = Client(cluster)
    assert client.gather(client.map(int, range(4))) == [0, 1, 2, 3]
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = [n for n in range(limit[0]) if not os.path.exists(f"/proc/self/fd/{n}")]
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[20], limit[1]))
    places = [path_of(cluster.scheduler.address[8:]), cluster.scheduler.http_server.port]
    before = time.process_time()
    calls = [client.submit(connect, to, 60, pure=False) for to in places]
    time.sleep(2)
    print("busy for", round(time.process_time() - before, 3), flush=True)
    resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    assert client.gather(calls) == [60, 60]
    with Client(cluster.scheduler_address) as other:  # it accepts again
        assert other.submit(int, 6).result(timeout=60) == 6
    client.close()
    cluster.close()
    print("over")
"""


def test_where_nothing_can_be_accepted_it_is_said_once_and_tried_again() -> None:
    lines = run(FLOOD, 1000, 1000).splitlines()
    assert lines[-1] == "over"
    said = [line for line in lines if "no connection can be accepted" in line]
    assert 1 <= len(said) <= 2, lines  # by the scheduler's socket and by its pages' port
    # Dask's monitor fails twice a second; what is tried again at once, thousands of times.
    assert sum(line.startswith("Traceback") for line in lines) < 30, lines[:100]
    (busy,) = (line for line in lines if line.startswith("busy for"))
    assert float(busy.split()[-1]) < 1.5
