"""A notebook attached to a FastAPI service under load: no request fails or waits for long."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import dask_flame
from dask_flame.attached import places
from dask_flame.attached.client.application import Application
from dask_flame.errors import AttachError
from tests.support.waiting import wait_for

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(
        not (importlib.util.find_spec("fastapi") and importlib.util.find_spec("uvicorn")),
        reason="needs fastapi and uvicorn",
    ),
]

SERVICE = '''
import os
import dask_flame
from fastapi import FastAPI

class Basket:
    """Goods to buy."""
    def __init__(self): self.goods = {"tea": 2.5}
    def price(self, good: str, *, count: int = 1) -> float: return self.goods[good] * count

app = FastAPI()
basket = Basket()
dask_flame.expose("shop")

@app.get("/price/{good}")
async def price(good: str):
    return {"price": basket.price(good), "pid": os.getpid()}
'''


class Load:
    """Clients that ask for a price without end, each over connections of its own."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._ended = threading.Event()
        self.served: list[int] = []
        self.failed: list[str] = []
        self._threads = [threading.Thread(target=self._run) for _ in range(3)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def goes_on(self, pids: set[int]) -> None:
        """Wait until each of these processes has served further requests."""
        before = len(self.served)
        wait_for(lambda: pids <= set(self.served[before:]), what=f"requests, {self.failed}")

    def _run(self) -> None:
        while not self._ended.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
            try:
                for _ in range(10):
                    connection.request("GET", "/price/tea")
                    response = connection.getresponse()
                    said = json.loads(response.read())
                    if response.status != 200 or said["price"] != 2.5:
                        self.failed.append(f"{response.status}: {said}")
                    self.served.append(said["pid"])
                    self._ended.wait(0.002)
            except (OSError, http.client.HTTPException, ValueError) as error:
                self.failed.append(repr(error))
            finally:
                connection.close()


@pytest.fixture
def port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of a service with two workers, which are both exposed."""
    monkeypatch.setenv(places.FOLDER, str(tmp_path / "sockets"))
    (tmp_path / "shop_service.py").write_text(SERVICE)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    words = ["--app-dir", str(tmp_path), "shop_service:app", "--workers", "2", "--port", str(port)]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", *words, "--log-level", "warning"],
            stdout=log,
            stderr=log,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
    try:
        wait_for(lambda: len(places.instances("shop")) == 2, within=120, what="two instances")
        wait_for(lambda: _answers(port), within=120, what="the port")
        yield port
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)
    wait_for(lambda: places.instances() == [])


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def test_a_service_under_load_does_not_notice(port: int) -> None:
    pids = {one.pid for one in places.instances("shop")}
    with Load(port) as load:
        load.goes_on(pids)
        with pytest.raises(AttachError, match="shop has 2 instances"):
            dask_flame.attach("shop")
        with dask_flame.attach("shop", instance=min(pids)) as app:
            assert set(app.complete("shop_service.basket.")) == {"goods", "price"}
            assert app.run("shop_service.basket.goods") == {"tea": 2.5}
            assert app.run("await shop_service.price('tea')")["pid"] == min(pids)
            assert not app.run_cell("1 / 0").ok
            assert not app.run_cell("import sys, os\nsys.exit()").ok
            load.goes_on(pids)
            for code in ("while True: pass", "import asyncio\nawait asyncio.sleep(600)"):
                error = app.run_cell(f"print('begins')\n{code}", on_output=_interrupting(app, load))
                assert error.error is not None
                assert error.error.name == "KeyboardInterrupt"
            error = app.run_cell("async def f():\n    while True: pass\nawait f()")
            assert error.error is not None
            assert "event loop" in error.error.value
            load.goes_on(pids)
        load.goes_on(pids)
    assert load.failed == []


def _interrupting(app: Application, load: Load) -> Any:
    def take(output: dict[str, Any]) -> None:
        load.goes_on({app.pid})  # while the cell runs
        app.interrupt()

    return take
