"""The command of tests/e2e/dask_client, on a file in the style of distributed's own tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.process

_FOLDER = Path(__file__).with_name("dask_client")

_TESTS = """
import asyncio
import os

import pytest
from distributed import Client, Worker
from distributed.utils_test import cluster, gen_cluster, inc

def add(x, y):
    return x + y

@gen_cluster(client=True)
async def test_asynchronous(c, s, a, b):
    assert await c.submit(add, 1, 2, workers=[a.address]) == 3
    assert len(s.workers) == 2
    assert type(c.cluster).__name__ == "FlameCluster"

@gen_cluster()
async def test_held(s, a, b):
    async with Client(s.address, asynchronous=True) as c:
        x = c.submit(inc, 1, workers=[a.address], allow_other_workers=True)
        await x
        assert x.key in a.data
        assert not b.data
        pid = (await c.run(os.getpid))[a.address]
        await a.close()
        assert await c.submit(inc, x) == 3
        assert a.address not in s.workers
        assert not os.path.exists(f"/proc/{pid}")

@pytest.mark.parametrize("n", [1, 2])
def test_fixtures(c, a, b, n):
    assert c.submit(inc, n, workers=[b["address"]]).result() == n + 1
    assert a["address"] != b["address"]

@gen_cluster(client=True, nthreads=[("", 1)], clean_kwargs={"threads": False})
async def test_callback(c, s, a):
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    future = c.submit(inc, 1)
    future.add_done_callback(lambda _: loop.call_soon_threadsafe(ended.set))
    await ended.wait()

@gen_cluster([("127.0.0.1", 1), ("127.0.0.2", 1)], client=True)
async def test_addresses(c, s, a, b):
    assert a.ip != b.ip

def test_cluster(loop):
    with cluster() as (s, [a, b]), Client(s["address"], loop=loop) as c:
        assert set(c.ncores()) == {a["address"], b["address"]}

@gen_cluster(client=True, nthreads=[("", 1)])
async def test_inside(c, s, a):
    a.state.tasks

@gen_cluster(client=True, nthreads=[])
async def test_own(c, s):
    async with Worker(s.address):
        pass

@gen_cluster(client=True, nthreads=[("", 1)])
async def test_wrong(c, s, a):
    assert await c.submit(inc, 1) == 3
"""


def run(folder: Path, *options: str, expected: str) -> tuple[int, str]:
    """Run the command with another list of tests that are not expected to pass."""
    tests, listed = folder / "given.py", folder / "listed.toml"
    tests.write_text(_TESTS)
    listed.write_text(expected)
    mine = ("--dask-client-tests", str(tests), "--dask-client-expected", str(listed))
    command = [sys.executable, "-m", "pytest", str(_FOLDER), "-p", "no:cacheprovider"]
    done = subprocess.run([*command, *mine, *options], capture_output=True, text=True, timeout=240)
    return done.returncode, done.stdout + done.stderr


def test_tests_of_distributed_pass_are_skipped_or_fail_as_expected(tmp_path: Path) -> None:
    listed = '[wrong]\nwhy = "one and one is two"\ntests = ["test_wrong"]\n'
    code, text = run(tmp_path, expected=listed)
    assert code == 0, text
    lines = {" ".join(line.split()) for line in text.splitlines()}
    assert {
        "6 passed",
        "1 skipped: wants workers at several addresses",
        "1 skipped: looks into a worker, which is a process of its own",
        "1 skipped: starts a Worker of its own",
        "1 xfailed: one and one is two",
    } <= lines, text


def test_a_listed_test_that_passes_or_is_skipped_and_one_that_is_not_listed_fail(
    tmp_path: Path,
) -> None:
    listed = '[other]\nwhy = "another"\ntests = ["test_fixtures[1]", "test_inside"]\n'
    which = "test_fixtures or test_inside or test_wrong"
    code, text = run(tmp_path, "-k", which, expected=listed)
    assert code == 1, text
    assert "3 failed, 1 passed" in text
    for failed in ("test_fixtures[1]", "test_inside", "test_wrong"):
        assert f"FAILED tests/e2e/dask_client/test_client.py::{failed}" in text


def test_a_wrong_list_is_refused(tmp_path: Path) -> None:
    listed = '[a]\nwhy = "a"\ntests = ["test_gone", "test_own"]\n'
    code, text = run(tmp_path, expected=listed)
    assert code == pytest.ExitCode.USAGE_ERROR
    assert "test_gone, which is not in the tests of" in text
    assert "test_own, which is skipped: starts a Worker of its own" in text


def test_without_the_tests_it_says_how_to_get_them() -> None:
    command = [sys.executable, "-m", "pytest", str(_FOLDER), "-p", "no:cacheprovider"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0
    assert "1 skipped" in done.stdout
    assert "git clone --depth 1 --branch" in done.stdout
