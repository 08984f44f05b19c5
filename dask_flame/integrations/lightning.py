"""A Lightning Trainer reports what modules log (runner)."""

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
    """Reports what is logged by ``self.log`` in a module, at the Trainer's steps.

    How often is up to the Trainer's ``log_every_n_steps``. It keeps nothing on disk; others may be
    used beside it.

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
        """What a call was given is known by its arguments."""

    @rank_zero_only  # type: ignore[untyped-decorator]
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        report(step=step, **{name: value for name, value in metrics.items() if name != "step"})
