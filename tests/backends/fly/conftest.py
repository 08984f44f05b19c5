"""Fixtures for the tests of the Fly backend."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import dask
import pytest

from tests.backends.fly.stage import sleeping_python
from tests.backends.fly.world import ADDRESS, SPEED, inside, settings
from tests.fakes.fly import FakeFly
from tests.support.paths import free_port
from tests.support.waiting import wait_for


@pytest.fixture
def fly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeFly]:
    """A fake Fly, and this process in one of its machines. At the end no machine may be left."""
    for name in ("FLY_API_TOKEN", "FLY_API_HOSTNAME", "FLY_FLAPS_BASE_URL", "FLY_MACHINE_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    pythons = sleeping_python(tmp_path)
    with FakeFly(speed=SPEED, private_ip=ADDRESS, pythons=pythons, limit=None) as fake:
        inside(fake, monkeypatch)
        with settings(fake):
            yield fake
        wait_for(lambda: not fake.left(), what=f"nothing is left: {fake.left()}")
        assert fake.violations == []


_FLYCTL = """#!{python}
import asyncio, sys
assert sys.argv[1] == "proxy" and sys.argv[4:6] == ["--app", "flame"], sys.argv
local, remote = map(int, sys.argv[2].split(":"))
assert sys.argv[3].endswith(".vm.flame.internal"), sys.argv

async def copy(reader, writer):
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    writer.close()

async def forward(reader, writer):
    try:
        there, back = await asyncio.open_connection("::1", remote)
    except OSError:
        writer.close()
        return
    await asyncio.gather(copy(reader, back), copy(there, writer))

async def main():
    async with await asyncio.start_server(forward, "127.0.0.1", local) as server:
        await server.serve_forever()

asyncio.run(main())
"""


@pytest.fixture
def outside(fly: FakeFly, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeFly]:
    """This process is not in Fly's network; `fly proxy` leads there."""
    for name in ("FLY_PRIVATE_IP", "FLY_APP_NAME", "FLY_IMAGE_REF", "FLY_REGION"):
        monkeypatch.delenv(name)
    program = tmp_path / "flyctl"
    program.write_text(_FLYCTL.format(python=sys.executable))
    program.chmod(0o755)
    with dask.config.set(
        {
            "flame.fly.flyctl": str(program),
            "flame.fly.app": "flame",
            "flame.fly.image": "registry.fly.io/flame:1",
            "flame.fly.public-address": "127.0.0.1",
            "flame.scheduler.port": free_port(ADDRESS),
            "flame.scheduler.dashboard-port": free_port(ADDRESS),
        }
    ):
        yield fly
