"""Pages that are built when somebody looks."""

from __future__ import annotations

import sys
import urllib.request
from typing import Any

import pytest


def served(dask_worker: Any) -> int:
    return int(dask_worker.http_server.port)


def test_a_runner_serves_what_a_worker_serves_once_it_is_asked(flame: Any) -> None:
    _, client = flame(max=1)
    assert client.submit(int, 1).result(timeout=30) == 1
    (port,) = client.run(served).values()
    page = f"http://127.0.0.1:{port}"

    def imported() -> bool:
        return "distributed.http.worker.prometheus.core" in sys.modules

    assert not any(client.run(imported).values())
    for path, holds in (("/health", "ok"), ("/metrics", "dask_worker"), ("/health", "ok")):
        with urllib.request.urlopen(page + path) as answer:
            assert holds in answer.read().decode()
    assert all(client.run(imported).values())
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(page + "/no-such-page")
