"""One run of a cell: what it does in its thread, its output, and its outcome (application)."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

from dask_flame.attached.application import cells, exits, values
from dask_flame.attached.application.awaiting import awaited
from dask_flame.attached.application.display import formatted
from dask_flame.attached.application.interruption import Work
from dask_flame.attached.application.outputs import Outputs
from dask_flame.attached.wire import Message
from dask_flame.core.cell_streams import redirected

#: Default time limit of a cell, in seconds.
CELL_TIMEOUT = 60.0


class CellRun:
    """One run of a cell.

    Parameters
    ----------
    message : Message
        The request: the source, the time limit, and how the value is to be answered.
    data : bytes
        A pickled call, which is done instead of the source.
    number : int
        The number of the cell in its attachment.
    filename : str
        The file that its tracebacks name.
    namespace : Namespace
        Where its names go.
    """

    def __init__(
        self,
        message: Message,
        data: bytes,
        *,
        number: int,
        filename: str,
        namespace: cells.Namespace,
    ) -> None:
        self.source = str(message.get("source", ""))
        self.timeout = message.get("timeout", CELL_TIMEOUT)
        self.outputs = Outputs()
        self._data = data
        self._number = number
        self._filename = filename
        self._namespace = namespace
        self._fetch = bool(message.get("fetch"))
        self._most = int(message.get("most") or values.MOST_VALUE)
        self._quiet = bool(message.get("quiet"))
        self._begun = time.monotonic()

    @contextlib.contextmanager
    def around(self) -> Iterator[None]:
        """What holds in the cell's thread while it runs."""
        self.outputs.thread = threading.get_ident()
        with redirected(self.outputs), exits.refused():
            yield

    def run(self) -> tuple[dict[str, Any], bytes]:
        """Run the cell, and return what to answer of its value, with its bytes if it is fetched."""
        if self._data:
            value = _call(self._data)
        else:
            value = cells.execute(self.source, self._filename, self._namespace)
        sent = values.pickled(value, "the value", self._most) if self._fetch else b""
        if value is None or self._fetch or self._quiet:
            return {"value": None, "metadata": {}}, sent
        shown, metadata = formatted(value)
        return {"value": shown, "metadata": metadata}, sent

    def outcome(self, work: Work, why: str) -> tuple[dict[str, Any], bytes]:
        """Return the answer, with the bytes of the value.

        Parameters
        ----------
        work : Work
            The work that has run the cell, or still does.
        why : str
            Why it was stopped, as :func:`~.following.follow` says it.
        """
        seconds = time.monotonic() - self._begun
        outcome: dict[str, Any] = {"status": "ok", "seconds": seconds, "cell": self._number}
        if not work.done.is_set():
            return {**outcome, "status": "error", "error": _left(why, self.timeout)}, b""
        if work.error is not None:
            error = cells.error_of(work.error, self._filename)
            if why == "timeout":
                error = {**error, "name": "CallTimeout", "value": _expired(self.timeout)}
                error["traceback"].append(f"CallTimeout: {error['value']}")
            work.error = None
            return {**outcome, "status": "error", "error": error}, b""
        more, sent = work.result
        return {**outcome, **more}, sent


def _call(data: bytes) -> Any:
    """Call a pickled function."""
    import pickle

    function, args, kwargs = pickle.loads(data)
    value = function(*args, **kwargs)
    return awaited(lambda: value) if hasattr(value, "__await__") else value


def _expired(timeout: float | None) -> str:
    return (
        f"the cell has run for its time limit of {timeout:g} s; write %%flame on=NAME timeout=10m, "
        "or app.run(…, timeout=600)"
    )


def _left(why: str, timeout: float | None) -> dict[str, Any]:
    said = (
        "the cell was interrupted and does not stop: it is in code that is not Python, or catches "
        "the interrupt. It goes on in its thread until it returns; nobody sees what it prints"
    )
    if why == "timeout":
        said = f"{_expired(timeout)}; {said}"
    return {"name": "KeyboardInterrupt", "value": said, "traceback": [f"KeyboardInterrupt: {said}"]}
