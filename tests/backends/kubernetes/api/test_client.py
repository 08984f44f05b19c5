"""How the API server is found."""

from __future__ import annotations

import asyncio
import builtins
import threading
from pathlib import Path
from typing import Any

import pytest

from dask_flame.backends.kubernetes.api.client import Api
from tests.support.waiting import until

pytestmark = [pytest.mark.unit, pytest.mark.asyncio]

CONFIG = """
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: 'http://127.0.0.1:9'}}]
contexts: [{name: c, context: {cluster: c, user: u}}]
users: [{name: u, user: {}}]
current-context: c
"""


async def test_a_kubeconfig_that_is_being_opened_is_closed_when_the_search_is_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(CONFIG)
    monkeypatch.setenv("KUBECONFIG", str(path))
    stock = open
    opening, go = threading.Event(), threading.Event()
    opened: list[Any] = []

    def slow(file: Any, *args: Any, **kwargs: Any) -> Any:
        if str(file) != str(path):
            return stock(file, *args, **kwargs)
        opening.set()
        go.wait(60)
        opened.append(stock(file, *args, **kwargs))
        return opened[-1]

    monkeypatch.setattr(builtins, "open", slow)
    search = asyncio.ensure_future(Api.connect())
    await until(opening.is_set)
    search.cancel()
    await asyncio.sleep(0)
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await search
    await until(lambda: opened)
    closed = [file.closed for file in opened]
    for file in opened:
        file.close()
    assert closed == [True]
