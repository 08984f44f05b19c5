"""Report the metrics that a transformers Trainer logs (runner)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from time import perf_counter
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from dask_flame.core.option_checks import Duration, seconds
from dask_flame.errors import CallStopped
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

    After :func:`dask_flame.stop` the Trainer ends its training after the current step, and
    ``train()`` returns as usual. If several processes train together, which would wait for each
    other, :class:`CallStopped` is raised in the first one instead.

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
        if perf_counter() - self._last >= self._every and not self._tell(args, state):
            control.should_training_stop = True

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # It ends anyway.
        with contextlib.suppress(CallStopped):
            self._tell(args, state)

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
            step, of = state.global_step, state.max_steps or None
            if not _goes_on(args, lambda: report(step=step, of=of, **numbers)):
                control.should_training_stop = True

    def _tell(self, args: TrainingArguments, state: TrainerState) -> bool:
        """Report the progress; return whether the training goes on."""
        goes_on = True
        now, new = perf_counter(), state.global_step - self._step
        if new > 0 and state.is_world_process_zero:
            values = {"speed": new / max(now - self._last, 1e-9)}
            step, of = state.global_step, state.max_steps or None
            if of:
                values = {"progress": min(1.0, step / of), **values}
            goes_on = _goes_on(args, lambda: aside(step, values, of=of))
        self._last, self._step = now, state.global_step
        return goes_on


def _goes_on(args: TrainingArguments, make: Callable[[], bool]) -> bool:
    """Make a report; return whether the training goes on after it."""
    try:
        return make()
    except CallStopped:
        if args.world_size > 1:
            # Only this process knows, and the others would wait for it.
            raise
        return False


def _is_text(value: Any) -> bool:
    return isinstance(value, (str, bytes))
