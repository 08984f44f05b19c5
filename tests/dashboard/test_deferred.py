"""Pages that are built when somebody looks."""

from __future__ import annotations

import json
import sys
import urllib.request
from http.client import HTTPConnection
from typing import Any

import pytest

pytestmark = pytest.mark.process


def served(dask_worker: Any) -> int:
    return int(dask_worker.http_server.port)


def test_a_runner_serves_what_a_worker_serves_once_it_is_asked(flame: Any) -> None:
    _, client = flame(max=1)
    assert client.submit(int, 1).result(timeout=60) == 1
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


def test_the_list_of_plots_is_whole_when_it_is_asked_for_first(flame: Any) -> None:
    # As JupyterLab's extension does, through a proxy that has a path of its own.
    cluster, _ = flame(max=1, dashboard_address="127.0.0.1:0")
    host = cluster.dashboard_link.removeprefix("http://").removesuffix("/status")
    connection = HTTPConnection(host, timeout=30)
    connection.request("GET", "/individual-plots.json?when=now")
    answer = connection.getresponse()
    connection.close()
    assert (answer.status, answer.headers["Location"]) == (302, "./individual-plots.json?when=now")
    for _ in range(2):
        with urllib.request.urlopen(f"http://{host}/individual-plots.json") as plots:
            assert plots.geturl().endswith("/individual-plots.json")
            assert "/individual-flame-curves" in json.load(plots).values()
