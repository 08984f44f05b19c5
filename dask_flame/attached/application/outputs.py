"""Collect the printed and displayed output of a cell, within limits (application)."""

from __future__ import annotations

import base64
import json
import threading
import time
from typing import Any

from dask_flame.attached.application.interruption import shielded
from dask_flame.attached.wire import MOST_TEXT
from dask_flame.core.output_limit import OutputLimit
from dask_flame.errors import AttachError

#: Maximum number of characters that wait to be sent. Beyond it a print blocks, as with a pipe.
_MAX_UNSENT = 256 * 1024
#: Maximum seconds for which a print blocks.
_MAX_BLOCK = 5.0
#: Maximum size of one display, in characters.
MOST_DISPLAY = 8 * 2**20
#: Maximum size of its message.
_MOST_DISPLAYED = MOST_TEXT - 2**10


class Outputs:
    """The output of one cell that has not been sent yet, in order.

    See :mod:`dask_flame.core.cell_streams`.

    Attributes
    ----------
    thread : int or None
        The thread of the cell. Only there a print may block.
    ready : threading.Event
        Set when there is output to send.
    """

    def __init__(self) -> None:
        self.thread: int | None = None
        self.ready = threading.Event()
        self._items: list[dict[str, Any]] = []
        self._size = 0
        self._closed = False
        self._room = threading.Condition()
        self._limit = OutputLimit()

    @property
    def closed(self) -> bool:
        """Whether the cell has ended, so that nothing is collected any more."""
        return self._closed

    def text(self, stream: str, text: str) -> None:
        """Add text that was written to ``stdout`` or ``stderr``."""
        with shielded() as shield, self._room:
            if self._closed:
                return
            self._add(self._limit.text(stream, text, time.monotonic()))
            if self._size > _MAX_UNSENT and threading.get_ident() == self.thread:
                deadline = time.monotonic() + _MAX_BLOCK
                while self._size > _MAX_UNSENT and time.monotonic() < deadline:
                    self._room.wait(0.05)
                    if shield.interrupted():
                        raise KeyboardInterrupt

    def takes(self, thread: int) -> bool:
        """Return False: a thread without a context is likely to be the application's."""
        return False

    def no_input(self) -> Exception:
        """Return the error of a cell that reads from the standard input."""
        return AttachError(
            "a cell in an application cannot ask for input; ask in a cell of the notebook, "
            'for example name = input("name? ")'
        )

    def display(
        self,
        data: dict[str, Any],
        metadata: dict[str, Any],
        transient: dict[str, Any] | None = None,
        *,
        update: bool = False,
    ) -> None:
        """Add a displayed object."""
        data = sendable(data)
        size = _size(data, metadata, transient)
        with shielded(), self._room:
            if self._closed:
                return
            pieces, shown = self._limit.display(size, time.monotonic())
            self._add(pieces)
            if shown:
                item = {"type": "display", "data": data, "metadata": metadata}
                self._put({**item, "transient": transient or {}, "update": update})

    def clear(self, *, wait: bool) -> None:
        with shielded(), self._room:
            self._put({"type": "clear", "wait": wait})

    def drain(self) -> list[dict[str, Any]]:
        """Return what has to be sent, and make room for more."""
        with self._room:
            self.ready.clear()
            items, self._items, self._size = self._items, [], 0
            self._room.notify_all()
        return items

    def close(self) -> list[dict[str, Any]]:
        """Return the last output. What is written later goes where it would without a cell."""
        with self._room:
            if not self._closed:
                self._add(self._limit.end())
                self._closed = True
        return self.drain()

    def _add(self, pieces: list[tuple[str, str]]) -> None:
        for stream, text in pieces:
            last = self._items[-1] if self._items else {}
            if last.get("type") == "stream" and last["name"] == stream:
                last["text"] += text
            else:
                self._items.append({"type": "stream", "name": stream, "text": text})
            self._size += len(text)
        if pieces:
            self.ready.set()

    def _put(self, item: dict[str, Any]) -> None:
        self._items.append(item)
        self.ready.set()


def _size(*parts: object) -> int:
    """Return the size of display data as text.

    Raises
    ------
    AttachError
        It cannot be sent. The cell gets the error.
    """
    try:
        size = sum(len(json.dumps(part, default=repr)) for part in parts)
    except (TypeError, ValueError, RecursionError) as error:
        raise AttachError(f"this cannot be displayed, as it is not JSON: {error}") from None
    if size > _MOST_DISPLAYED:
        raise AttachError(
            f"a display of {size:,} characters is too large; at most {_MOST_DISPLAYED:,} are shown"
        )
    return size


def sendable(data: dict[str, Any]) -> dict[str, Any]:
    """Return display data with images as text, and without what is too large."""
    kept: dict[str, Any] = {}
    for kind, value in data.items():
        if isinstance(value, bytes):
            value = base64.b64encode(value).decode("ascii")
        if isinstance(value, str) and len(value) > MOST_DISPLAY:
            if kind != "text/plain":
                note = f"<{kind} of {len(value):,} characters, too large to be shown>"
                kept.setdefault("text/plain", note)
                continue
            value = f"{value[:MOST_DISPLAY]}… ({len(value):,} characters)"
        kept[kind] = value
    return kept
