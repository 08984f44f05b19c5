"""The pruner of an Optuna study stops calls by what they report."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from distributed import Client

import dask_flame
from dask_flame import FlameError, Reports
from tests.reports.driver.test_replica import stock

optuna = pytest.importorskip("optuna")
pytestmark = pytest.mark.process

LAST = 300


def train(loss: float) -> str | float:
    """Report one loss until the end; the best call returns no number."""
    if loss < 0:
        raise ValueError("it fails")
    for step in range(LAST):
        time.sleep(0.01)
        dask_flame.report(step=step, loss=loss, other=1.0)
        if step == 40 and loss < 3:
            break
    return "none" if loss == 1 else loss * 10


@pytest.fixture
def client() -> Iterator[Client]:
    with stock(Reports()) as cluster, Client(cluster) as client:
        yield client


def test_a_pruner_stops_the_worse_calls_and_the_study_knows_all(client: Client) -> None:
    from dask_flame.integrations.optuna import follow

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=1, n_warmup_steps=10)
    study = optuna.create_study(pruner=pruner)
    trials = [study.ask() for _ in range(4)]
    # Two calls run at a time: the better ones come first.
    futures = client.map(train, [1.0, 2.0, 50.0, -1.0])
    ended = follow(study, trials, futures, metric="loss")
    states = optuna.trial.TrialState
    assert [t.state for t in ended] == [
        states.COMPLETE,
        states.COMPLETE,
        states.PRUNED,
        states.FAIL,
    ]
    assert [t.value for t in ended[:2]] == [1.0, 20.0]
    assert ended[0].intermediate_values == dict.fromkeys(range(41), 1.0)
    assert 10 <= max(ended[2].intermediate_values) < LAST - 1
    assert study.best_trial.number == trials[0].number
    assert futures[2].status == "error"


def test_a_wrong_number_of_futures_is_refused() -> None:
    from dask_flame.integrations.optuna import follow

    study: Any = optuna.create_study()
    with pytest.raises(FlameError, match="0 futures are not the calls of 1 trials"):
        follow(study, [study.ask()], [], metric="loss")
