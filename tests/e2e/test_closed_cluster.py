"""Other users of the machine get nothing from a local cluster, its own user all from anywhere."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dask
import psutil
import pytest
from dask.distributed import Client
from distributed.security import Security

from dask_flame import FlameCluster
from dask_flame.errors import BackendError
from tests.support.other_user import attack, cannot

pytestmark = pytest.mark.process

other_users = pytest.mark.skipif(bool(cannot()), reason=cannot())
DASK = ["asyncio", "distributed", "distributed.client", "dask_flame.comm.backend"]

#: The attack that worked on the scheduler's loopback port: it printed the victim's user id.
ATTACK = """
from distributed import Client
result = []
try:
    with Client(args[0], timeout=10) as client:
        result.append(f"in: {client.run_on_scheduler(os.getuid)}")
except BaseException as error:
    while error is not None:
        result.append(f"out: {error}")
        error = error.__cause__
"""

#: Asks each port as a browser would: one of Dask's protocol would answer with its own greeting.
PORTS = """
import asyncio

result = []

async def attempt(port):
    async with asyncio.timeout(60):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.0\\r\\n\\r\\n")
        said = await reader.read(100)
        writer.close()
        result.append(f"{port}: {said!r}")

async def main():
    await asyncio.gather(*map(attempt, args))

asyncio.run(main())
"""

SOCKETS = """
result = []
for path in args:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        try:
            sock.connect(path)
            sock.sendall(bytes(64))
            result.append(f"{path!r} in" if sock.recv(1) else f"{path!r} out: closed")
        except OSError as error:
            result.append(f"{path!r} out: {error}")
"""


@pytest.fixture
def cluster() -> Iterator[FlameCluster]:
    with FlameCluster(max=2, dashboard_address="127.0.0.1:0") as cluster, Client(cluster) as client:
        assert client.gather(client.map(abs, [-1, -2])) == [1, 2]
        yield cluster


def processes() -> list[psutil.Process]:
    me = psutil.Process()
    return [me, *me.children(recursive=True)]


@other_users
def test_another_user_runs_nothing(cluster: FlameCluster) -> None:
    for address in (cluster.scheduler_address, *cluster.scheduler_info["workers"]):
        said = "\n".join(attack(ATTACK, address, modules=DASK))
        assert "in:" not in said
        assert "only processes of the same user may connect" in said


@other_users
def test_no_port_speaks_dasks_protocol(cluster: FlameCluster) -> None:
    ports = sorted(
        {
            connection.laddr.port
            for process in processes()
            for connection in process.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        }
    )
    assert ports  # those of the dashboard, and of the runners' pages
    said = attack(PORTS, *ports, modules=["asyncio"])
    assert len(said) == len(ports)
    assert all(": b'HTTP/" in line for line in said), said


@other_users
def test_no_socket_takes_another_user(cluster: FlameCluster) -> None:
    paths = {
        str(connection.laddr)
        for process in processes()
        for connection in process.net_connections("unix")
        if connection.laddr
    }
    # The scheduler's, and one of each runner.
    assert len([path for path in paths if path.startswith("/")]) >= 2
    said = attack(SOCKETS, *sorted(paths))
    assert len(said) == len(paths)
    assert all("out: " in line for line in said), said


def test_another_program_of_the_same_user_works(cluster: FlameCluster) -> None:
    script = "import sys; from distributed import Client; c = Client(sys.argv[1], timeout=60)\n"
    script += "print(c.submit(sum, [1, 2]).result())"
    done = subprocess.run(
        [sys.executable, "-c", script, cluster.scheduler_address],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == "3\n", done.stderr


def test_sockets_are_for_their_user_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with FlameCluster(max=1, dashboard_address=None) as cluster, Client(cluster) as client:
            client.submit(abs, -1).result()
            addresses = [cluster.scheduler_address, *cluster.scheduler_info["workers"]]
            for address in addresses:
                path = Path(address.removeprefix("flame://127.0.0.1:"))
                assert path.stat().st_mode & 0o777 == 0o600
                assert path.parent.stat().st_mode & 0o777 == 0o700
    finally:
        os.umask(before)


def test_with_certificates_everything_is_tls() -> None:
    with (
        FlameCluster(max=1, security=True, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        assert client.submit(abs, -1).result() == 1
        assert cluster.scheduler_address.startswith("tls://127.0.0.1:")
        assert all(worker.startswith("tls://") for worker in cluster.scheduler_info["workers"])


def test_so_it_is_if_dasks_configuration_requires_it(tmp_path: Path) -> None:
    own = Security.temporary()
    files = {}
    for name in ("ca_file", "scheduler_cert", "scheduler_key"):
        files[name] = str(tmp_path / name)
        Path(files[name]).write_text(getattr(own, f"tls_{name}"))
    settings: dict[str, object] = {"require-encryption": True, "tls.ca-file": files["ca_file"]}
    for role in ("scheduler", "worker", "client"):
        settings[f"tls.{role}.cert"] = files["scheduler_cert"]
        settings[f"tls.{role}.key"] = files["scheduler_key"]
    with (
        dask.config.set({f"distributed.comm.{name}": value for name, value in settings.items()}),
        FlameCluster(max=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        assert client.submit(abs, -1).result() == 1
        assert cluster.scheduler_address.startswith("tls://127.0.0.1:")


def test_a_file_system_without_sockets_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: str, backlog: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), path)

    monkeypatch.setattr("dask_flame.comm.listener.listening_socket", refused)
    with pytest.raises(BackendError, match=r'cannot listen in .*"temporary-directory": "/tmp"'):
        FlameCluster(max=1, dashboard_address=None)
