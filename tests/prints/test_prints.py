"""What calls print is shown in the driver, with the runner and the call."""

from __future__ import annotations

import logging
import re
import subprocess
from collections.abc import Callable
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import dask
import pytest
from distributed import Client, Event, LocalCluster

from dask_flame import FlameCluster, Prints, RunnerLost
from dask_flame.core.rate_limit import Limits
from dask_flame.errors import PoolError
from tests.prints.calls import (
    beneath,
    captured,
    die,
    endless,
    flood,
    in_children,
    pieces,
    quick,
    slowly,
    talk,
)
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process

Seen = Callable[[], list[str]]


@pytest.fixture
def seen(capsys: pytest.CaptureFixture[str]) -> Seen:
    """The lines that were written to the standard output until now."""
    text = ""

    def lines() -> list[str]:
        nonlocal text
        text += capsys.readouterr().out
        return text.split("\n")[:-1]

    return lines


@pytest.fixture(scope="module", autouse=True)
def _tracker() -> None:
    # Python's own helper of multiprocessing, which ends with this process and not with a test.
    resource_tracker.ensure_running()


def appear(seen: Seen, *lines: str) -> None:
    """Wait until these lines have been written, in this order."""

    def there() -> bool:
        found = iter(seen())
        return all(line in found for line in lines)

    wait_for(there, what=f"{lines}; there are {seen()[-20:]}")


def logs(cluster: FlameCluster) -> str:
    return str(cluster.get_logs()["runner-1"])


def test_prints_logging_and_warnings_say_which_call_made_them(flame: Any, seen: Seen) -> None:
    cluster, client = flame(max=1)
    client.submit(talk, key="rate=0.1").result(timeout=60)
    appear(
        seen,
        "[runner-1 rate=0.1] a print",
        "[runner-1 rate=0.1] an error",
        "[runner-1 rate=0.1] written",
        "[runner-1 rate=0.1] take care",
        "[runner-1 rate=0.1] from a thread",
        "[runner-1 rate=0.1] last",
    )
    said = [line for line in seen() if line.startswith("[")]
    assert all(line.startswith("[runner-1 rate=0.1] ") for line in said)
    assert any(line.endswith("UserWarning: a warning") for line in said)
    assert not [line for line in said if "not shown" in line]
    assert len([line for line in said if "a print" in line]) == 1
    # It comes another way.
    log = wait_for(lambda: (log := logs(cluster)).endswith("from a thread\nlast") and log)
    assert log.startswith("a print\nan error\nwritten\ntake care\n")


def test_lines_of_calls_that_run_together_are_not_mixed(flame: Any, seen: Seen) -> None:
    _, client = flame(max=1, concurrency=3)
    gate = Event("gate", client=client)
    calls = [client.submit(pieces, key, gate, key=key) for key in ("one", "two", "three")]
    wait_for(lambda: sum(map(len, client.processing().values())) == 3)
    gate.set()
    client.gather(calls)
    for key in ("one", "two", "three"):
        appear(seen, *[f"[runner-1 {key}] {key} {i}" for i in range(30)])
    client.gather([client.submit(slowly, key, key=key) for key in ("four", "five")])
    for key in ("four", "five"):
        appear(seen, *[f"[runner-1 {key}] {key} {i}" for i in range(5)])
    assert all(re.fullmatch(r"\[runner-1 (\w+)\] \1 \d+", line) for line in seen())


def test_what_is_written_beneath_python_is_of_the_call_that_runs_alone(
    flame: Any, seen: Seen
) -> None:
    _, client = flame(max=1, concurrency=2)
    client.submit(beneath, "alone", key="first").result()
    client.submit(beneath, "then", key="second").result()
    appear(seen, "[runner-1 first] alone", "[runner-1 first] alone again")
    appear(seen, "[runner-1 second] then", "[runner-1 second] then again")
    gate = Event("gate", client=client)
    both = [client.submit(beneath, name, gate, key=name) for name in ("a", "b")]
    wait_for(lambda: sum(map(len, client.processing().values())) == 2)
    gate.set()
    # The first to end leaves the other alone.
    client.gather(both)
    wait_for(lambda: sum(line.endswith(("] a", "] b")) for line in seen()) == 2)
    first = next(line for line in seen() if line.endswith(("] a", "] b")))
    assert first in ("[runner-1] a", "[runner-1] b")


def test_many_short_calls_are_not_taken_for_one_another(flame: Any, seen: Seen) -> None:
    _, client = flame(max=1)
    client.gather([client.submit(quick, n, key=f"call-{n}") for n in range(100)])
    appear(seen, *[f"[runner-1 call-{n}] raw {n}" for n in range(100)])


@pytest.mark.parametrize("how", ["killed", "crashes"])
def test_what_was_printed_before_a_runner_dies_is_shown(how: str, flame: Any, seen: Seen) -> None:
    cluster, client = flame(max=1)
    with dask.annotate(rerun=False):
        lost = client.submit(die, how, key="mine")
    with pytest.raises(RunnerLost) as error:
        lost.result(timeout=60)
    assert "printed last:\n    begun\n    last words" in str(error.value)
    assert "\x1e" not in str(error.value) + str(cluster.get_logs())
    appear(seen, "[runner-1 mine] begun", "[runner-1 mine] last words")


def test_a_call_that_prints_without_end_is_held_back_and_that_is_said(
    flame: Any, seen: Seen
) -> None:
    with dask.config.set({"flame.prints.burst": 30, "flame.prints.rate": 1e-3}):
        cluster, client = flame(max=1)
    client.submit(flood, 5_000, key="loud").result(timeout=60)
    appear(
        seen,
        *[f"[runner-1 loud] line {i}" for i in range(30)],
        "[runner-1 loud] \u2026 4,960 lines not shown; cluster.get_logs() has the last of them",
        *[f"[runner-1 loud] line {i}" for i in range(4_990, 5_000)],
    )
    assert len(seen()) == 41
    end = "".join(f"line {i}\n" for i in range(4_000, 5_000))
    log = wait_for(lambda: (log := logs(cluster)).endswith(end) and log)
    assert len(log) == 16_000
    # The next one has a bucket of its own.
    client.submit(print, "quiet", key="next").result()
    appear(seen, "[runner-1 next] quiet")


def test_what_was_left_out_is_said_while_the_call_goes_on(flame: Any, seen: Seen) -> None:
    with dask.config.set({"flame.prints.burst": 5, "flame.prints.rate": 10}):
        cluster, client = flame(max=1)
    gate = Event("gate", client=client)
    call = client.submit(flood, 1_000, gate, key="loud")
    appear(
        seen,
        "[runner-1 loud] line 4",
        "[runner-1 loud] \u2026 985 lines not shown; cluster.get_logs() has the last of them",
        "[runner-1 loud] line 999",
    )
    wait_for(lambda: "line 999\n" in str(cluster.get_logs()["runner-1"]))
    gate.set()
    call.result()


def test_what_a_process_prints_without_end_is_held_back(flame: Any, seen: Seen) -> None:
    with dask.config.set({"flame.prints.burst": 30, "flame.prints.rate": 2}):
        _, client = flame(max=1)
    shell = "seq 20000"
    client.submit(subprocess.run, shell, shell=True, check=True, key="seq").result()
    appear(seen, "[runner-1 seq] 1", "[runner-1 seq] 30")

    def said() -> list[str]:
        return re.findall(r"\[runner-1\] \u2026 ([\d,]+) lines not shown", "\n".join(seen()))

    def all_of_them() -> bool:
        shown = sum("seq]" in line for line in seen())
        return shown + sum(int(count.replace(",", "")) for count in said()) == 20_000

    wait_for(all_of_them, what="lines that are shown, and a count of the others")


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_what_a_call_has_forked_is_the_calls_and_waits_for_no_lock(flame: Any, seen: Seen) -> None:
    _, client = flame(max=1)
    assert client.submit(in_children, key="forks").result(timeout=60) == [0] * 8
    appear(seen, *[f"[runner-1 forks] child {i}" for i in range(8)])


def test_who_puts_something_else_in_the_place_of_the_output_gets_plain_text(
    flame: Any, seen: Seen, tmp_path: Path
) -> None:
    _, client = flame(max=1)
    got = client.submit(captured, str(tmp_path), key="mine").result(timeout=60)
    assert got == "into the file\nfrom beneath\n"
    appear(seen, "[runner-1 mine] and back", "[runner-1 mine] bytes", "[runner-1 mine] text")


def test_handlers_of_before_the_call_know_it_too(
    flame: Any, seen: Seen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = "logging.basicConfig(level='INFO', format='%(levelname)s %(message)s')\n"
    (tmp_path / "talkative_setup.py").write_text("import logging\n" + setup)
    monkeypatch.syspath_prepend(str(tmp_path))
    _, client = flame(max=1, preload=["talkative_setup"])

    def log() -> None:
        logging.info("for information")

    client.submit(log, key="mine").result(timeout=60)
    appear(seen, "[runner-1 mine] INFO for information")


@pytest.mark.parametrize("setting", ["prints.show", "local.echo"])
def test_it_can_be_turned_off(setting: str, flame: Any, seen: Seen) -> None:
    with dask.config.set({f"flame.{setting}": False}):
        cluster, client = flame(max=1)
    client.submit(print, "hello").result()
    wait_for(lambda: str(cluster.get_logs().get("runner-1", "")) == "hello\n")
    assert seen() == []


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("prints.show", "no", r"flame.prints.show='no' in Dask's configuration is not True"),
        ("local.echo", "no", r"flame.local.echo='no' in Dask's configuration is not True"),
        ("prints.burst", 0, r"flame.prints.burst=0 in .* is not a whole number of 1 or"),
        ("prints.total-rate", "x", r"flame.prints.total-rate='x' in .* is not a number above"),
        ("prints.speed", 1, r"flame.prints.speed in Dask's configuration is no setting"),
    ],
)
def test_settings_are_checked(setting: str, value: Any, said: str) -> None:
    with (
        dask.config.set({f"flame.{setting}": value}),
        pytest.raises(PoolError, match=said),
    ):
        FlameCluster(max=1, dashboard_address=None)


def test_on_any_cluster_clients_show_it(seen: Seen) -> None:
    # Workers write to another standard output, the process's own.
    with (
        LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        client.register_plugin(Prints(Limits(burst=40, rate=1e-3)))
        client.submit(talk, key="rate=0.1").result(timeout=60)
        # Nothing is waited for: it comes before the result does.
        said = [line for line in seen() if line.startswith("[")]
        assert "[0 rate=0.1] a print" in said
        assert "[0 rate=0.1] from a thread" in said
        assert "[0 rate=0.1] last" in said
        client.submit(flood, 1_000, key="loud").result(timeout=60)
        rest = "the worker's own output has them"
        appear(
            seen,
            "[0 loud] line 39",
            f"[0 loud] \u2026 950 lines not shown; {rest}",
            "[0 loud] line 999",
        )
        client.submit(slowly, "coroutine", key="four").result()
        appear(seen, "[0 four] coroutine 4")


def test_in_the_schedulers_own_process_nothing_is_shown_twice(seen: Seen) -> None:
    with (
        LocalCluster(n_workers=1, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        client.register_plugin(Prints())
        client.submit(print, "hello").result()
        assert seen() == ["hello"]


def test_what_never_ends_a_line_is_held_back_like_lines(
    flame: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with dask.config.set({"flame.prints.burst": 5, "flame.prints.rate": 1e-3}):
        _, client = flame(max=1)
    client.submit(endless, 200, key="endless").result()
    said = ""

    def told() -> bool:
        nonlocal said
        said += capsys.readouterr().out
        return "lines not shown" in said

    wait_for(told)
    assert len(said) < 400_000  # of 4,000,000
    assert max(map(len, said.splitlines())) < 17_000
