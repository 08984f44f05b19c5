"""What of the driver's process its runners start with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import dask.config
import pytest
from distributed import get_worker

from dask_flame import Pool
from dask_flame.core.process_settings import hash_seed, interpreter_flags, working_directory
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process

DRIVER = """
import json, os, sys
from dask.distributed import Client
from dask_flame import FlameCluster, Pool

def seen():
    return [sys.flags.optimize, sys.flags.utf8_mode, sys.flags.dev_mode, sys.warnoptions, hash("x")]

if __name__ == "__main__":
    pools = {"forked": Pool(max=1), "own": Pool(max=1, env={"PYTHONHASHSEED": "7"})}
    with FlameCluster(pools=pools, dashboard_address=None) as cluster, Client(cluster) as client:
        import dask_flame
        told = [client.submit(seen, pure=False).result(timeout=60)]
        with dask_flame.on("own"):
            told.append(client.submit(seen, pure=False).result(timeout=60))
    print(json.dumps([seen(), *told]))
"""


def driver(*flags: str, **env: str) -> list[list[Any]]:
    """What a driver that was started so sees of itself and of its runners."""
    done = subprocess.run(
        [sys.executable, *flags, "-c", DRIVER],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **env},
    )
    assert (done.returncode, done.stderr) == (0, "")
    seen: list[list[Any]] = json.loads(done.stdout.splitlines()[-1])
    return seen


def test_flags_of_the_interpreter_travel_and_a_seed_that_was_set() -> None:
    flags = ("-O", "-X", "utf8", "-W", "error:boo", "-W", "ignore::ImportWarning")
    own, forked, other = driver(*flags, PYTHONHASHSEED="42")
    assert own[:4] == [1, 1, False, ["error:boo", "ignore::ImportWarning"]]
    assert forked == own  # the hash too
    assert other[:4] == own[:4]
    assert other[4] != own[4]  # the pool's own variable wins


def test_options_are_not_given_twice() -> None:
    # Where each warning is an error, and unclosed files are told of, there is none.
    own, forked, _ = driver("-X", "dev", "-bb", PYTHONWARNINGS="error")
    assert forked[:4] == own[:4]
    assert own[2] is True


def test_runners_start_where_the_driver_is(
    flame: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "flame_reads_a_file.py").write_text(
        "import pathlib\ntext = pathlib.Path('data.txt').read_text()\n"
    )
    (tmp_path / "data.txt").write_text("here")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = os.getcwd()
    cluster, client = flame(pools={"a": Pool(max=1, idle_timeout="100ms"), "b": Pool(max=1, min=0)})
    where = lambda: client.submit(os.getcwd, pure=False).result(timeout=60)  # noqa: E731
    assert where() == before
    wait_for(lambda: not cluster.runners)
    monkeypatch.chdir(tmp_path)
    assert where() == str(tmp_path)
    # What is imported before, is imported there.
    cluster.resize("a", preload=["flame_reads_a_file"])
    wait_for(lambda: not cluster.runners)
    read = client.submit(lambda: __import__("flame_reads_a_file").text, pure=False)
    assert read.result(timeout=60) == "here"


@pytest.mark.parametrize("fork", [True, False])
def test_a_working_directory_that_is_gone_is_said_once(
    fork: bool, flame: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with dask.config.set({"flame.local.fork": fork}):
        cluster, client = flame(max=2)
        gone = tmp_path / "gone"
        gone.mkdir()
        monkeypatch.chdir(gone)
        gone.rmdir()
        assert working_directory() is None

        def seen() -> tuple[str, str]:
            return os.getcwd(), str(get_worker().name)

        client.wait_for_workers(2, timeout=60)
        where = set(client.gather([client.submit(seen, pure=False) for _ in range(8)]))
    for folder, runner in where:
        assert folder == os.path.join(cluster.backend.scratch, runner)
    (said,) = [e for e in cluster.events if "working directory" in e.reason]
    assert "os.chdir" in said.reason


@pytest.mark.parametrize("fork", [True, False])
def test_all_runners_of_a_cluster_hash_alike(fork: bool, flame: Any) -> None:
    def seen() -> tuple[str, int]:
        return get_worker().name, hash("a string")

    with dask.config.set({"flame.local.fork": fork}):
        cluster, client = flame(pools={"a": Pool(max=1), "b": Pool(max=2, cpus=2)})
        cluster.wait_for_workers(2, pool="b", timeout=60)
        cluster.wait_for_workers(3, timeout=60)
        told = client.run(lambda: hash("a string"))
    assert len(told) == 3
    assert len(set(told.values())) == 1


def test_a_seed_is_the_drivers_or_a_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for own in ("0", "4294967295"):
        monkeypatch.setenv("PYTHONHASHSEED", own)
        assert hash_seed() == own
    for none in ("random", "", "-1", "4294967296", "x"):
        monkeypatch.setenv("PYTHONHASHSEED", none)
        seeds = {hash_seed() for _ in range(20)}
        assert len(seeds) > 1
        assert all(0 < int(seed) < 2**32 for seed in seeds)
    assert isinstance(interpreter_flags(), list)
