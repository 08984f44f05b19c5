"""What ended a local runner, and which GPUs it sees: the parts that need no process."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from dask_flame.backends.local.exit_reasons import ExitReasons
from dask_flame.backends.local.gpu_allocation import GpuAllocation
from dask_flame.runner.devices import VISIBLE

pytestmark = pytest.mark.unit


def test_exit_codes_and_signals_in_words(tmp_path: Path) -> None:
    counters = tmp_path / "vmstat"
    counters.write_text("nr_free_pages 1\noom_kill 3\n")
    ends = ExitReasons(counters)
    assert ends.why(3, forced=False) == "exit code 3"
    assert ends.why(-signal.SIGSEGV, forced=False) == "killed by SIGSEGV"
    assert ends.why(-signal.SIGKILL, forced=True) == "ended by force"
    assert ends.why(-signal.SIGKILL, forced=False) == "killed by SIGKILL"
    counters.write_text("oom_kill 4\n")
    words = ends.why(-signal.SIGKILL, forced=False)
    assert words == "killed by SIGKILL: the kernel ended it for want of memory"
    assert ends.why(-signal.SIGKILL, forced=False) == "killed by SIGKILL"


def test_where_the_kernel_does_not_count_it_is_only_suspected(tmp_path: Path) -> None:
    ends = ExitReasons(tmp_path / "nothing")
    assert ends.why(-9, forced=False) == "killed by SIGKILL, perhaps for want of memory"


def test_gpus_are_shared_out_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VISIBLE, "0,2,GPU-5")
    devices = GpuAllocation()
    assert devices.give("a", 1) == {VISIBLE: "0"}
    assert devices.give("b", 2) == {VISIBLE: "2,GPU-5"}
    devices.take_back("a")
    assert devices.give("c", 1) == {VISIBLE: "0"}
    assert devices.give("d", 1) in ({VISIBLE: "0"}, {VISIBLE: "2"})
    assert devices.give("none", 0) == {}


def test_more_gpus_than_there_are_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(VISIBLE, "")
    devices = GpuAllocation()
    for _ in range(3):
        devices.warn_of(1)
    assert caplog.messages == ["gpus=1: this machine shows 0 GPUs; runners run without"]
    assert devices.give("a", 1) == {}
