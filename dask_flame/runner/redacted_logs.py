"""What Dask logs of calls that fail, without secrets (runner).

A runner's log is read by others than who has submitted the call: it is shown in the driver, kept by
the substrate, collected from pods. The error itself reaches its driver as it was raised.
"""

from __future__ import annotations

import logging

from dask_flame.core.redaction import veiled


class Veil(logging.Filter):
    """Takes what looks like a secret out of the text of errors, and out of the lines of code."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Take what it says as it may be shown."""
        if record.levelno >= logging.WARNING and isinstance(record.args, tuple):
            record.args = tuple(veiled(a) if isinstance(a, str) else a for a in record.args)
        return True


def veil_logs() -> None:
    """From now on, in this process: of Dask's own lines on calls, such as ``Compute Failed``."""
    logger = logging.getLogger("distributed.worker")
    if not any(isinstance(known, Veil) for known in logger.filters):
        logger.addFilter(Veil())
