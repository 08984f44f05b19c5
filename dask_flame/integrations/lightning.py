"""Report the metrics that Lightning modules log (runner)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

try:
    from lightning.pytorch.callbacks import Callback
    from lightning.pytorch.loggers import Logger
    from lightning.pytorch.utilities import rank_zero_only
except ImportError:
    from pytorch_lightning.callbacks import Callback
    from pytorch_lightning.loggers import Logger
    from pytorch_lightning.utilities import rank_zero_only

from dask_flame.errors import CallStopped
from dask_flame.reports.runner.report import report


class ReportLogger(Logger):
    """Lightning logger that reports the values of ``self.log``, at the Trainer's steps.

    The Trainer's ``log_every_n_steps`` sets the interval. It writes no files, and can be combined
    with other loggers.

    After :func:`dask_flame.stop` it raises :class:`CallStopped`, which ends ``Trainer.fit``. With
    :class:`ReportCallback` the Trainer ends its training as usual, and reports its progress.

    Parameters
    ----------
    trainer : lightning.pytorch.Trainer, optional
        Given by :class:`ReportCallback`.

    Examples
    --------
    >>> from dask_flame.integrations.lightning import ReportLogger             # doctest: +SKIP
    >>> Trainer(logger=[ReportLogger(), CSVLogger("logs")]).fit(module)        # doctest: +SKIP
    """

    def __init__(self, trainer: Any = None) -> None:
        super().__init__()
        self._trainer = trainer
        self._steps: float | None = None

    @property
    def name(self) -> str:
        return "dask_flame"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only  # type: ignore[untyped-decorator]
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the arguments of a call are reported anyway."""

    @rank_zero_only  # type: ignore[untyped-decorator]
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        numbers = {name: value for name, value in metrics.items() if name != "step"}
        try:
            goes_on = report(step=step, of=self._steps, **numbers)
        except CallStopped:
            # Of several processes only this one knows, and the others would wait for it.
            if self._trainer is None or self._trainer.world_size > 1:
                raise
            goes_on = False
        if not goes_on and self._trainer is not None:
            self._trainer.should_stop = True

    def begin(self) -> None:
        """Note the number of steps of the training that begins, if it is known."""
        steps = self._trainer.estimated_stepping_batches
        # A step of Lightning's loggers begins at 0, and the last one is that number minus one.
        self._steps = steps - 1 if 1 < steps < math.inf else None


class ReportCallback(Callback):
    """Lightning callback that reports the values of ``self.log``, and stops the training.

    It adds a :class:`ReportLogger` to the Trainer, which reports the number of steps too, for the
    progress of the call. After :func:`dask_flame.stop` the Trainer ends its training after the
    current step, and ``fit`` returns as usual. If several processes train together, which would
    wait for each other, :class:`CallStopped` is raised in the first one instead.

    Examples
    --------
    >>> from dask_flame.integrations.lightning import ReportCallback           # doctest: +SKIP
    >>> Trainer(callbacks=[ReportCallback()]).fit(module)                      # doctest: +SKIP
    """

    def __init__(self) -> None:
        self._logger: ReportLogger | None = None

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if self._logger is None:
            self._logger = ReportLogger(trainer)
            trainer.loggers = [*trainer.loggers, self._logger]

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if self._logger is not None:
            self._logger.begin()
