"""Whether small or large values of a metric are better; pure (all places)."""

from __future__ import annotations

import re
from collections.abc import Iterable

from dask_flame.reports.series import CallReports, Direction

_MAX = re.compile(
    r"acc|auc|bleu|correct|f1|fps|hits|iou|map\b|ndcg|per_sec|precision|r2\b|recall|return|reward"
    r"|rouge|score|success|throughput"  # codespell:ignore rouge
)
_MIN = re.compile(r"loss|err|perplexity|ppl|nll")


def direction(metric: str, calls: Iterable[CallReports] = ()) -> Direction:
    """Return whether small or large values of a metric are better.

    Parameters
    ----------
    metric : str
    calls : iterable of CallReports, optional
        Calls that may have declared it with ``report.better``; the last one counts.

    Returns
    -------
    {"min", "max"}
        If no call has declared it, decided by the metric's name.
    """
    declared = [call.better[metric] for call in calls if metric in call.better]
    return declared[-1] if declared else guess(metric)


def guess(metric: str) -> Direction:
    """Return whether small or large values of a metric with this name are usually better.

    Examples
    --------
    >>> guess("eval_accuracy"), guess("loss")
    ('max', 'min')
    """
    name = metric.lower()
    return "max" if _MAX.search(name) and not _MIN.search(name) else "min"
