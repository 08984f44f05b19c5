"""Tests that run in a driver's pod, told of as if they had run here (test process)."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Sequence

import pytest

from tests.e2e.real_kubernetes.inside import MARK
from tests.e2e.real_kubernetes.world import World

_TAIL = 60


class Away:
    """pytest in a pod, with these tests; they have to be asked for in this order.

    Parameters
    ----------
    config : pytest.Config
    world : World
    nodeids : sequence of str
    """

    def __init__(self, config: pytest.Config, world: World, nodeids: Sequence[str]) -> None:
        self._config = config
        self._world = world
        plugins = ["-p", "tests.e2e.real_kubernetes.inside", "-p", "no:cacheprovider"]
        chosen = ["--rootdir=.", *nodeids]
        self.pod = world.drive("tests", "-m", "pytest", "-q", *plugins, *chosen)
        self._lines = world.ask.log(self.pod)
        self._said: deque[str] = deque(maxlen=_TAIL)

    def reports(self, item: pytest.Item) -> Iterator[pytest.TestReport]:
        """What came of one test."""
        for line in self._lines:
            if not line.startswith(MARK):
                if line.strip():
                    self._said.append(line)
                continue
            told = json.loads(line.removeprefix(MARK))
            if told.get("over") == item.nodeid:
                return
            report = self._config.hook.pytest_report_from_serializable(
                config=self._config, data=told["report"]
            )
            assert report.nodeid == item.nodeid, f"{report.nodeid} came before {item.nodeid}"
            # JSON has no tuples: of the place where a test was skipped.
            if isinstance(report.longrepr, list):
                report.longrepr = tuple(report.longrepr)
            report.location = tuple(report.location)
            yield report
        said = "\n".join(self._said)
        text = f"the driver's pod has ended, and said:\n{said}\n{self._world.why(self.pod)}"
        yield pytest.TestReport(item.nodeid, item.location, {}, "failed", text, "call")
