"""Report the metrics that a transformers Trainer logs (runner)."""

from __future__ import annotations

from time import perf_counter
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from dask_flame.core.option_checks import Duration, seconds
from dask_flame.reports.runner.report import aside, report


class ReportCallback(TrainerCallback):
    """Trainer callback that reports the logged metrics, the progress and the speed.

    Every number that the Trainer logs is reported by its name at the Trainer's step: ``loss``,
    ``grad_norm``, ``learning_rate``, ``epoch``, ``eval_loss`` and others. ``logging_steps`` sets
    the interval. In between it reports ``progress`` (from 0 to 1) and ``speed`` (steps per second).

    Parameters
    ----------
    every : duration, default "0.5s"
        Minimum time between two reports of progress.

    Notes
    -----
    With several processes that train together, only the first process reports. If the call started
    that process (as with ``accelerate launch``), put ``report.bind().env`` into its environment.

    Examples
    --------
    >>> from dask_flame.integrations.transformers import ReportCallback    # doctest: +SKIP
    >>> Trainer(model, args, callbacks=[ReportCallback()]).train()         # doctest: +SKIP
    """

    def __init__(self, *, every: Duration = "0.5s") -> None:
        self._every = seconds("every", every)
        self._last = 0.0
        self._step = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._last, self._step = perf_counter(), state.global_step

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if perf_counter() - self._last >= self._every:
            self._tell(state)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._tell(state)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        numbers = {n: v for n, v in (logs or {}).items() if n != "step" and not _is_text(v)}
        if numbers and state.is_world_process_zero:
            report(step=state.global_step, **numbers)

    def _tell(self, state: TrainerState) -> None:
        now, new = perf_counter(), state.global_step - self._step
        if new > 0 and state.is_world_process_zero:
            values = {"speed": new / max(now - self._last, 1e-9)}
            if state.max_steps:
                values = {"progress": min(1.0, state.global_step / state.max_steps), **values}
            aside(state.global_step, values)
        self._last, self._step = now, state.global_step


def _is_text(value: Any) -> bool:
    return isinstance(value, (str, bytes))
