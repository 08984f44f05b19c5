"""Find the event loop of the application (application).

Loads asyncio only where the application has.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any


def running_loop() -> Any:
    """Return the application's running event loop: the main thread's, or any; None without one.

    A loop that runs is among the local variables of the frames that run it, whatever its class.
    """
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return None
    frames = sys._current_frames()
    main = threading.main_thread().ident
    here = threading.get_ident()
    for thread in sorted(frames, key=lambda ident: ident != main):
        if thread == here:
            continue
        for value in _locals(frames[thread]):
            loop = _loop_of(asyncio, value)
            if loop is not None and loop.is_running():
                return loop
    return None


def _locals(frame: FrameType | None) -> Iterator[Any]:
    while frame is not None:
        yield from list(frame.f_locals.values())
        frame = frame.f_back


def _loop_of(asyncio: Any, value: Any) -> Any:
    # isinstance() would call code of proxies.
    kind = type(value)
    if issubclass(kind, asyncio.AbstractEventLoop):
        return value
    if issubclass(kind, (asyncio.Future, asyncio.Runner)):
        try:
            return value.get_loop()
        except RuntimeError:
            return None
    return None
