"""The scheduler's socket is removed while no runner is there, by a program that clears folders."""

from __future__ import annotations

import os
import shutil
from typing import Any

import pytest

from dask_flame import errors
from dask_flame.comm.addresses import PREFIX, path_of
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process


def idle(flame: Any) -> tuple[Any, Any, str]:
    """Return a cluster whose only runner has come and gone, its Client, and its socket."""
    cluster, client = flame(max=1, idle_timeout="0.1s", boot_attempts=1)
    assert client.submit(abs, -1).result() == 1
    wait_for(lambda: not cluster.runners)
    path = path_of(cluster.scheduler_address.removeprefix(PREFIX))
    assert os.path.exists(path)
    return cluster, client, path


def test_the_next_runner_connects_to_another_socket_at_the_same_path(flame: Any) -> None:
    cluster, client, path = idle(flame)
    os.unlink(path)
    assert client.submit(abs, -2).result(timeout=60) == 2
    assert os.stat(path).st_mode & 0o777 == 0o600
    client.close()
    cluster.close()
    assert not os.path.exists(path)


def test_without_its_folder_the_waiting_call_is_told_why(flame: Any) -> None:
    _, client, path = idle(flame)
    shutil.rmtree(os.path.dirname(path))
    with pytest.raises(errors.BootError, match="was removed by another program") as told:
        client.submit(abs, -2).result(timeout=60)
    assert 'dask.config.set({"temporary-directory": "' in str(told.value)
