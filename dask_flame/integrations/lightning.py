"""Report the metrics that Lightning modules log (runner)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

try:
    from lightning.pytorch.loggers import Logger
    from lightning.pytorch.utilities import rank_zero_only
except ImportError:
    from pytorch_lightning.loggers import Logger
    from pytorch_lightning.utilities import rank_zero_only

from dask_flame.reports.runner.report import report


class ReportLogger(Logger):
    """Lightning logger that reports the values of ``self.log``, at the Trainer's steps.

    The Trainer's ``log_every_n_steps`` sets the interval. It writes no files, and can be combined
    with other loggers.

    Examples
    --------
    >>> from dask_flame.integrations.lightning import ReportLogger             # doctest: +SKIP
    >>> Trainer(logger=[ReportLogger(), CSVLogger("logs")]).fit(module)        # doctest: +SKIP
    """

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
        report(step=step, **{name: value for name, value in metrics.items() if name != "step"})
