from __future__ import annotations

import operator
import time
from collections.abc import Iterator

import pytest
from distributed import Client

from tests.support.shared_clusters import SharedClusters, lent

pytestmark = pytest.mark.process


@pytest.fixture
def clusters() -> Iterator[SharedClusters]:
    clusters = SharedClusters()
    yield clusters
    clusters.close()


def naps() -> None:
    while True:
        time.sleep(0.05)


def fails(client: Client) -> None:
    """The Client keeps the error, the error keeps this frame, and the frame keeps the future."""
    future = client.submit(operator.truediv, 1, 0)
    with pytest.raises(ZeroDivisionError):
        future.result(timeout=60)


def test_a_cluster_is_lent_again_until_a_test_has_changed_it(clusters: SharedClusters) -> None:
    first = clusters.get({"concurrency": 2})
    with lent(first) as (_, client):
        fails(client)
    with lent(first) as (_, client):
        cancelled = client.submit(naps)
        client.submit(int, 3).result(timeout=60)
        cancelled.cancel()
    assert clusters.get({"concurrency": 2}) is first
    with pytest.raises(AssertionError, match=r"not as it was: .*int-"), lent(first, within=0.5):
        kept = first.client.submit(int, 4)
    second = clusters.get({"concurrency": 2})
    assert second is not first
    assert second.client.submit(int, 5).result(timeout=60) == 5
    del kept
