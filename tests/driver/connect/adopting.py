"""Take over clusters in the process of the test."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from dask.distributed import Client

import dask_flame
from dask_flame.errors import BackendError
from tests.support.waiting import wait_for


@contextlib.contextmanager
def adopting() -> Iterator[Callable[[], Client]]:
    """Return a function that adopts the cluster, once its scheduler knows that its driver is gone.

    At the end, the adopted clusters are closed.
    """
    found: list[Client] = []

    def once() -> Client:
        def there() -> bool:
            try:
                found.append(dask_flame.connect("shop", adopt=True))
            except BackendError as error:
                if "its driver is there" not in str(error):
                    raise
                return False
            return True

        wait_for(there, 120)
        return found[-1]

    yield once
    for client in found:
        client.close()
        assert client.cluster is not None
        client.cluster.close()
