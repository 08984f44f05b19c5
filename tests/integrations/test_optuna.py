"""The pruner of an Optuna study stops calls by what they report."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from distributed import Client

import dask_flame
from dask_flame import FlameError, PoolError, Reports
from tests.reports.driver.test_replica import stock
from tests.support.waiting import wait_for

optuna = pytest.importorskip("optuna")
pytestmark = pytest.mark.process

LAST = 3_000
#: Set when a test is over: the workers are threads here, whose calls nothing else ends.
_OVER = threading.Event()


def train(loss: float) -> str | float:
    """Report one loss until the end; the best call returns no number."""
    if loss < 0:
        raise ValueError("it fails")
    for step in range(LAST):
        if _OVER.wait(0.01):
            break
        dask_flame.report(step=step, loss=loss, other=1.0)
        if step == 40 and loss < 3:
            break
    return "none" if loss == 1 else loss * 10


@pytest.fixture
def client() -> Iterator[Client]:
    _OVER.clear()
    with stock(Reports()) as cluster, Client(cluster) as client:
        yield client
        _OVER.set()


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


def diverges(value: float) -> float:
    dask_flame.report(step=0, loss=value)
    return value


def test_a_trial_that_diverges_fails_alone(client: Client) -> None:
    from dask_flame.integrations.optuna import optimize

    study = optuna.create_study(direction="maximize")
    values = [math.nan, math.inf, 1.0]
    ended = optimize(
        study, diverges, lambda trial: {"value": values[trial.number]}, n_trials=3, metric="loss"
    )
    states = optuna.trial.TrialState
    assert [t.state for t in ended] == [states.FAIL, states.COMPLETE, states.COMPLETE]
    assert [t.value for t in ended] == [None, math.inf, 1.0]


def test_a_wrong_number_of_futures_is_refused() -> None:
    from dask_flame.integrations.optuna import follow

    study: Any = optuna.create_study()
    with pytest.raises(FlameError, match="0 futures are not the calls of 1 trials"):
        follow(study, [study.ask()], [], metric="loss")


def test_the_sampler_knows_what_has_ended_when_it_chooses_the_next(client: Client) -> None:
    from dask_flame.integrations.optuna import optimize

    states = optuna.trial.TrialState
    pruner = optuna.pruners.MedianPruner(n_startup_trials=1, n_warmup_steps=10)
    study = optuna.create_study(pruner=pruner)
    known: list[int] = []

    def suggest(trial: Any) -> dict[str, float]:
        known.append(len(study.get_trials(states=(states.COMPLETE, states.PRUNED))))
        return {"loss": trial.suggest_float("loss", *((50, 50) if trial.number == 2 else (2, 2)))}

    ended = optimize(study, train, suggest, n_trials=5, n_jobs=2, metric="loss")
    assert [t.number for t in ended] == [0, 1, 2, 3, 4]
    assert all(before <= now for before, now in zip([0, 0, 1, 2, 3], known, strict=True)), known
    assert ended[2].state == states.PRUNED
    assert [t.value for t in ended if t.number != 2] == [20.0] * 4
    assert [t.params["loss"] for t in ended] == [2, 2, 50, 2, 2]


def test_a_study_that_is_given_up_cancels_its_calls(client: Client) -> None:
    from dask_flame.integrations.optuna import optimize

    study = optuna.create_study()

    def suggest(trial: Any) -> dict[str, float]:
        if trial.number == 2:
            wait_for(lambda: any(client.processing().values()))
            raise KeyError("no such parameter")
        return {"loss": 5.0}

    with pytest.raises(KeyError, match="no such parameter"):
        optimize(study, train, suggest, n_trials=9, n_jobs=4, metric="loss")
    assert {t.state for t in study.trials} == {optuna.trial.TrialState.FAIL}
    wait_for(lambda: not client.futures, what="the end of the calls")


def test_what_cannot_be_optimized_is_refused() -> None:
    from dask_flame.integrations.optuna import optimize

    study = optuna.create_study()
    with pytest.raises(FlameError, match="write client = Client"):
        optimize(study, train, dict, n_trials=1, metric="loss")
    with pytest.raises(PoolError, match="n_trials=0"):
        optimize(study, train, dict, n_trials=0, metric="loss")
    with pytest.raises(PoolError, match="n_jobs=0"):
        optimize(study, train, dict, n_trials=1, n_jobs=0, metric="loss")
