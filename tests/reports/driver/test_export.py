"""Data frames, CSV files and TensorBoard's logs have what the store has."""

from __future__ import annotations

import csv
import math
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from dask_flame.reports import ReportStore
from dask_flame.reports.driver.export import COLUMNS, _table
from dask_flame.reports.wire import Batch

FIRST = 1_700_000_000.0
FIXED = ["call", "attempt", "runner", "pool", "state", "step", "time"]
FIXED += ["name", "function", "run", "label", "run_id"]
#: Parameters of calls, two of which have the names of other columns.
PARAMETERS = {"rate": 0.5, "model.layers": 4, "step": "cosine", "bias": None}


def add(
    store: ReportStore, key: Any, run: str = "a", about: Any = None, /, **values: list[float | None]
) -> None:
    n = len(next(iter(values.values())))
    times = [FIRST + i / 4 for i in range(n)]
    rows = {k: [i for i, v in enumerate(c) if v is not None] for k, c in values.items()}
    there = {k: [v for v in c if v is not None] for k, c in values.items()}
    who, pool = f"runner-{key}", f"pool-{key}"
    told = {} if about is None else {"function": "train", "run": "7f", **about}
    store.add(Batch(key, run, who, False, range(n), times, there, pool, told, rows=rows))


@pytest.fixture
def store() -> ReportStore:
    """One call that is done, one in its second attempt, one whose key is a tuple."""
    store = ReportStore()
    store.run_names = lambda: {"7f": "depth sweep"}
    told = {"parameters": PARAMETERS, "label": "the first"}
    add(store, "a", "a", told, loss=[3.0, math.nan, 1.0], acc=[None, 0.5, None])
    store.end("a", "done", FIRST + 9)
    add(store, "b", "a", loss=[8.0])
    store.end("b", "lost", FIRST + 9)
    add(store, "b", "b", loss=[7.0, 6.0])
    add(store, ("block", 1), time=[0.25], rate=[math.inf])
    return store


@pytest.mark.unit
def test_calls_have_the_names_of_the_page(store: ReportStore) -> None:
    assert store.names() == {"a": "the first", "b": "b", ("block", 1): "block, 1"}


@pytest.mark.unit
def test_a_frame_has_a_row_for_each_report(store: ReportStore) -> None:
    frame = store.to_pandas()
    given = ["rate_", "model.layers", "step_", "bias"]
    assert list(frame.columns) == [*FIXED, *given, "loss", "acc", "time_", "rate"]
    assert list(COLUMNS) == FIXED
    assert list(frame.loc[0, ["name", "function", "run", "label", "run_id"]]) == [
        *("the first", "train", "depth sweep", "the first", "7f")
    ]
    assert list(frame.loc[0, given]) == list(PARAMETERS.values())
    assert list(frame.loc[4, ["name", "function", "run", "label"]]) == ["b", "", "", ""]
    assert frame.loc[4, given].isna().all()
    assert [str(frame[n].dtype) for n in ("attempt", "step", "loss")] == [
        "int64",
        "int64",
        "float64",
    ]
    assert list(frame.call) == ["a"] * 3 + ["b"] * 3 + [("block", 1)]
    assert list(frame.attempt) == [1, 1, 1, 1, 2, 2, 1]
    assert list(frame.state) == ["done"] * 3 + ["lost"] + ["running"] * 3
    assert list(frame.step) == [0, 1, 2, 0, 0, 1, 0]
    assert (frame.runner[0], frame.pool[0]) == ("runner-a", "pool-a")
    assert frame.time[1] == pd.Timestamp(FIRST + 0.25, unit="s", tz="UTC")
    assert frame.loss.dropna().tolist() == [3.0, 1.0, 8.0, 7.0, 6.0]
    assert frame.acc.dropna().tolist() == [0.5]
    assert (frame.time_.iloc[-1], frame.rate.iloc[-1]) == (0.25, math.inf)


@pytest.mark.unit
def test_an_empty_store_has_the_columns_too() -> None:
    frame = ReportStore().to_pandas()
    assert (list(frame.columns), len(frame)) == (FIXED, 0)
    assert str(frame.time.dtype).endswith("UTC]")


@pytest.mark.unit
def test_a_csv_file_says_the_same(store: ReportStore, tmp_path: Path) -> None:
    store.to_csv(tmp_path / "reports.csv")
    with (tmp_path / "reports.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    given = ["rate_", "model.layers", "step_", "bias"]
    assert header == [*FIXED, *given, "loss", "acc", "time_", "rate"]
    when = "2023-11-14T22:13:20.250000+00:00"
    about = ["the first", "train", "depth sweep", "the first", "7f", "0.5", "4", "cosine", ""]
    assert rows[1] == [
        "a",
        "1",
        "runner-a",
        "pool-a",
        "done",
        "1",
        when,
        *about,
        "nan",
        "0.5",
        "",
        "",
    ]
    assert rows[-1][0] == "('block', 1)"
    frame = pd.read_csv(tmp_path / "reports.csv", parse_dates=["time"])
    there = ["attempt", "step", "time", "state", "loss", "acc", "time_", "rate"]
    pd.testing.assert_frame_equal(frame[there], store.to_pandas()[there], check_dtype=False)


@pytest.mark.parametrize(
    ("which", "keys"),
    [
        ({}, ["a", "b", ("block", 1)]),
        ({"call": "b"}, ["b"]),
        ({"call": ("block", 1)}, [("block", 1)]),
        ({"call": ["a", ("block", 1)]}, ["a", ("block", 1)]),
        ({"runner": {"runner-a", "runner-b"}}, ["a", "b"]),
        ({"pool": "pool-b"}, ["b"]),
        ({"state": ["done", "failed"]}, ["a"]),
        ({"metric": "loss"}, ["a", "b"]),
        ({"metric": "acc", "state": "running"}, []),
    ],
    # A set's text is another one in each process, and these are one name each.
    ids=lambda value: ",".join(value) if isinstance(value, dict) else None,
)
@pytest.mark.unit
def test_some_of_it_can_be_selected(store: ReportStore, which: Any, keys: list[Any]) -> None:
    found = store.select(**which)
    assert list(found) == keys
    if "metric" in which:
        assert all(set(c.series) <= {which["metric"]} for c in found.values())
    assert list(store.to_pandas(**which).call.unique()) == keys


# TensorBoard


def records(folder: Path) -> Iterator[bytes]:
    """What is in the only log of a folder: TFRecords, as TensorBoard reads them."""
    (log,) = folder.glob("events.out.tfevents.*")
    data = log.read_bytes()
    while data:
        (n,) = struct.unpack("<Q", data[:8])
        yield data[12 : 12 + n]
        data = data[16 + n :]


def scalars(folder: Path) -> list[tuple[str, int, float, float]]:
    event = pytest.importorskip("tensorboardX.proto.event_pb2").Event
    found = []
    for record in records(folder):
        read = event.FromString(record)
        found += [(v.tag, read.step, v.simple_value, read.wall_time) for v in read.summary.value]
    return found


@pytest.mark.process  # tensorboardX imports PyTorch, which takes seconds
def test_tensorboard_has_a_run_for_each_call(store: ReportStore, tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "events.out.tfevents.1.other").write_bytes(b"")
    runs = store.to_tensorboard(tmp_path, metric=["loss", "rate"])
    assert [run.name for run in runs] == ["a", "b-attempt-1", "b", "_block_, 1_"]
    assert len(list((tmp_path / "b").iterdir())) == 2  # somebody else's is left alone
    (tmp_path / "b" / "events.out.tfevents.1.other").unlink()
    store.to_tensorboard(tmp_path, metric=["loss", "rate"])  # in place of the first
    *summaries, first, second, third = scalars(tmp_path / "a")
    assert [tag for tag, *_ in summaries] == [
        f"_hparams_/{part}" for part in ("experiment", "session_start_info", "session_end_info")
    ]
    assert b"model.layers" in (log := b"".join(records(tmp_path / "a")))
    assert b"cosine" in log
    got = [first, second, third]
    assert [(tag, step, at) for tag, step, _, at in got] == [
        ("loss", i, FIRST + i / 4) for i in range(3)
    ]
    assert (got[0][2], math.isnan(got[1][2]), got[2][2]) == (3.0, True, 1.0)
    assert [value for _, _, value, _ in scalars(tmp_path / "b")] == [7.0, 6.0]
    assert scalars(tmp_path / "_block_, 1_")[0][:3] == ("rate", 0, math.inf)


@pytest.mark.process  # tensorboardX imports PyTorch, which takes seconds
def test_runs_have_names_of_their_own(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    store = ReportStore()
    for key in ("../x/y", "../x:y", "../X*y", "", "é" * 400):
        add(store, key, loss=[1.0])
    runs = store.to_tensorboard(tmp_path / "runs")
    assert {run.parent for run in runs} == {tmp_path / "runs"}
    assert len({run.name.lower() for run in runs}) == 5
    assert sorted(run.name for run in (tmp_path / "runs").iterdir()) == sorted(
        run.name for run in runs
    )


@pytest.mark.parametrize(
    "nasty", ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(1)", "\t=1", "\r=1", "\uff1d1+1"]
)
@pytest.mark.unit
def test_no_cell_of_a_csv_file_is_a_formula(nasty: str, tmp_path: Path) -> None:
    store = ReportStore()
    times = [FIRST, FIRST + 1]
    values = {nasty: [-1.5, math.inf], "loss": [-2.0, 1e-9]}
    store.add(Batch(nasty, "a", nasty, False, [0, 1], times, values, nasty))
    store.add(Batch((nasty, 1), "a", "r", False, [0], [FIRST], {"loss": [-math.inf]}))
    store.to_csv(tmp_path / "reports.csv")
    with (tmp_path / "reports.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == [*FIXED, f"'{nasty}", "loss"]
    assert [rows[0][FIXED.index(n)] for n in ("call", "runner", "pool")] == [f"'{nasty}"] * 3
    # Numbers are numbers, below zero too.
    assert [float(row[-1]) for row in rows] == [-2.0, 1e-9, -math.inf]
    assert [float(row[-2]) for row in rows[:2]] == [-1.5, math.inf]
    for cell in [cell for row in (header, *rows) for cell in row]:
        assert cell[:1] not in "=+@\t\r\uff1d" or not cell
        assert cell[:1] != "-" or math.isfinite(float(cell)) or float(cell) < 0


@pytest.mark.unit
def test_a_csv_file_of_many_names_is_written_a_line_at_a_time(tmp_path: Path) -> None:
    store = ReportStore(total=300_000)
    for call in range(30):
        names = {f"c{call}-{i}": [1.0] for i in range(100)}
        store.add(Batch(f"call-{call}", "a", "r", False, [0], [FIRST], names))
    names, _, rows = _table(store.calls.values(), dict.fromkeys(store.calls, "call"), {})
    assert len(names) == len(FIXED) + 3_000
    assert next(rows)[len(FIXED)] == 1.0
    store.to_csv(tmp_path / "reports.csv")
    assert (tmp_path / "reports.csv").read_text().count("\n") == 31


# MLflow and W&B


@pytest.mark.process
@pytest.mark.filterwarnings("ignore")  # of other libraries
def test_mlflow_has_a_run_for_each_attempt(store: ReportStore, tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    ids = store.to_mlflow(tmp_path / "tracked")
    assert len(ids) == len(store.to_mlflow(tmp_path / "tracked", call="a")) + 3
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'tracked' / 'mlflow.db'}")
    first, lost, again, _ = [client.get_run(run) for run in ids]
    assert [run.info.run_name for run in (first, lost, again)] == [
        *("the first", "b", "b (attempt 2)")
    ]
    assert [run.info.status for run in (first, lost, again)] == ["FINISHED", "KILLED", "RUNNING"]
    assert first.data.params == {name: str(value) for name, value in PARAMETERS.items()}
    assert first.data.tags["function"] == "train"
    told = [(m.step, m.timestamp, m.value) for m in client.get_metric_history(ids[0], "loss")]
    assert sorted(told)[::2] == [(0, FIRST * 1000, 3.0), (2, FIRST * 1000 + 500, 1.0)]


@pytest.mark.process
@pytest.mark.filterwarnings("ignore")  # of other libraries
def test_wandb_has_an_offline_run_for_each_attempt(
    store: ReportStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Otherwise it starts threads that report its own errors, when it is imported.
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    pytest.importorskip("wandb")
    folders = store.to_wandb(tmp_path / "tracked")
    assert len({*folders}) == 4
    for folder, text in zip(folders, (b"cosine", b"runner-b", b"runner-b", b"block"), strict=True):
        assert folder.parent == tmp_path / "tracked" / "wandb"
        (log,) = folder.glob("run-*.wandb")
        assert text in log.read_bytes()
    assert b"the first" in next(folders[0].glob("run-*.wandb")).read_bytes()


@pytest.mark.unit
@pytest.mark.parametrize(("name", "way"), [("mlflow", "to_mlflow"), ("wandb", "to_wandb")])
def test_a_missing_library_is_named(
    name: str, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=f"pip install {name}"):
        getattr(ReportStore(), way)(tmp_path / "tracked")
    assert not (tmp_path / "tracked").exists()
