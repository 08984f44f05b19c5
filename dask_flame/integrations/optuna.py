"""Let the pruner of an Optuna study stop calls (driver)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from numbers import Real

from dask.typing import Key
from distributed import Future
from optuna import Study, Trial
from optuna.trial import FrozenTrial, TrialState

from dask_flame.errors import CallStopped, FlameError
from dask_flame.reports.driver.replica import reports_of
from dask_flame.reports.driver.stop import stop
from dask_flame.reports.driver.stream import stream


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
        and calls that failed are failed trials; their errors are not raised.

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
    told = _Told(study, metric, asked, calls)
    for report in stream(calls):
        if metric in report.values:
            told.report(report.key, report.step, report.values[metric])
        told.tell()
    told.finish()
    by_number = {trial.number: trial for trial in study.get_trials(deepcopy=False)}
    return [by_number[trial.number] for trial in asked]


class _Told:
    """What a study was told of the calls of its trials."""

    def __init__(
        self, study: Study, metric: str, trials: list[Trial], futures: list[Future]
    ) -> None:
        self._study = study
        self._metric = metric
        self._futures: dict[Key, Future] = {future.key: future for future in futures}
        self._trials: dict[Key, list[Trial]] = {}
        for future, trial in zip(futures, trials, strict=True):
            # Calls with equal arguments may be one and the same.
            self._trials.setdefault(future.key, []).append(trial)
        self._open = set(self._futures)
        self._steps: dict[Key, set[int]] = {key: set() for key in self._futures}
        self._last: dict[Key, float] = {}
        self._stopped: set[Key] = set()
        self._ended: deque[Key] = deque()
        for future in self._futures.values():
            future.add_done_callback(lambda done: self._ended.append(done.key))

    def report(self, key: Key, step: int, value: float) -> None:
        """Pass a value on to the trials of a call, and stop it if all of them are to be pruned."""
        if key not in self._open:
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
        for key in list(self._open):
            self._end(key)

    def _pass_on(self, key: Key, step: int, value: float) -> None:
        self._last[key] = value
        # A study takes each step once; a call that runs again reports them again.
        if step not in self._steps[key]:
            self._steps[key].add(step)
            for trial in self._trials[key]:
                trial.report(value, step)

    def _end(self, key: Key) -> None:
        if key not in self._open:
            return
        future = self._futures[key]
        # The stream may be behind: the last reports of the call may not have been read.
        known = reports_of(future.client).get(key)
        series = None if known is None else known.series.get(self._metric)
        if series is not None:
            for step, value in zip(series.steps, series.values, strict=True):
                self._pass_on(key, step, value)
        self._open.discard(key)
        value, state = self._outcome(future)
        for trial in self._trials[key]:
            self._study.tell(trial, value, state)

    def _outcome(self, future: Future) -> tuple[float | None, TrialState]:
        if future.status == "finished":
            result = future.result()
            value = result if isinstance(result, Real) else self._last.get(future.key)
            if value is not None:
                return float(value), TrialState.COMPLETE
        elif future.status == "error" and isinstance(future.exception(), CallStopped):
            return None, TrialState.PRUNED
        return None, TrialState.FAIL
