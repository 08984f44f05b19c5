"""Read the stacks of all threads and asyncio tasks of this process (all places)."""

from __future__ import annotations

import asyncio
import itertools
import linecache
import os
import sys
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from types import CodeType, FrameType
from typing import Any

from dask_flame.attached.looking.tables import shortened
from dask_flame.attached.looking.values import Line, Stacks, TaskStack, ThreadStack
from dask_flame.core.redaction import veiled

#: Maximum number of lines of one stack, from its beginning and from its end.
_LINES = 100
#: Maximum number of threads and of tasks.
MOST = 1_000
#: Maximum length of a line's text, and of what is searched for secrets.
_SOURCE, _EXAMINED = 200, 4_000

#: Functions in which a thread waits for work, by module: as its innermost, or near it.
_WAITS = frozenset(
    {
        ("asyncio.base_events", "_run_once"),
        ("concurrent.futures.thread", "_worker"),
        ("dask_flame.runner.__main__", "_line"),
        ("distributed.threadpoolexecutor", "_worker"),
        ("multiprocessing.connection", "wait"),
        ("queue", "get"),
        ("selectors", "select"),
        ("socket", "accept"),
        ("socketserver", "serve_forever"),
        ("tornado.platform.asyncio", "_run_select"),
    }
)
#: Modules of a thread that runs no code of an application.
_THREADING = frozenset({"threading"})
_BOOTSTRAP = frozenset({"_bootstrap", "_bootstrap_inner", "run"})
#: Modules in which an event loop waits, if nothing runs on it.
_LOOPS = ("asyncio.", "uvloop", "uvicorn.")


def stacks(
    process: str = "",
    *,
    calls: Mapping[int, str] | None = None,
    task_calls: Mapping[str, str] | None = None,
    without: Collection[int] = (),
) -> Stacks:
    """Return what all threads and asyncio tasks of this process execute.

    Parameters
    ----------
    process : str, default ""
        The name of this process, to show.
    calls : mapping of int to str, optional
        The names of calls by the threads (``threading.get_ident()``) that run them.
    task_calls : mapping of str to str, optional
        The names of calls by the names of the asyncio tasks that run them.
    without : collection of int
        Threads to leave out, such as the one that looks.

    Returns
    -------
    Stacks
        The frames are read one thread after another, while the others go on.
    """
    calls, task_calls = calls or {}, task_calls or {}
    known = {thread.ident: thread for thread in threading.enumerate()}
    frames = sys._current_frames()
    own = threading.get_ident()
    _check_files(frames.values())
    loops = list(_running_loops(frames))
    busy_loops = {ident for ident, loop in loops if asyncio.current_task(loop) is not None}
    loop_threads = {ident for ident, _ in loops}
    threads = []
    for ident, frame in itertools.islice(frames.items(), MOST):
        if ident in without:
            continue
        thread = known.get(ident)
        walked = list(_walk(frame if ident != own else _caller(frame)))
        call = calls.get(ident, "")
        free = ident in loop_threads and ident not in busy_loops and ident != own
        threads.append(
            ThreadStack(
                name=thread.name if thread is not None else f"thread {ident}",
                ident=ident,
                native=_native(thread),
                lines=tuple(_lines(_without_bootstrap(reversed(walked)))),
                idle=not call and _is_idle([frame for frame, _ in walked], free=free),
                call=call,
                daemon=thread is not None and thread.daemon,
            )
        )
    # A frame refers to its callers, and so to this one.
    frames.clear()
    threads.sort(key=lambda t: (not t.call, t.idle, t.name != "MainThread", t.name))
    tasks, more = _tasks(loops, known, task_calls)
    notes = []
    if len(known) > MOST:
        notes.append(f"only {MOST:,} of {len(known):,} threads are shown")
    if more:
        notes.append(f"{more:,} more tasks are not shown")
    return Stacks(process, os.getpid(), time.time(), tuple(threads), tasks, note="; ".join(notes))


def _native(thread: threading.Thread | None) -> int | None:
    if thread is None:
        return None
    # After a fork, the main thread still has the number that it had in the parent.
    main = thread is threading.main_thread() and sys.platform == "linux"
    return os.getpid() if main else thread.native_id


def lines_of(walked: Iterable[tuple[FrameType, int]]) -> tuple[Line, ...]:
    """Return the lines of frames, each given with its current line; the outermost first."""
    return tuple(_lines(walked))


def _caller(frame: FrameType) -> FrameType:
    """Return the frame that has called :func:`stacks`."""
    found: FrameType | None = frame
    while found is not None and found.f_code.co_filename == __file__:
        found = found.f_back
    return found or frame


def _walk(frame: FrameType | None) -> Iterator[tuple[FrameType, int]]:
    """Yield the frames of a thread, the innermost first, with their lines."""
    while frame is not None:
        yield frame, frame.f_lineno or frame.f_code.co_firstlineno
        frame = frame.f_back


def _without_bootstrap(
    walked: Iterable[tuple[FrameType, int]],
) -> Iterator[tuple[FrameType, int]]:
    """Leave out the frames of the threading module with which each thread begins."""
    return itertools.dropwhile(
        lambda each: each[0].f_code.co_name in _BOOTSTRAP and _module(each[0]) in _THREADING, walked
    )


def _lines(walked: Iterable[tuple[FrameType, int]]) -> Iterator[Line]:
    frames = list(walked)
    left_out = len(frames) - 2 * _LINES
    if left_out > 0:
        frames[_LINES:-_LINES] = []
    for i, (frame, number) in enumerate(frames):
        if left_out > 0 and i == _LINES:
            yield Line("…", 0, f"{left_out:,} more frames")
        code = frame.f_code
        yield Line(code.co_filename, number, code.co_qualname, _source(code, number, frame))


def _source(code: CodeType, number: int, frame: FrameType) -> str:
    try:
        text = linecache.getline(code.co_filename, number, frame.f_globals).strip()
    except Exception:  # a loader of the application's
        return ""
    return source_text(text)


def source_text(line: str) -> str:
    """Return a line of code, without secrets and shortened."""
    # Shortened last: a part of a secret is not recognized.
    return shortened(veiled(line[:_EXAMINED], random=False), _SOURCE)


def _check_files(frames: Iterable[FrameType]) -> None:
    """Forget the lines of files that were changed; each file is looked at once."""
    files = {frame.f_code.co_filename for each in frames for frame, _ in _walk(each)}
    for file in files.intersection(list(linecache.cache)):
        linecache.checkcache(file)


def _is_idle(frames: list[FrameType], *, free: bool) -> bool:
    """Return whether a thread waits for work; `frames` has the innermost first."""
    places = [(_module(frame), frame.f_code.co_name) for frame in frames]
    # `Queue.get` waits in a condition.
    near = list(itertools.takewhile(lambda place: place[0] in _THREADING, places))
    following = places[len(near) : len(near) + 1]
    if (places[:1] and places[0] in _WAITS) or (near and following and following[0] in _WAITS):
        return True
    if len(near) == len(places) and places:
        return True  # a Timer, for example
    return free and bool(places) and places[0][0].startswith(_LOOPS)


def _module(frame: FrameType) -> str:
    name = frame.f_globals.get("__name__", "")
    return name if isinstance(name, str) else ""


def _running_loops(
    frames: Mapping[int, FrameType],
) -> Iterator[tuple[int, asyncio.AbstractEventLoop]]:
    """Yield the running event loops with their threads.

    A loop is among the variables of the function that runs it; loops in C have no frame of their
    own, but their callers have. Other frames are not looked at: until Python 3.12, this makes a
    frame keep the values that its variables have now.
    """
    seen = set()
    for ident, innermost in frames.items():
        for frame, _ in _walk(innermost):
            if not (_module(frame).startswith("asyncio.") or "loop" in frame.f_code.co_varnames):
                continue
            for value in list(frame.f_locals.values()):
                loop = _loop_of(value)
                if loop is not None and id(loop) not in seen and loop.is_running():
                    seen.add(id(loop))
                    yield ident, loop


def _loop_of(value: Any) -> asyncio.AbstractEventLoop | None:
    if isinstance(value, asyncio.AbstractEventLoop):
        return value
    if isinstance(value, asyncio.Task):
        return value.get_loop()
    return None


def _tasks(
    loops: Iterable[tuple[int, asyncio.AbstractEventLoop]],
    threads: Mapping[int | None, threading.Thread],
    calls: Mapping[str, str],
) -> tuple[tuple[TaskStack, ...], int]:
    """Return the tasks of these loops, and the number of those that are left out."""
    found, more = [], 0
    for ident, loop in loops:
        thread = threads.get(ident)
        try:
            tasks = list(asyncio.all_tasks(loop))
        except RuntimeError:  # too many tasks begin and end at this moment
            continue
        more += max(0, len(tasks) - MOST)
        current = asyncio.current_task(loop)
        for task in tasks[:MOST]:
            coroutine = task.get_coro()
            name = task.get_name()
            found.append(
                TaskStack(
                    name=name,
                    coroutine=str(getattr(coroutine, "__qualname__", type(coroutine).__name__)),
                    loop=thread.name if thread is not None else f"thread {ident}",
                    lines=tuple(_lines(_awaited(coroutine))),
                    running=task is current,
                    call=calls.get(name, ""),
                )
            )
    found.sort(key=lambda t: (not t.call, not t.running, t.coroutine, t.name))
    return tuple(found), more


def _awaited(coroutine: Any) -> Iterator[tuple[FrameType, int]]:
    """Yield the frames of a coroutine, and of what it awaits."""
    seen = set()
    while coroutine is not None and id(coroutine) not in seen:
        seen.add(id(coroutine))
        for kind in ("cr", "gi", "ag"):
            frame = getattr(coroutine, f"{kind}_frame", None)
            if isinstance(frame, FrameType):
                yield frame, frame.f_lineno or frame.f_code.co_firstlineno
                after = "yieldfrom" if kind == "gi" else "await"
                coroutine = getattr(coroutine, f"{kind}_{after}", None)
                break
        else:
            return
