"""Run the trials of an Optuna study, and let its pruner stop calls (driver)."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from numbers import Real
from typing import Any

import dask
from dask.typing import Key
from distributed import Client, Future, get_client
from optuna import Study, Trial
from optuna.trial import FrozenTrial, TrialState

from dask_flame.core.capacity import capacity
from dask_flame.core.option_checks import whole
from dask_flame.errors import CallStopped, FlameError
from dask_flame.reports.driver.replica import reports_of
from dask_flame.reports.driver.run import run
from dask_flame.reports.driver.stop import stop
from dask_flame.reports.driver.stream import stream

#: Seconds between two looks at what the calls of a study have reported.
_LOOK_EVERY = 0.1


def follow(
    study: Study, trials: Iterable[Trial], futures: Iterable[Future], *, metric: str
) -> list[FrozenTrial]:
    """Follow the calls of trials until all have ended; stop those that the study's pruner gives up.

    Parameters
    ----------
    study : optuna.Study
        A study with one objective.
    trials : iterable of optuna.Trial
        Trials of ``study.ask()``.
    futures : iterable of Future
        The call of each trial, in the same order.
    metric : str
        Reported metric that the pruner decides on.

    Returns
    -------
    list of optuna.trial.FrozenTrial
        The trials, in order. The value of a complete trial is the result of its call if that is a
        number, otherwise the last value of the metric. Calls that were stopped are pruned trials,
        and calls that failed are failed trials; their errors are not raised. So is a trial whose
        value would be NaN.

    Raises
    ------
    FlameError
        There are not as many futures as trials.

    Examples
    --------
    >>> import optuna
    >>> from dask_flame.integrations.optuna import follow
    >>> study = optuna.create_study(pruner=optuna.pruners.SuccessiveHalvingPruner())
    >>> trials = [study.ask() for _ in range(3)]
    >>> rates = [trial.suggest_float("rate", 1e-3, 1.0, log=True) for trial in trials]
    >>> ended = follow(study, trials, client.map(train, rates), metric="loss")
    """
    asked, calls = list(trials), list(futures)
    if len(asked) != len(calls):
        raise FlameError(
            f"{len(calls)} futures are not the calls of {len(asked)} trials; "
            "write follow(study, trials, client.map(train, rates), metric='loss')"
        )
    told = _Told(study, metric)
    for trial, future in zip(asked, calls, strict=True):
        told.add(trial, future)
    for report in stream(calls):
        if metric in report.values:
            told.report(report.key, report.step, report.values[metric])
        told.tell()
    told.finish()
    return _frozen(study, asked)


def optimize(
    study: Study,
    fn: Callable[..., Any],
    suggest: Callable[[Trial], Mapping[str, Any]],
    *,
    n_trials: int,
    metric: str,
    n_jobs: int | None = None,
) -> list[FrozenTrial]:
    """Run the trials of a study as calls; the sampler learns from each before it chooses the next.

    Parameters
    ----------
    study : optuna.Study
        A study with one objective.
    fn : callable
        Runs on a runner, once for each trial, and reports the metric.
    suggest : callable
        Given a trial, return the keyword arguments of `fn`. It runs here.
    n_trials : int
        Number of trials to run.
    metric : str
        Reported metric that the pruner decides on.
    n_jobs : int, optional
        Number of calls that run or wait at a time. By default as many as the pool can run at once.
        The more there are, the less the sampler knows when it chooses.

    Returns
    -------
    list of optuna.trial.FrozenTrial
        The trials, in order, as :func:`follow` returns them.

    Raises
    ------
    FlameError
        There is no client, or it is asynchronous.
    PoolError
        `n_trials` or `n_jobs` is not a positive whole number.

    Notes
    -----
    The calls are one run on the page ``/flame``, with the name of the study. If this is
    interrupted, or `suggest` raises, calls that have not ended are cancelled; their trials fail.

    Examples
    --------
    >>> import optuna
    >>> from dask_flame.integrations.optuna import optimize
    >>> study = optuna.create_study(pruner=optuna.pruners.MedianPruner())
    >>> ended = optimize(
    ...     study,
    ...     train,
    ...     lambda trial: {"rate": trial.suggest_float("rate", 1e-3, 1.0, log=True)},
    ...     n_trials=3,
    ...     metric="loss",
    ... )
    """
    left = whole("n_trials", n_trials, 1)
    if n_jobs is not None:
        whole("n_jobs", n_jobs, 1)
    client = _client()
    most = n_jobs or _capacity(client)
    told = _Told(study, metric)
    asked: list[Trial] = []
    try:
        with run(study.study_name):
            while left or told.open:
                while left and len(told.open) < most:
                    trial = study.ask()
                    asked.append(trial)
                    told.add(trial, client.submit(fn, **suggest(trial), pure=False))
                    left -= 1
                told.wait(_LOOK_EVERY)
                told.look()
                told.tell()
    finally:
        told.give_up(asked)
    return _frozen(study, asked)


def _client() -> Client:
    try:
        client = get_client()
    except ValueError:
        raise FlameError(
            "there is no Dask client; write client = Client(FlameCluster(max=8)) before it"
        ) from None
    if client.asynchronous:
        raise FlameError(
            "optimize() waits for calls, and this client is asynchronous; "
            "write client = Client(FlameCluster(max=8))"
        )
    return client


def _capacity(client: Client) -> int:
    """Return the number of calls that run at a time where the next ones go to."""
    known = capacity(client, pool=dask.get_annotations().get("pool"))
    return known or sum(client.ncores().values()) or 1


def _frozen(study: Study, trials: Collection[Trial]) -> list[FrozenTrial]:
    by_number = {trial.number: trial for trial in study.get_trials(deepcopy=False)}
    return [by_number[trial.number] for trial in trials]


class _Told:
    """What a study was told of the calls of its trials.

    Attributes
    ----------
    open : set
        Keys of the calls whose end it was not told of.
    """

    def __init__(self, study: Study, metric: str) -> None:
        self._study = study
        self._metric = metric
        self._futures: dict[Key, Future] = {}
        self._trials: dict[Key, list[Trial]] = {}
        self.open: set[Key] = set()
        self._steps: dict[Key, set[int]] = {}
        self._last: dict[Key, float] = {}
        self._stopped: set[Key] = set()
        self._ended: deque[Key] = deque()
        self._end_of_one = threading.Event()

    def add(self, trial: Trial, future: Future) -> None:
        """Add the call of a trial. Calls with equal arguments may be one and the same."""
        key = future.key
        self._trials.setdefault(key, []).append(trial)
        if key not in self._futures:
            self._futures[key] = future
            self._steps[key] = set()
            self.open.add(key)
            future.add_done_callback(self._note_end)

    def _note_end(self, future: Future) -> None:
        self._ended.append(future.key)
        self._end_of_one.set()

    def wait(self, longest: float) -> None:
        """Wait until a call ends, for some seconds at most."""
        self._end_of_one.wait(longest)
        self._end_of_one.clear()

    def look(self) -> None:
        """Pass on what open calls have reported since the last look."""
        for key in list(self.open):
            for step, value in self._reported(key):
                if step not in self._steps[key]:
                    self.report(key, step, value)

    def report(self, key: Key, step: int, value: float) -> None:
        """Pass a value on to the trials of a call, and stop it if all of them are to be pruned."""
        if key not in self.open:
            return
        self._pass_on(key, step, value)
        if key not in self._stopped and all(trial.should_prune() for trial in self._trials[key]):
            self._stopped.add(key)
            stop(self._futures[key])

    def tell(self) -> None:
        """Tell the study of the calls that have ended since; its pruner compares with them."""
        while self._ended:
            self._end(self._ended.popleft())

    def finish(self) -> None:
        """Tell the study of all calls; all have ended."""
        for key in list(self.open):
            self._end(key)

    def give_up(self, trials: Iterable[Trial]) -> None:
        """Let trials that have not ended fail, and their calls be cancelled."""
        for key in self.open:
            self._futures[key].cancel()
        self.open.clear()
        ended = {
            trial.number
            for trial in self._study.get_trials(deepcopy=False)
            if trial.state.is_finished()
        }
        for trial in trials:
            if trial.number not in ended:
                self._study.tell(trial, state=TrialState.FAIL)

    def _pass_on(self, key: Key, step: int, value: float) -> None:
        self._last[key] = value
        # A study takes each step once; a call that runs again reports them again.
        if step not in self._steps[key]:
            self._steps[key].add(step)
            for trial in self._trials[key]:
                trial.report(value, step)

    def _end(self, key: Key) -> None:
        if key not in self.open:
            return
        # Its last reports may not have been read.
        for step, reported in self._reported(key):
            self._pass_on(key, step, reported)
        self.open.discard(key)
        value, state = self._outcome(self._futures.pop(key))
        for trial in self._trials[key]:
            self._study.tell(trial, value, state)

    def _reported(self, key: Key) -> list[tuple[int, float]]:
        known = reports_of(self._futures[key].client).get(key)
        series = None if known is None else known.series.get(self._metric)
        return [] if series is None else list(zip(series.steps, series.values, strict=True))

    def _outcome(self, future: Future) -> tuple[float | None, TrialState]:
        if future.status == "finished":
            result = future.result()
            value = result if isinstance(result, Real) else self._last.get(future.key)
            # A study refuses NaN as the value of a complete trial.
            if value is not None and not math.isnan(value):
                return float(value), TrialState.COMPLETE
        elif future.status == "error" and isinstance(future.exception(), CallStopped):
            return None, TrialState.PRUNED
        return None, TrialState.FAIL
