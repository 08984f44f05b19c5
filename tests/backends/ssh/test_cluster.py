"""A cluster of two hosts: data between them, GPUs, other clusters, local modules and files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from distributed import Client, wait

from dask_flame import FlameCluster, Pool, on
from tests.support.sshd import SshClient, Sshd, needs_sshd, running
from tests.support.waiting import wait_for
from tests.support.wheels import wheel

pytestmark = [pytest.mark.process, needs_sshd]


def _temporary() -> str:
    import os

    return os.environ["TMPDIR"]


async def _pages(dask_worker: Any) -> list[int]:
    import asyncio

    return await asyncio.to_thread(_ask_for_pages, dask_worker.http_server)


def _ask_for_pages(server: Any) -> list[int]:
    """Ask for pages of a worker, as another user of its host could."""
    import urllib.error
    import urllib.request

    codes = []
    for page in ("info/main/workers.html", "metrics"):
        try:
            with urllib.request.urlopen(f"http://{server.address}:{server.port}/{page}") as answer:
                codes.append(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                codes.append(error.code)
    return codes


def _twice(text: str) -> str:
    return 2 * text


@pytest.mark.parametrize("reach", ["forward", "auto"])
def test_data_goes_between_hosts_and_everything_is_tls(
    ssh: Sshd, second: Sshd, reach: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_module_of_ssh.py").write_text("def thrice(text):\n    return 3 * text\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import my_module_of_ssh  # type: ignore[import-not-found]

    hosts = [{"host": "host1", "slots": 8}, {"host": "host2", "slots": 8}]
    with (
        FlameCluster(
            backend="ssh", hosts=hosts, reach=reach, min=2, max=2, dashboard_address=None
        ) as cluster,
        Client(cluster) as client,
    ):
        client.wait_for_workers(2)
        folders = client.run(_temporary)
        assert len({Path(folder).parents[1] for folder in folders.values()}) == 2
        scheme = "flame-ssh://" if reach == "forward" else "tls://"
        assert cluster.scheduler_address.startswith(f"{scheme}127.0.0.1:")
        assert all(address.startswith(scheme) for address in folders)
        assert cluster.security.require_encryption
        one, other = folders
        there = client.submit(lambda: "x" * 2_000_000, workers=[one], pure=False)
        wait([there])
        here = client.submit(_twice, there, workers=[other], pure=False)
        assert len(here.result()) == 4_000_000
        assert len(there.result()) == 2_000_000
        (sent,) = client.scatter(["y" * 2_000_000])
        assert len(client.submit(_twice, sent).result()) == 4_000_000
        assert client.run(_pages) == {address: [404, 404] for address in folders}
        # A module of the driver, which is not on the hosts.
        assert client.submit(my_module_of_ssh.thrice, "ab", pure=False).result() == "ababab"
        # Results of runners that have ended are in the driver, and runners read them there.
        kept = client.submit(lambda: "z" * 1_000_000, pure=False)
        wait([kept])
        cluster.resize(min=0, max=2)
        assert len(client.submit(_twice, kept, pure=False).result()) == 2_000_000


def _visible() -> tuple[str, str]:
    import os

    return os.environ.get("CUDA_VISIBLE_DEVICES", "unset"), os.environ["DASK_FLAME_RUNNER"]


def test_gpus_are_given_to_one_runner_at_a_time_also_of_two_clusters(ssh: Sshd) -> None:
    hosts = [{"host": "host1", "slots": 8, "gpus": 2}]
    pools = {"cpu": Pool(max=1, hosts=hosts), "gpu": Pool(gpus=1, max=3, min=1, hosts=hosts)}
    options: dict[str, Any] = {"backend": "ssh", "dashboard_address": None}
    with (
        FlameCluster(pools=pools, **options) as one,
        Client(one) as client,
        FlameCluster(gpus=1, max=2, min=1, hosts=hosts, **options) as other,
        Client(other, set_as_default=False) as second,
    ):
        client.wait_for_workers(1)
        second.wait_for_workers(1)
        with on("gpu"):
            first = client.submit(_visible, pure=False)
        taken = {first.result()[0], second.submit(_visible, pure=False).result()[0]}
        assert taken == {"0", "1"}
        assert client.submit(_visible, pure=False).result()[0] == ""  # none for the others
        # A second runner of a pool has no room, and calls wait for the first.
        calls = second.map(lambda x: _visible()[0], range(4), pure=False)
        assert len(set(second.gather(calls))) == 1


def test_a_runner_that_no_host_could_ever_take_fails_at_once(ssh: Sshd) -> None:
    with (
        FlameCluster(backend="ssh", gpus=3, max=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        future = client.submit(abs, -1, pure=False)
        with pytest.raises(Exception, match="no host is large enough: host1: gpus=3"):
            future.result()


def test_other_hosts_go_on_where_one_is_down(
    ssh: Sshd, ssh_client: SshClient, tmp_path: Path
) -> None:
    third = Sshd(tmp_path / "host3", ssh_client.public)
    ssh_client.knows(third)
    ssh_client.alias("host3", third)
    hosts = [{"host": "host1", "slots": 8}, {"host": "host3", "slots": 8}]
    with (
        running(third),
        FlameCluster(
            backend="ssh", hosts=hosts, reach="forward", min=2, max=2, dashboard_address=None
        ) as cluster,
        Client(cluster) as client,
    ):
        client.wait_for_workers(2)
        third.stop()
        wait_for(lambda: "host3 was lost: " in str(list(cluster.events)), what="it was lost")
        client.wait_for_workers(2)
        folders = client.run(_temporary)
        assert all(folder.startswith(str(ssh.temporary)) for folder in folders.values())
        third.start()
        wait_for(lambda: not cluster.backend._machines.away, 120, what="it is connected again")


def test_files_and_packages_come_with_the_runners(ssh: Sshd, tmp_path: Path) -> None:
    data = tmp_path / "table.csv"
    data.write_text("1,2")
    archive = wheel(tmp_path / "wheels", "only_over_ssh", "1.5")
    with (
        FlameCluster(
            backend="ssh",
            files={data: "data/table.csv"},
            packages=[str(archive)],
            max=1,
            dashboard_address=None,
        ) as cluster,
        Client(cluster) as client,
    ):
        text, version = client.submit(_what_came, pure=False).result()
    assert (text, version) == ("1,2", "1.5")
    # The packages stay, in the cache of the host's user; the files were in the runner's folder.
    assert any((ssh.home / ".cache" / "dask-flame" / "packages").rglob("only_over_ssh"))


def _what_came() -> tuple[str, str]:
    from pathlib import Path

    import only_over_ssh  # type: ignore[import-not-found]

    return Path("data/table.csv").read_text(), only_over_ssh.__version__
