"""The driver shows one line for each call that fails; the runner's log has the rest."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import dask
import pytest
from distributed import Client, LocalCluster

from dask_flame import Prints
from dask_flame.core.rate_limit import Limits
from dask_flame.errors import FlameError
from dask_flame.prints.frames import KEEP
from dask_flame.prints.runner.streams import CallStream, PrintStreams, Source
from dask_flame.runner.failure_lines import line, show_failures_in_one_line
from tests.support.waiting import wait_for

GENERATED = "train-0070dfb44d065a2a9d41a55899ee6d1e"


def record(key: Any, task: str, error: str) -> logging.LogRecord:
    text = "Compute Failed\nKey: %s\nState: %s\nTask: %s\nException: %r\nTraceback: %r\n"
    args = (key, "executing", task, error, "  File …")
    return logging.LogRecord("distributed.worker", logging.ERROR, "w.py", 1, text, args, None)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("key", "task", "shown"),
    [
        (GENERATED, "<train(rate=0.1)>", "train(rate=0.1)"),
        ("train-0070dfb4-4d06-5a2a-9d41-a55899ee6d1e", "<train(rate=0.1)>", "train(rate=0.1)"),
        ("mine", "<train(rate=0.1)>", "mine"),
        ("epoch-3", "<train(rate=0.1)>", "epoch-3"),
        (("mean-0070dfb44d065a2a9d41a55899ee6d1e", 0), "<mean(…)>", "mean-0070df, 0"),
        (GENERATED, "no task of ours", "train-0070df"),
        (GENERATED, "<train(\x1b[31mrate)>", "train( [31mrate)"),
    ],
)
def test_a_failure_is_named_by_its_key_or_its_arguments(key: Any, task: str, shown: str) -> None:
    assert line(record(key, task, "ValueError('a\nb')")) == f"{shown} failed: ValueError('a b')"


@pytest.mark.unit
def test_long_names_and_errors_are_cut() -> None:
    found = line(record("k" * 300, "<f()>", "e" * 3000))
    assert len(found) < 320
    assert found.count(" …") == 2


class Recorded:
    """A transport that keeps what it is given."""

    rest = ""

    def __init__(self, *, beside: bool) -> None:
        self.beside = beside
        self.sent: list[tuple[int, str, str]] = []

    def send(self, source: Source, stream: int, text: str, kind: str) -> bool:
        assert (source.number, source.name, stream) == (0, "", 2)
        self.sent.append((stream, text, kind))
        return True

    def end(self, source: Source) -> None:
        raise AssertionError("the runner itself does not end")


class Behind:
    """An original stream."""

    text = ""

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass


@pytest.fixture(scope="module", autouse=True)
def _tracker() -> None:
    # Python's own helper of multiprocessing, which ends with this process and not with a test.
    resource_tracker.ensure_running()


@pytest.fixture
def handler() -> Iterator[logging.StreamHandler[Any]]:
    """The handler of distributed's log messages in a runner."""
    logger, made = logging.getLogger("distributed.worker"), logging.StreamHandler(sys.stderr)
    before = {h: list(h.filters) for name in ("distributed", "") for h in handlers(name)}
    logger.addHandler(made)
    yield made
    logger.removeHandler(made)
    for each, filters in before.items():
        each.filters = filters


def handlers(name: str) -> list[logging.Handler]:
    return logging.getLogger(name).handlers


@pytest.mark.unit
@pytest.mark.parametrize("beside", [True, False])
def test_the_log_has_the_whole_message(handler: logging.StreamHandler[Any], beside: bool) -> None:
    transport, behind = Recorded(beside=beside), Behind()
    prints = PrintStreams(transport, Limits(burst=2, rate=1e-3))
    handler.setStream(CallStream(2, behind, prints))  # type: ignore[arg-type]
    show_failures_in_one_line()
    show_failures_in_one_line()  # a second worker of the process adds nothing
    for number in range(4):
        handler.handle(record(f"k{number}", "<f()>", "ValueError()"))
    shown = [text for _, text, kind in transport.sent if kind != KEEP]
    assert shown == ["k0 failed: ValueError()\n", "k1 failed: ValueError()\n"]
    kept = "".join(text for _, text, kind in transport.sent if kind == KEEP)
    log = behind.text if beside else kept
    assert log.count("Compute Failed") == 4
    assert log.count("Traceback") == 4
    # Other messages are as they were.
    other = logging.LogRecord(
        "distributed.worker", 40, "w.py", 1, "Something else %s", ("x",), None
    )
    handler.handle(other)
    assert "Something else x" in behind.text


def fails(rate: float, *, seed: int) -> None:
    raise ValueError(f"rate {rate} is bad")


@pytest.mark.process
def test_each_failed_call_is_one_line(flame: Any, capfd: pytest.CaptureFixture[str]) -> None:
    cluster, client = flame(max=2, concurrency=4)
    futures = client.map(fails, range(20), seed=3)
    futures.append(client.submit(fails, 0.5, seed=4, key="mine"))
    for future in futures:
        with pytest.raises(ValueError, match="is bad"):
            future.result()
    text = ""

    def lines() -> list[str]:
        nonlocal text
        captured = capfd.readouterr()
        text += captured.out + captured.err
        return text.splitlines()

    wait_for(lambda: len(lines()) >= 21)
    wait_for(lambda: "".join(cluster.get_logs().values()).count("Traceback: ") >= 21)
    expected = {f"fails(rate={n}, seed=3) failed: ValueError('rate {n} is bad')" for n in range(20)}
    expected.add("mine failed: ValueError('rate 0.5 is bad')")
    assert {each.partition("] ")[2] for each in lines()} == expected
    assert len(lines()) == 21


@pytest.mark.process
def test_many_failures_are_limited_like_prints(
    flame: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    with dask.config.set({"flame.prints.burst": 5, "flame.prints.rate": 1e-3}):
        cluster, client = flame(max=1)
        futures = client.map(fails, range(30), seed=1)
        for future in futures:
            assert isinstance(future.exception(), ValueError)
        wait_for(lambda: "".join(cluster.get_logs().values()).count("Traceback: ") >= 30)
        client.close()
        cluster.close()
    shown = [each for each in capfd.readouterr().out.splitlines() if "failed: ValueError" in each]
    assert 5 <= len(shown) <= 16  # the first, and at most ten of the last


@pytest.mark.process
def test_workers_of_other_clusters_log_as_before() -> None:
    with (
        LocalCluster(n_workers=1, processes=True, dashboard_address=":0") as stock,
        Client(stock) as client,
    ):
        client.register_plugin(Prints())
        with pytest.raises(ValueError, match="is bad"):
            client.submit(fails, 1, seed=1).result()

        def filters() -> list[str]:
            found = [h for name in ("distributed", "") for h in logging.getLogger(name).handlers]
            return [type(each).__module__ for h in found for each in h.filters]

        (found,) = client.run(filters).values()
        assert found == []
        (logs,) = client.get_worker_logs().values()
        assert any("Compute Failed" in message for _, message in logs)


def broken() -> None:
    raise RuntimeError("no licence")


@pytest.mark.process
@pytest.mark.parametrize("option", ["setup", "preload of the driver", "preload"])
def test_a_boot_that_fails_is_told_once_for_all_runners(
    option: str,
    flame: Any,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    why = "setup=broken has failed: RuntimeError: no licence"
    options: dict[str, Any] = {"setup": broken}
    if option != "setup":
        # An installed module is imported before the runner connects, and a local one after that.
        monkeypatch.syspath_prepend(str(tmp_path))
        (tmp_path / "licensed.py").write_text("raise RuntimeError('no licence')\n")
        why = "preload='licensed' cannot be imported: RuntimeError: no licence"
        options = {"preload": ["licensed"], "code": option != "preload"}
    cluster, client = flame(max=3, **options)
    with pytest.raises(FlameError, match=r"(?s)Traceback \(most recent.*no licence"):
        client.gather(client.map(abs, range(3)))
    client.close()
    cluster.close()
    assert capfd.readouterr().out == ""
    first, second = [r.getMessage() for r in caplog.records if r.name == "dask_flame"]
    assert first.startswith("failed: runner-")
    assert first.endswith(f": {why}")
    assert second.startswith("failed: 3 calls that waited: 3 boots failed in a row")
    # The calls' failure has the cause in one line, too; the output is in their errors.
    assert first.count("no licence") == second.count("no licence") == 1
    assert second.endswith("RuntimeError: no licence")
    assert "Traceback" not in first + second
