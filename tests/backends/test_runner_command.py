"""How a runner is launched by a backend of another package: what it reads, and how it ends."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from distributed import Client, Scheduler

from dask_flame import setup_result
from dask_flame.backends import (
    RunnerCommand,
    RunnerSpec,
    runner_command,
    runner_command_from_file,
)
from dask_flame.core.setup_function import setup_config
from tests.support.paths import ROOT

pytestmark = pytest.mark.process

_WITHIN = 60.0


@pytest_asyncio.fixture
async def scheduler() -> AsyncIterator[Scheduler]:
    async with Scheduler(host="127.0.0.1", port=0, dashboard_address="127.0.0.1:0") as scheduler:
        yield scheduler


def spec_for(address: str, **more: Any) -> RunnerSpec:
    return RunnerSpec(name="one", scheduler=address, concurrency=1, boot_timeout=_WITHIN, **more)


async def started(command: RunnerCommand, **more: Any) -> asyncio.subprocess.Process:
    env = {**os.environ, **command.environment, **more.pop("env", {})}
    return await asyncio.create_subprocess_exec(*command.arguments, env=env, **more)


async def registered(scheduler: Scheduler) -> None:
    async with asyncio.timeout(_WITHIN):
        while "one" not in scheduler.aliases:  # noqa: ASYNC110 - it has no event for it
            await asyncio.sleep(0.02)


@pytest.mark.asyncio
async def test_a_runner_with_a_leash_ends_when_it_is_told_to(
    scheduler: Scheduler, tmp_path: Path
) -> None:
    spec = spec_for(scheduler.address, env={"TOKEN": "s3cret"})
    command = runner_command(spec, tmp_path / "own")
    process = await started(command, stdin=asyncio.subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(command.config)
    await registered(scheduler)
    async with Client(scheduler.address, asynchronous=True) as client:
        # The leash is not its calls' standard input.
        seen = await client.submit(
            lambda: (os.environ["TOKEN"], os.environ["TMPDIR"], os.read(0, 1)), pure=False
        )
    assert seen == ("s3cret", str(tmp_path / "own" / "scratch"), b"")
    process.stdin.write(b"end\n")
    assert await asyncio.wait_for(process.wait(), _WITHIN) == 0


@pytest.mark.asyncio
async def test_a_runner_whose_leash_breaks_ends_at_once_and_takes_its_folder_along(
    scheduler: Scheduler, tmp_path: Path
) -> None:
    command = runner_command(spec_for(scheduler.address), tmp_path / "own")
    process = await started(command, stdin=asyncio.subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(command.config)
    await registered(scheduler)
    assert (tmp_path / "own").exists()
    process.stdin.close()
    assert await asyncio.wait_for(process.wait(), _WITHIN) != 0
    async with asyncio.timeout(_WITHIN):
        while (tmp_path / "own").exists():  # noqa: ASYNC110 - another process removes it
            await asyncio.sleep(0.02)


@pytest.mark.asyncio
async def test_a_runner_that_cannot_start_says_why_with_code_1(
    scheduler: Scheduler, tmp_path: Path
) -> None:
    # It asks the scheduler for the module, which may be a local one of the driver.
    command = runner_command(spec_for(scheduler.address, preload=["no_such_module"]), tmp_path)
    pipe = asyncio.subprocess.PIPE
    process = await started(command, stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.STDOUT)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(command.config)
    said = await asyncio.wait_for(process.stdout.read(), _WITHIN)
    assert await process.wait() == 1
    assert b"No module named 'no_such_module'" in said.splitlines()[-1]


@pytest.mark.asyncio
async def test_a_runner_that_reads_a_file_ends_with_its_scheduler(
    scheduler: Scheduler, tmp_path: Path
) -> None:
    file = tmp_path / "one.json"
    spec = spec_for(scheduler.address)
    command = runner_command_from_file(spec, str(file), python=sys.executable, host="127.0.0.1")
    file.touch(mode=0o600)
    file.write_bytes(command.config)
    process = await started(command)
    await registered(scheduler)
    assert scheduler.workers[scheduler.aliases["one"]].nthreads == 1
    await scheduler.close()
    assert await asyncio.wait_for(process.wait(), _WITHIN) == 0


def touch_and_sleep(file: Path) -> None:
    file.touch()
    time.sleep(600)


async def block(file: Path) -> None:
    touch_and_sleep(file)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("function", "says"), [(touch_and_sleep, True), (block, False)], ids=["thread", "blocked loop"]
)
async def test_a_runner_whose_setup_hangs_ends_without_anybody_to_end_it(
    function: Any, says: bool, scheduler: Scheduler, tmp_path: Path
) -> None:
    setup = setup_config(partial(function, tmp_path / "called"))
    spec = replace(spec_for(scheduler.address, setup=setup), boot_timeout=8)
    file = tmp_path / "one.json"
    command = runner_command_from_file(spec, str(file), python=sys.executable, host="127.0.0.1")
    file.write_bytes(command.config)
    pipe = asyncio.subprocess.PIPE
    process = await started(
        command, stdout=pipe, stderr=asyncio.subprocess.STDOUT, env={"PYTHONPATH": str(ROOT)}
    )
    assert process.stdout is not None
    said = (await asyncio.wait_for(process.stdout.read(), _WITHIN)).decode()
    assert await process.wait() == 1
    assert (tmp_path / "called").exists()
    assert "one" not in scheduler.aliases
    if says:
        # The reason comes last, after a position in the user's code, and none in ours.
        *_, position, reason = said.splitlines()
        assert position.strip() == "time.sleep(600)"
        assert reason.startswith("setup=touch_and_sleep has not ended within boot_timeout=8 s")
        assert said.count("File ") == 1


@pytest.mark.asyncio
async def test_a_runner_whose_leash_breaks_in_its_setup_ends_at_once(
    scheduler: Scheduler, tmp_path: Path
) -> None:
    setup = setup_config(partial(touch_and_sleep, tmp_path / "called"))
    command = runner_command(spec_for(scheduler.address, setup=setup), tmp_path / "own")
    process = await started(command, stdin=asyncio.subprocess.PIPE, env={"PYTHONPATH": str(ROOT)})
    assert process.stdin is not None
    process.stdin.write(command.config)
    async with asyncio.timeout(_WITHIN):
        while not (tmp_path / "called").exists():  # noqa: ASYNC110 - another process makes it
            await asyncio.sleep(0.02)
    process.stdin.close()
    assert await asyncio.wait_for(process.wait(), _WITHIN) != 0


@pytest.mark.asyncio
async def test_setup_runs_at_a_stock_scheduler_too(scheduler: Scheduler, tmp_path: Path) -> None:
    spec = spec_for(scheduler.address, setup=setup_config(partial(abs, -4)))
    command = runner_command(spec, tmp_path / "own")
    process = await started(command, stdin=asyncio.subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(command.config)
    await registered(scheduler)
    async with Client(scheduler.address, asynchronous=True) as client:
        assert await client.submit(setup_result) == 4
    process.stdin.write(b"end\n")
    assert await asyncio.wait_for(process.wait(), _WITHIN) == 0


def test_a_command_shows_no_secret(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.write_text("-----BEGIN s3cret")
    spec = spec_for(
        "tls://10.0.0.1:8786",
        env={"TOKEN": "s3cret"},
        secrets={"KEY": "s3cret", "THERE": {"name": "s3cret", "key": "k"}},
        config={"password": "s3cret"},
        security={"require_encryption": True, "tls_worker_key": str(key)},
    )
    for command in (runner_command(spec, tmp_path), runner_command_from_file(spec, "one.json")):
        assert "s3cret" not in repr(command)
        assert "s3cret" not in " ".join(command.arguments)
        assert b"s3cret" in command.config
        assert command.environment["KEY"] == "s3cret"
        assert "THERE" not in command.environment
    # On another machine there is no such file.
    assert b"-----BEGIN s3cret" in command.config
