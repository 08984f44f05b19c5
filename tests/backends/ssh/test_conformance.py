"""The SSH backend passes the tests of every backend, on a real sshd."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dask.config
import pytest

from dask_flame.backends.ssh import SshBackend
from dask_flame.testing.conformance import BackendConformance
from tests.support.sshd import Sshd, needs_sshd

pytestmark = [pytest.mark.process, needs_sshd]


class TestSsh(BackendConformance):
    @pytest.fixture
    def factory(self, ssh: Sshd) -> Iterator[Any]:
        with dask.config.set({"flame.ssh.reach": "forward"}):
            yield SshBackend

    @pytest.fixture
    def driver(self) -> str:
        return "dask_flame.backends.ssh:SshBackend"

    @pytest.fixture
    def processes_here(self) -> bool:
        return True
