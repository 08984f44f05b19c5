"""Runs are kept in a file across clusters, and nothing about it harms calls."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import random
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask
import pytest
from click.testing import CliRunner
from distributed import Client

import dask_flame
from dask_flame import FlameCluster, FlameError, Reports
from dask_flame.cli.commands import flame as command
from dask_flame.reports import CallReports, Series
from dask_flame.reports.driver import keeper
from dask_flame.reports.driver.archive import Archive, Limits
from dask_flame.reports.driver.keeper import RunKeeper
from dask_flame.reports.runs import Run
from tests.reports.driver.archive_calls import train
from tests.reports.driver.test_replica import stock
from tests.support.waiting import wait_for

Make = Callable[..., tuple[FlameCluster, Client]]


def call(key: Any = "a", run: str = "7f", n: int = 3, **fields: Any) -> CallReports:
    loss = Series(range(n), [1 / (1 + i) for i in range(n)], [100.0 + i for i in range(n)], n)
    odd = Series([0, 1], [math.nan, math.inf], [100.0, 101.0], 2)
    told = {"parameters": {"rate": 0.5, "deep": None}, "function": "train", "submitted": 99.0}
    given: dict[str, Any] = {"series": {"loss": loss, "odd": odd}, "run": run, **told, **fields}
    series = given.pop("series")
    return CallReports(key, "runner-1", "done", 1, 100.0, 101.5, series, **given)


def same(a: CallReports, b: CallReports) -> bool:
    """Whether two calls are the same, with NaN equal to itself."""
    return repr((plain(a), a.earlier)) == repr((plain(b), b.earlier))


def plain(call: CallReports) -> Any:
    series = {n: (*map(list, (s.steps, s.values, s.times)), s.made) for n, s in call.series.items()}
    return replace(call, series={}, earlier=()), series


@pytest.mark.unit
def test_what_is_written_is_read(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "new" / "runs.db")
    assert (archive.runs(), archive.calls("7f")) == ([], {})
    before = replace(call("b"), state="lost")
    again = replace(call("b"), attempt=2, earlier=(before,), submitted=98.0)
    one, two = Run("7f", "sweep", 99.0, 2, named=True), Run("80", "train", 90.0, 1)
    archive.write([one, two], [call("a"), call(("t", 1), "80")])
    archive.write([replace(one, total=3)], [again, call("a", n=5)])
    assert archive.runs() == [two, replace(one, total=3)]
    found = archive.calls("7f")
    assert list(found) == ["b", "a"]  # by their submission
    assert same(found["a"], call("a", n=5))
    assert plain(found["b"])[0] == plain(again)[0]
    assert [plain(c)[0] for c in found["b"].earlier] == [plain(before)[0]]
    assert list(archive.calls("80")) == [("t", 1)]
    assert stat.S_IMODE(archive.path.stat().st_mode) == 0o600


@pytest.mark.unit
def test_long_series_are_thinned(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "runs.db")
    archive.write([], [call(n=4_000)])
    loss = archive.calls("7f")["a"].series["loss"]
    assert 250 < len(loss) <= 1_000
    assert (loss.made, loss.steps[0], loss.steps[-1]) == (4_000, 0, 3_999)


@pytest.mark.unit
def test_several_drivers_may_write_at_once(tmp_path: Path) -> None:
    errors: list[Exception] = []
    ready = threading.Barrier(4)

    def write(i: int) -> None:
        archive = Archive(tmp_path / "runs.db")
        ready.wait()
        try:
            for n in range(20):
                archive.write([Run(str(i), "train", float(i), n)], [call(f"c{n}", str(i))])
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    archive = Archive(tmp_path / "runs.db")
    assert [run.total for run in archive.runs()] == [19] * 4
    assert all(len(archive.calls(str(i))) == 20 for i in range(4))


@pytest.mark.unit
@pytest.mark.parametrize("version", [0, 7])
def test_a_file_of_another_version_or_program_is_left_alone(tmp_path: Path, version: int) -> None:
    path = tmp_path / "runs.db"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 7" if version else "CREATE TABLE theirs (a TEXT)")
    connection.commit()
    connection.close()
    with pytest.raises(FlameError, match="not written by this version"):
        Archive(path).write([], [call()])
    with pytest.raises(FlameError, match="not written by this version"):
        Archive(path).runs()


@pytest.mark.unit
def test_a_file_that_cannot_be_written_is_said_once_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(keeper, "_INTERVAL", 0.01)
    (tmp_path / "runs.db").mkdir()
    asked = threading.Semaphore(0)

    def calls() -> dict[Any, CallReports]:
        asked.release()
        return {"a": call()}

    with caplog.at_level(logging.WARNING, "dask_flame"):
        kept = RunKeeper(tmp_path / "runs.db", list, calls)
        for _ in range(3):
            assert asked.acquire(timeout=30)
        (tmp_path / "runs.db").rmdir()
        wait_for(lambda: Archive(tmp_path / "runs.db").calls("7f"), what="the file")
        kept.close()
    assert caplog.text.count("runs cannot be kept in") == 1
    # Of a run that the driver was told nothing of.
    assert [run.name for run in Archive(tmp_path / "runs.db").runs()] == ["train"]


@pytest.mark.unit
def test_only_what_has_changed_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[list[str]] = []
    write = Archive.write

    def note(self: Archive, runs: Any, calls: Any) -> None:
        written.append([c.key for c in calls])
        write(self, runs, calls)

    monkeypatch.setattr(Archive, "write", note)
    monkeypatch.setattr(keeper, "_INTERVAL", 0.01)
    there = {"a": call("a"), "b": call("b", run="")}
    kept = RunKeeper(tmp_path / "runs.db", lambda: [Run("7f", "sweep", 1.0, 2)], lambda: there)
    wait_for(lambda: len(written) == 1, what="the first write")
    there = there | {"b": call("b", run="", n=4)}
    wait_for(lambda: len(written) == 2, what="the second write")
    kept.close()
    assert written == [["a", "b"], ["b"]]
    assert {run.name for run in Archive(tmp_path / "runs.db").runs()} == {"sweep", "train"}


SCRIPT = """
import sys
from dask.distributed import Client
import dask, dask_flame
from tests.reports.driver.archive_calls import train

if __name__ == "__main__":
    dask.config.set({"flame.reports.keep": sys.argv[1]})
    cluster = dask_flame.FlameCluster(max=2, dashboard_address=None)
    with cluster, Client(cluster) as client:
        with dask_flame.run("depth sweep"):
            client.gather(client.map(train, [0.5, 0.25]))
"""


@pytest.mark.process
def test_a_run_is_there_as_soon_as_its_calls_are_submitted(flame: Make) -> None:
    _, client = flame(max=1)
    for name in map(str, range(20)):
        with dask_flame.run(name):
            futures = client.map(train, [0.5, 0.25], pure=False)
        assert dask_flame.runs()[-1].name == name
    client.gather(futures)


@pytest.mark.process
def test_runs_of_an_earlier_driver_are_found(flame: Make, tmp_path: Path) -> None:
    path = tmp_path / "kept" / "runs.db"
    subprocess.run([sys.executable, "-c", SCRIPT, str(path)], check=True, timeout=120)
    with dask.config.set({"flame.reports.keep": str(path)}):
        (alone,) = dask_flame.runs()
        _, client = flame(max=1)
        client.submit(train, 1.0).result()
        earlier, present = dask_flame.runs()
    assert [run.name for run in (alone, earlier, present)] == ["depth sweep"] * 2 + ["train"]
    assert [run.kept for run in (earlier, present)] == [True, False]
    assert [c.state for c in earlier.calls.values()] == ["done", "done"]
    frame = earlier.to_pandas()
    assert list(frame.name.unique()) == ["rate=0.5", "rate=0.25"]
    assert frame[frame.rate == 0.25].loss.tolist() == [0.25 / (1 + i) for i in range(5)]
    assert [c.parameters["rate"] for c in present.calls.values()] == [1.0]
    shown = run_command(path, "runs")
    assert "depth sweep" in shown
    assert "2 done" in shown
    assert run_command(path, "runs", "depth sweep").splitlines()[1].split()[:2] == [
        *("rate=0.5", "done")
    ]
    listed = json.loads(run_command(path, "runs", "-o", "json"))[0]
    assert (listed["name"], listed["total"], listed["done"]) == ("depth sweep", 2, 2)
    told = json.loads(run_command(path, "runs", listed["id"], "-o", "json"))
    assert [one["last"] for one in told] == [{"loss": 0.1}, {"loss": 0.05}]


def run_command(path: Path, *words: str) -> str:
    with dask.config.set({"flame.reports.keep": str(path)}):
        done = CliRunner().invoke(command, words)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.process
def test_on_any_dask_cluster_the_present_runs_are_listed() -> None:
    with stock(Reports()) as cluster, Client(cluster) as client:
        client.gather(client.map(train, [0.5, 0.25]))
        (run,) = dask_flame.runs(client)
        assert [c.state for c in run.calls.values()] == ["done", "done"]
    with (
        stock() as cluster,
        Client(cluster) as client,
        pytest.raises(FlameError, match="no Reports"),
    ):
        dask_flame.runs(client)
    with pytest.raises(TypeError, match=r"is not a distributed\.Client"):
        dask_flame.runs(3)  # type: ignore[arg-type]


@pytest.mark.unit
def test_the_command_says_how_to_keep_runs(tmp_path: Path) -> None:
    done = CliRunner().invoke(command, ["runs"])
    assert (done.exit_code, "flame.reports.keep" in done.output) == (1, True)
    assert run_command(tmp_path / "none.db", "runs") == "no runs\n"
    (tmp_path / "text.db").write_text("no database, but long enough to look like one" * 9)
    with dask.config.set({"flame.reports.keep": str(tmp_path / "text.db")}):
        done = CliRunner().invoke(command, ["runs", "sweep"])
    assert (done.exit_code, "cannot be read" in done.output) == (1, True)


DAY = 86_400.0


def filled(path: Path, n: int) -> Archive:
    """Return an archive with runs "0", "1", … that began a day apart; the last is the newest."""
    archive = Archive(path)
    for i in range(n):
        run = Run(str(i), f"run {i}", i * DAY, 1)
        archive.write([run], [call(run=str(i), n=100)])
        age(path, str(i), i * DAY)
    return archive


def age(path: Path, run: str, at: float) -> None:
    """Let a run have been written at some time."""
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE written SET at = ? WHERE run = ?", (at, run))


@pytest.mark.unit
def test_the_oldest_runs_are_removed(tmp_path: Path) -> None:
    archive = filled(tmp_path / "runs.db", 6)
    size = max(archive.sizes().values()) + 1
    now = 100 * DAY

    def left() -> list[str]:
        assert set(archive.sizes()) == {run.id for run in archive.runs()}
        return [run.id for run in archive.runs()]

    assert archive.prune(Limits(), now=now) == 0
    assert archive.prune(Limits(runs=5), now=now) == 1
    assert left() == ["1", "2", "3", "4", "5"]
    assert archive.prune(Limits(size=4 * size), now=now) == 1
    assert archive.prune(Limits(age=96.5 * DAY), now=now) == 2
    assert left() == ["4", "5"]
    # Own runs are not removed, and none that another driver may still write.
    assert archive.prune(Limits(runs=1), {"4"}, now=now) == 1
    assert left() == ["4"]
    archive.write([Run("new", "new", 0.0, 1)], [])
    assert archive.prune(Limits(runs=1, size=0, age=1.0), {"4"}) == 0
    archive.delete(["4", "none"])
    assert [run.id for run in archive.runs()] == ["new"]


@pytest.mark.unit
def test_a_file_becomes_smaller(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    archive = Archive(path)
    for i in range(8):
        noise = [random.Random(1000 * i + k).random() for k in range(1000)]
        series = {"loss": Series(range(1000), noise, noise, 1000)}
        archive.write([Run(str(i), "run", i * DAY, 1)], [call(run=str(i), series=series)])
        age(path, str(i), i * DAY)

    def bytes_on_disk() -> int:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return path.stat().st_size

    before = bytes_on_disk()
    assert archive.prune(Limits(runs=1), now=100 * DAY) == 7
    assert bytes_on_disk() < before / 2


@pytest.mark.unit
def test_a_file_of_an_earlier_version_is_pruned_too(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    archive = filled(path, 3)
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DROP TABLE written")
    assert archive.prune(Limits(runs=2), now=100 * DAY) == 1
    archive.write([Run("9", "run", 9.0, 1)], [call(run="9")])
    assert [run.id for run in archive.runs()] == ["9", "1", "2"]


@pytest.mark.unit
def test_a_driver_removes_nothing_that_another_one_writes(tmp_path: Path) -> None:
    """Two drivers write and prune at once; each call that was written has its run."""
    path = tmp_path / "runs.db"
    filled(path, 10)
    errors: list[BaseException] = []

    def drive(name: str) -> None:
        archive = Archive(path)
        try:
            for i in range(20):
                run = Run(f"{name}{i}", name, 50 * DAY + i, 1)
                archive.write([run], [call(run=run.id)])
                archive.prune(Limits(runs=3), {run.id})
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=drive, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    archive = Archive(path)
    assert {run.id for run in archive.runs()} == {f"{n}{i}" for n in "ab" for i in range(20)}
    assert set(archive.sizes()) == {run.id for run in archive.runs()}


@pytest.mark.process
def test_a_cluster_prunes_the_file_that_it_writes(flame: Make, tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    filled(path, 5)
    with dask.config.set({"flame.reports.keep": str(path), "flame.reports.keep-runs": 2}):
        cluster, client = flame(max=1)
        client.submit(train, 1.0).result()
        client.close()
        cluster.close()
    assert [run.name for run in Archive(path).runs()] == ["run 4", "train"]


@pytest.mark.unit
def test_a_run_is_removed_by_a_command(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    archive = filled(path, 3)
    with dask.config.set({"flame.reports.keep": str(path)}):
        kept = CliRunner().invoke(command, ["runs", "run 1", "--delete"], input="n\n")
        assert (kept.exit_code, len(archive.runs())) == (1, 3)
        assert CliRunner().invoke(command, ["runs", "--delete"]).exit_code == 2
        assert CliRunner().invoke(command, ["runs", "none", "--delete", "-y"]).exit_code == 1
    told = run_command(path, "runs", "run 1", "--delete", "--yes")
    assert told.splitlines()[0].split() == ["RUN", "AGE", "CALLS", "SIZE", "STATES", "ID"]
    assert told.splitlines()[-1] == "removed"
    assert [run.id for run in archive.runs()] == ["0", "2"]
    (item,) = json.loads(run_command(path, "runs", "2", "--delete", "-y", "-o", "json"))
    assert (item["id"], item["size"] > 0) == ("2", True)


@pytest.mark.unit
def test_a_run_that_cannot_be_read_hides_no_other_and_can_be_removed(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    filled(path, 2)
    good, bad = "0", "1"
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE calls SET content = ? WHERE run = ?", (b"junk", bad))
    listed = json.loads(run_command(path, "runs", "--output", "json"))
    assert [run["id"] for run in listed] == [good, bad]
    assert "cannot be read" in listed[1]["error"]
    with pytest.raises(FlameError, match="--delete"):
        Archive(path).calls(bad)
    assert "removed" in run_command(path, "runs", bad, "--delete", "--yes")
    assert [run["id"] for run in json.loads(run_command(path, "runs", "--output", "json"))] == [
        good
    ]
