"""A call that cannot be interrupted."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.support.waiting import wait_for


class Stubborn:
    """A call that does not stop when it is asked to: it is in C, in one piece, until this closes.

    Parameters
    ----------
    folder : Path
    """

    def __init__(self, folder: Path) -> None:
        self._pipe = folder / f"pipe-{len(list(folder.iterdir()))}"
        self._end: int | None = None
        os.mkfifo(self._pipe)

    @property
    def call(self) -> Callable[[], int]:
        return partial(os.system, f"exec cat '{self._pipe}'")

    def has_begun(self) -> None:
        """Wait until it runs: only then has the pipe a reader."""

        def opened() -> bool:
            with contextlib.suppress(OSError):
                self._end = os.open(self._pipe, os.O_WRONLY | os.O_NONBLOCK)
            return self._end is not None

        wait_for(opened, what="the call has begun")

    def __enter__(self) -> Stubborn:
        return self

    def __exit__(self, *_: object) -> None:
        if self._end is not None:
            os.close(self._end)
