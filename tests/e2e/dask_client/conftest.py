"""Runs the tests of distributed's own client, unchanged, on FlameClusters: see README.md."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any
from unittest import mock

import distributed
import pytest
from distributed import Client, utils_test

# Fixtures of distributed that start no cluster.
from distributed.utils_test import (  # noqa: F401
    cleanup,
    loop,
    loop_in_thread,
    name_of_test,
    no_time_resync,
    requires_default_ports,
)

from tests.e2e.dask_client import stand_ins
from tests.e2e.dask_client.skips import skipped

OPTION = "--dask-client-tests"
HINT = (
    "distributed does not ship its tests: git clone --depth 1 --branch "
    f"{distributed.__version__} https://github.com/dask/distributed, then "
    f"pytest tests/e2e/dask_client {OPTION} distributed/distributed/tests/test_client.py"
)
EXPECTED = "expected.toml"
MODULE = "test_client"
#: Marks of distributed's tests that say when they are run there.
_MARKS = ("avoid_ci", "ci1", "flaky", "gpu", "ipython", "leaking", "workerstate")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("dask_client", "distributed's client tests on a FlameCluster")
    group.addoption(
        OPTION,
        type=Path,
        metavar="FILE",
        help="distributed/tests/test_client.py, of the version that is installed",
    )
    group.addoption(
        "--dask-client-expected",
        type=Path,
        default=Path(__file__).with_name(EXPECTED),
        metavar="FILE",
        help="the tests that are not expected to pass (default: %(default)s)",
    )


def pytest_configure(config: pytest.Config) -> None:
    for mark in _MARKS:
        config.addinivalue_line("markers", f"{mark}: of distributed's own tests")
    config.pluginmanager.register(Strict())


class Strict:
    """Fail a test that is not expected to pass, but is skipped.

    Pytest asks a conftest about tests beneath its folder alone, where the copy is not.
    """

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Iterator[Any]:
        report = yield
        listed = item.getparent(ClientTests) and item.get_closest_marker("xfail")
        if listed and report.skipped and not hasattr(report, "wasxfail"):
            report.outcome = "failed"
            report.longrepr = f"not expected to pass, but skipped: {report.longrepr}"
        return report


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    if file_path.name != EXPECTED:
        return None
    config = parent.config
    file: Path | None = config.getoption(OPTION, None)
    if file is None:
        absent = Absent.from_parent(parent, path=file_path)
        absent.add_marker(pytest.mark.process)
        return absent
    folder = tempfile.TemporaryDirectory(prefix="dask-client-tests-")
    config.add_cleanup(folder.cleanup)
    given = ClientTests.from_parent(
        parent, path=_imported(file, Path(folder.name)), nodeid=f"{parent.nodeid}/{MODULE}.py"
    )
    given.add_marker(pytest.mark.process)
    return given


def _imported(file: Path, folder: Path) -> Path:
    """Import a copy of the tests with stand-ins for what they start; runners find it by name."""
    # A copy, because the folder of the file is a package with the installed one's name.
    copy = Path(shutil.copyfile(file, folder / f"{MODULE}.py"))
    sys.path.insert(0, str(folder))
    inherited = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), inherited]))
    pytest.register_assert_rewrite(MODULE)
    with mock.patch.multiple(
        utils_test, gen_cluster=stand_ins.gen_cluster, cluster=stand_ins.cluster
    ):
        importlib.import_module(MODULE)
    return copy


class Absent(pytest.File):
    """Stand where the tests would, if they were given."""

    def collect(self) -> Iterable[pytest.Item]:
        yield Hint.from_parent(self, name=MODULE)


class Hint(pytest.Item):
    """Say how to get the tests."""

    def runtest(self) -> None:
        pytest.skip(HINT)


class ClientTests(pytest.Module):
    """The tests of distributed's client."""


def _expected(file: Path) -> dict[str, str]:
    """Return why each test that is not expected to pass is not."""
    groups = tomllib.loads(file.read_text())
    listed = [(test, group["why"]) for group in groups.values() for test in group["tests"]]
    twice = [test for test, count in Counter(test for test, _ in listed).items() if count > 1]
    if twice:
        raise pytest.UsageError(f"{file.name} lists {', '.join(twice)} more than once")
    return dict(listed)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    ours = [i for i in items if isinstance(i, pytest.Function) and i.getparent(ClientTests)]
    if not ours:
        return
    expected = _expected(config.getoption("--dask-client-expected"))
    missing = dict.fromkeys(expected, f"not in the tests of {distributed.__version__}")
    for item in ours:
        why = skipped(item.function)
        if why:
            item.add_marker(pytest.mark.skip(reason=why))
        for name in {item.name, item.originalname} & expected.keys():
            item.add_marker(pytest.mark.xfail(reason=expected[name], strict=True))
            missing.pop(name, None)
            if why:
                missing[name] = f"skipped: {why}"
    if missing:
        wrong = ", ".join(f"{name}, which is {why}" for name, why in sorted(missing.items()))
        raise pytest.UsageError(f"the list of what is not expected to pass has {wrong}")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    stats = terminalreporter.stats
    counts: Counter[str] = Counter()
    for outcome in ("passed", "failed", "error", "skipped", "xfailed", "xpassed"):
        for report in stats.get(outcome, []):
            if f"/{MODULE}.py::" in report.nodeid:
                counts[": ".join(filter(None, [outcome, _reason(report)]))] += 1
    if counts:
        terminalreporter.section("distributed's client tests")
        for text, count in sorted(counts.items()):
            terminalreporter.line(f"{count:5} {text}")


def _reason(report: Any) -> str:
    if hasattr(report, "wasxfail"):
        return str(report.wasxfail).removeprefix("reason: ")
    return str(report.longrepr[2]).removeprefix("Skipped: ") if report.skipped else ""


@pytest.fixture(scope="session", autouse=True)
def _tracker() -> None:
    """Start the process that multiprocessing shares, which is not the test's that needs it."""
    resource_tracker.ensure_running()


@pytest.fixture
def flame_cluster(loop: Any) -> Iterator[Any]:  # noqa: F811
    with stand_ins.flame_cluster(loop=loop) as made:
        yield made


@pytest.fixture
def s(flame_cluster: Any) -> dict[str, Any]:
    return stand_ins.addresses(*flame_cluster)[0]


@pytest.fixture
def a(flame_cluster: Any) -> dict[str, Any]:
    return stand_ins.addresses(*flame_cluster)[1][0]


@pytest.fixture
def b(flame_cluster: Any) -> dict[str, Any]:
    return stand_ins.addresses(*flame_cluster)[1][1]


@pytest.fixture
def client(flame_cluster: Any, loop: Any) -> Iterator[Client]:  # noqa: F811
    with Client(flame_cluster[0], loop=loop) as client:
        yield client


@pytest.fixture
def c(client: Client) -> Client:
    return client


@pytest.fixture
def client_no_amm(client: Client) -> Client:
    client.amm.stop()
    return client
