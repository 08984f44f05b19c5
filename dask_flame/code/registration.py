"""Bring versions of local modules to a runner that registers (scheduler, runner)."""

from __future__ import annotations

from typing import Any

from distributed import Worker, WorkerPlugin

from dask_flame.core.messages import CODE


class CodePlugin(WorkerPlugin):
    """Brings the latest versions to a runner that registers.

    Parameters
    ----------
    messages : list of dict
        See :meth:`dask_flame.code.scheduler.store.CodeStore.now`.
    """

    def __init__(self, messages: list[dict[str, Any]]) -> None:
        self.messages = messages

    def setup(self, worker: Worker) -> None:
        receive = worker.stream_handlers.get(CODE)
        if receive is not None:  # other workers have no use for them
            for message in self.messages:
                receive(**message)
