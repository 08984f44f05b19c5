"""Remove secrets from Dask's log messages about failed calls (runner).

Other people than the caller read a runner's log: the driver shows it, the substrate keeps it, and
it is collected from pods. The driver still gets the unchanged error.
"""

from __future__ import annotations

import logging

from dask_flame.core.redaction import veiled


class RedactingFilter(logging.Filter):
    """Redact whatever looks like a secret in the texts of errors and in lines of code."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Redact the arguments of the record."""
        if record.levelno >= logging.WARNING and isinstance(record.args, tuple):
            record.args = tuple(veiled(a) if isinstance(a, str) else a for a in record.args)
        return True


def redact_logs() -> None:
    """Redact Dask's log messages about calls, such as ``Compute Failed``, from now on."""
    logger = logging.getLogger("distributed.worker")
    if not any(isinstance(known, RedactingFilter) for known in logger.filters):
        logger.addFilter(RedactingFilter())
