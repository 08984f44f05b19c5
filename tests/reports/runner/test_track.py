"""Loops and trainers report by themselves: track(), transformers, Lightning."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import Client

from dask_flame import Reports, report, stop, track
from dask_flame.errors import PoolError
from dask_flame.reports import CallReports, Series
from tests.reports.driver.test_replica import stock, there
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process


@pytest.fixture
def client() -> Iterator[Client]:
    with stock(Reports()) as cluster, Client(cluster) as client:
        yield client


def reported(client: Client, key: str = "call") -> CallReports:
    return there(client.cluster).calls[key]


def points(series: Series) -> list[tuple[int, float]]:
    return list(zip(series.steps, series.values, strict=True))


# Plain loops


def epochs() -> None:
    loader = track(range(4), every=0)
    assert len(loader) == 4
    for _ in range(2):
        for i in loader:
            report(loss=float(i))


def test_a_loop_reports_its_progress_and_speed(client: Client) -> None:
    client.submit(epochs, key="call").result()
    call = reported(client)
    quarters = [0.25, 0.5, 0.75, 1.0]
    assert points(call.series["progress"]) == list(enumerate(2 * quarters, 1))
    assert list(call.series["speed"].steps) == list(range(1, 9))
    assert min(call.series["speed"].values) > 0
    # The steps of what is reported in the loop are its own.
    assert points(call.series["loss"]) == list(enumerate(2 * [0.0, 1.0, 2.0, 3.0]))


def left_early(total: int | None) -> None:
    for i in track(iter(range(1000)), total=total, every="1h"):
        if i == 250:
            break


def test_the_end_is_always_reported(client: Client) -> None:
    client.submit(left_early, 1000, key="known").result()
    assert points(reported(client, "known").series["progress"]) == [(250, 0.25)]
    client.submit(left_early, None, key="unknown").result()
    assert list(reported(client, "unknown").series) == ["speed"]


def test_outside_a_call_it_is_a_plain_loop() -> None:
    assert list(track("abc")) == ["a", "b", "c"]
    with pytest.raises(TypeError):
        len(track(iter("abc")))
    with pytest.raises(PoolError, match='every="1s"'):
        track("abc", every="soon")


def in_a_program() -> None:
    code = "import dask_flame\nfor i in dask_flame.track(range(7)): pass"
    environment = {**os.environ, **report.bind().env}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    report(after=1.0)


def test_a_program_that_a_call_starts_tracks_too(client: Client) -> None:
    client.submit(in_a_program, key="call").result()
    assert points(reported(client).series["progress"]) == [(7, 1.0)]
    assert points(reported(client).series["after"]) == [(0, 1.0)]


# transformers


def by_a_trainer(folder: str, go: str = "") -> dict[str, Any]:
    import torch
    from torch.utils.data import Dataset
    from transformers import (
        BertConfig,
        BertForSequenceClassification,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    from dask_flame.integrations.transformers import ReportCallback

    class Numbers(Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return 12

        def __getitem__(self, i: int) -> dict[str, Any]:
            return {"input_ids": torch.tensor([i % 5, 1, 2]), "labels": i % 2}

    class Waits(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if go and state.global_step == 2:
                wait_for(Path(go).exists, what="the stop")

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(vocab_size=8, intermediate_size=8, **sizes)
    args = TrainingArguments(
        output_dir=folder,
        max_steps=6,
        per_device_train_batch_size=2,
        logging_steps=2,
        eval_strategy="steps",
        eval_steps=3,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Trainer(
        model=BertForSequenceClassification(config),
        args=args,
        train_dataset=Numbers(),
        eval_dataset=Numbers(),
        callbacks=[ReportCallback(every=0), Waits()],
    )
    with warnings.catch_warnings():
        # Those of other libraries.
        warnings.simplefilter("ignore")
        trainer.train()
    logged: list[dict[str, Any]] = trainer.state.log_history
    losses = [(e["step"], e["loss"]) for e in logged if "loss" in e]
    return {"losses": losses, "steps": trainer.state.global_step}


def test_a_transformers_trainer_reports_what_it_logs(client: Client, tmp_path: Any) -> None:
    pytest.importorskip("accelerate")
    logged = client.submit(by_a_trainer, str(tmp_path), key="call").result()
    series = reported(client).series
    assert [step for step, _ in logged["losses"]] == [2, 4, 6]
    assert points(series["loss"]) == [(s, pytest.approx(v)) for s, v in logged["losses"]]
    assert [s for s, _ in points(series["eval_loss"])] == [3, 6]
    assert {"grad_norm", "learning_rate", "epoch", "speed"} <= set(series)
    assert points(series["progress"]) == [(i, i / 6) for i in range(1, 7)]


def test_a_transformers_trainer_ends_its_training_when_it_is_stopped(
    client: Client, tmp_path: Path
) -> None:
    pytest.importorskip("accelerate")
    go = tmp_path / "go"
    future = client.submit(by_a_trainer, str(tmp_path), str(go), key="call")
    store = there(client.cluster)
    wait_for(lambda: "call" in store and "loss" in store.get("call").series, what="a report")
    stop(future)
    go.touch()
    assert future.result()["steps"] == 3
    call = reported(client)
    assert call.progress == pytest.approx(3 / 6)
    assert call.state == "done"


# Lightning


def by_lightning(folder: str, go: str = "") -> int:
    import torch
    from lightning.pytorch import LightningModule, Trainer
    from torch.utils.data import DataLoader

    from dask_flame.integrations.lightning import ReportCallback, ReportLogger

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)

        def training_step(self, batch: Any, index: int) -> Any:
            loss = self.layer(batch).square().mean()
            if go and self.global_step == 3:
                wait_for(Path(go).exists, what="the stop")
            self.log("loss", loss)
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.01)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = Trainer(
            max_epochs=2,
            logger=not go and ReportLogger(),
            callbacks=[ReportCallback()] if go else [],
            log_every_n_steps=1,
            accelerator="cpu",
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        trainer.fit(Module(), DataLoader(torch.ones(4, 1)))
    return int(trainer.global_step)


def test_a_lightning_trainer_reports_what_modules_log(client: Client, tmp_path: Any) -> None:
    pytest.importorskip("lightning")
    client.submit(by_lightning, str(tmp_path), key="call").result()
    loss = reported(client).series["loss"]
    assert list(loss.steps) == list(range(8))
    assert list(loss.values) == sorted(loss.values, reverse=True)


def test_a_lightning_callback_stops_the_trainer_and_knows_its_steps(
    client: Client, tmp_path: Path
) -> None:
    pytest.importorskip("lightning")
    go = tmp_path / "go"
    future = client.submit(by_lightning, str(tmp_path), str(go), key="call")
    store = there(client.cluster)

    def steps() -> int:
        call = store.get("call")
        return len(call.series["loss"]) if call is not None and "loss" in call.series else 0

    # It waits in its fourth step then.
    wait_for(lambda: steps() == 3, what="three reports")
    stop(future)
    go.touch()
    assert future.result() == 4
    call = reported(client)
    assert list(call.series["loss"].steps) == [0, 1, 2, 3]
    assert call.progress == pytest.approx(3 / 7)
    assert call.state == "done"
