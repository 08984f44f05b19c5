"""Keep the frames of calls that have failed, for a look at their variables (runner).

Only in pools with ``post_mortem=True``: frames keep everything that their variables refer to.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import FrameType, TracebackType
from typing import Any
from weakref import WeakSet

from distributed.metrics import time

from dask_flame.attached.looking.failures import Failure, Frame
from dask_flame.attached.looking.stacks import lines_of
from dask_flame.attached.looking.wire import packed
from dask_flame.core.argument_text import value_text
from dask_flame.core.redaction import veiled
from dask_flame.core.text import label
from dask_flame.errors import CallStopped
from dask_flame.serialization.failures import is_surrounding, text_of

#: Number of failed calls whose frames a runner keeps.
MOST = 5
#: Maximum number of frames of one call, and of variables of one frame.
_FRAMES, _LOCALS = 100, 200
#: Errors that are no failures of a call's code, or that are shown elsewhere, by name.
_OTHERS = frozenset({"CellFailed", "Reschedule"})


@dataclass
class _Kept:
    """The frames of one failed call.

    Attributes
    ----------
    frames : list of (FrameType, int)
        Those of the call's own code, with their lines; the outermost comes first.
    text : str
    at : float
    clear : callable
        Releases what distributed's own frames hold.
    attachments : set of socket
        Connections of notebooks whose cells use the frames; they end with the frames.
    """

    frames: list[tuple[FrameType, int]]
    text: str
    at: float
    clear: Callable[[], object]
    attachments: WeakSet[socket.socket] = field(default_factory=WeakSet)


class PostMortems:
    """The last failed calls of a runner.

    Parameters
    ----------
    runner : str
        Its name.
    most : int, default 5
        Number of calls; the oldest is released for a new one.

    Notes
    -----
    All methods may be called from any thread.
    """

    def __init__(self, runner: str, *, most: int = MOST) -> None:
        self._runner = runner
        self._most = most
        self._lock = threading.Lock()
        self._kept: OrderedDict[Any, _Kept] = OrderedDict()

    def failed(self, key: Any, error: BaseException) -> None:
        """Keep the frames of an error, in the thread that has raised it. Never raises."""
        with contextlib.suppress(Exception):
            if isinstance(error, CallStopped) or type(error).__name__ in _OTHERS:
                return
            frames = _own_frames(error.__traceback__)
            if not frames:
                return  # its function could not be read
            kept = _Kept(frames, veiled(text_of(error)), time(), lambda: None)
            with self._lock:
                before = [self._kept.pop(key)] if key in self._kept else []
                self._kept[key] = kept
                while len(self._kept) > self._most:
                    before.append(self._kept.popitem(last=False)[1])
            _release(before)

    def takes(self, key: Any, clear: Callable[[], object]) -> bool:
        """Return whether the frames of a call that has just ended are kept.

        Parameters
        ----------
        key : Key
        clear : callable
            Called when they are released.
        """
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None:
                kept.clear = clear
            return kept is not None

    def failure(self, key: Any) -> dict[str, Any]:
        """Return the frames of a failed call, with the values of their variables as text.

        Raises
        ------
        LookupError
            They are not kept.
        """
        kept = self._found(key)
        lines = lines_of(kept.frames)
        frames = tuple(
            Frame(line, _texts(frame)) for line, (frame, _) in zip(lines, kept.frames, strict=True)
        )
        return packed(Failure(label(key), self._runner, kept.text, kept.at, frames))

    def names(
        self, key: Any, frame: int, attachment: socket.socket | None = None
    ) -> Mapping[str, Any]:
        """Return the variables that code in a frame of a failed call can use.

        Parameters
        ----------
        key : Key
        frame : int
        attachment : socket, optional
            The connection of who uses them. It is shut when the frames are released, as the
            variables could not be otherwise.

        Raises
        ------
        LookupError
            The frames are not kept, or there is no such frame.
        """
        kept = self._found(key)
        frames = kept.frames
        try:
            found, _ = frames[frame]
        except IndexError:
            raise LookupError(
                f"{label(key)} has {len(frames)} frames; write a number from 0, the outermost, to "
                f"{len(frames) - 1}, or -1 for the innermost"
            ) from None
        names = {**found.f_globals, **found.f_locals}
        if attachment is not None:
            with self._lock:
                kept.attachments.add(attachment)
                if self._kept.get(key) is not kept:
                    raise LookupError(f"the frames of {label(key)} were released a moment ago")
        return names

    def release(self, key: Any = None) -> None:
        """Release the frames of a call, or of all."""
        with self._lock:
            if key is None:
                kept = list(self._kept.values())
                self._kept.clear()
            else:
                kept = [self._kept.pop(key)] if key in self._kept else []
        _release(kept)

    def _found(self, key: Any) -> _Kept:
        with self._lock:
            kept = self._kept.get(key)
            calls = len(self._kept)
        if kept is None:
            raise LookupError(
                f"{self._runner} does not keep the frames of {label(key)} any more: it keeps those "
                f"of its last {self._most} failed calls until they are released, and has {calls}"
            )
        return kept


def _own_frames(tb: TracebackType | None) -> list[tuple[FrameType, int]]:
    """Return the frames of the call's own code, and what it has called."""
    frames: list[tuple[FrameType, int]] = []
    while tb is not None:
        if frames or not is_surrounding(tb.tb_frame.f_code.co_filename):
            frames.append((tb.tb_frame, tb.tb_lineno or 0))
        tb = tb.tb_next
    if len(frames) > _FRAMES:
        frames[_FRAMES // 2 : -_FRAMES // 2] = []
    return frames


def _texts(frame: FrameType) -> dict[str, str]:
    values = list(frame.f_locals.items())
    texts = {
        name: value_text(value, meant=name)
        for name, value in values[:_LOCALS]
        # A module has its globals among its variables.
        if not (name.startswith("__") and name.endswith("__"))
    }
    if len(values) > _LOCALS:
        texts["…"] = f"{len(values) - _LOCALS:,} more"
    return texts


def _release(kept: list[_Kept]) -> None:
    for each in kept:
        for attachment in list(each.attachments):
            with contextlib.suppress(OSError):
                attachment.shutdown(socket.SHUT_RDWR)
        for frame, _ in each.frames:
            with contextlib.suppress(RuntimeError):  # it runs: a generator's, for example
                frame.clear()
        each.frames.clear()
        each.clear()
