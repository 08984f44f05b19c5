"""What pytest in a driver's pod tells of its tests, a line for each report (pod).

A plug-in of pytest: ``-p tests.e2e.real_kubernetes.inside``.
:mod:`tests.e2e.real_kubernetes.away` reads the lines.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import pytest

#: What a line of a report begins with. One that only ends a test has the mark and its name.
MARK = "@dask-flame-test "

# Not what pytest takes for the tests' own while they run.
_OUT = os.dup(sys.stdout.fileno())


def tell(what: dict[str, Any]) -> None:
    """Print a line, all at once."""
    os.write(_OUT, f"\n{MARK}{json.dumps(what)}\n".encode())


class Teller:
    def __init__(self, config: pytest.Config) -> None:
        self.config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = self.config.hook.pytest_report_to_serializable(config=self.config, report=report)
        tell({"report": data})

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        tell({"over": nodeid})


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Teller(config))
