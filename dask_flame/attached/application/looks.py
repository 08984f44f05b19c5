"""The questions with which a notebook looks inside an application (application).

Only the first question loads what they need. They run no code of the notebook's, and change nothing
but the process's logging, while somebody reads its log.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

from dask_flame.attached.application.questions import Asked, question
from dask_flame.attached.looking import looks
from dask_flame.attached.looking.wire import packed

if TYPE_CHECKING:
    from dask_flame.attached.looking.log import LogTap

#: Seconds between two looks at whether the log is still read.
_LOOK = 0.5


@cache
def tap() -> LogTap:
    """Return what follows the log, for all readers of this process together."""
    from dask_flame.attached.looking.log import LogTap

    return LogTap()


@question("stacks")
def stacks(asked: Asked) -> dict[str, Any]:
    """Return what all threads and asyncio tasks execute."""
    return looks.look("stacks", asked.application)


@question("memory")
def memory(asked: Asked, *, most: int = 20, limit: float = 1.0) -> dict[str, Any]:
    """Return what the memory is used for."""
    return looks.look("memory", asked.application, {"most": most, "limit": limit})


@question("modules")
def modules(asked: Asked) -> dict[str, Any]:
    """Return the loaded modules."""
    return looks.look("modules", asked.application)


@question("versions")
def versions(asked: Asked) -> dict[str, Any]:
    """Return the versions of Python and of the loaded packages."""
    return looks.look("versions", asked.application)


@question("processes")
def processes(asked: Asked) -> dict[str, Any]:
    """Return the tree of processes."""
    return looks.look("processes", asked.application)


@question("pools")
def pools(asked: Asked) -> dict[str, Any]:
    """Return the FlameClusters of this process, as they show themselves."""
    return looks.look("pools", asked.application)


@question("log")
def log(asked: Asked, *, follow: bool = False, most: int = 100) -> Iterator[dict[str, Any]]:
    """Yield lines of the log: earlier ones, and then, with `follow`, those that come."""
    followed = tap()
    after = followed.open()
    try:
        yield packed(followed.earlier(most))
        while follow and not asked.over.is_set():
            news = followed.read(after, within=_LOOK)
            if news.lines:
                after = news.lines[-1].number
            # Without lines, too: it fails if nobody reads any more.
            yield packed(news)
    finally:
        followed.close()
