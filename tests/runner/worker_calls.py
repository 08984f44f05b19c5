"""What test_worker.py calls on runners, without the imports of its tests (runner)."""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
import weakref
from typing import Any

from distributed import get_client, get_worker


def spin(seconds: float = 600) -> str:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return "done"


async def linger(seconds: float = 600) -> str:
    await asyncio.sleep(seconds)
    return "done"


async def hammer(prefix: str, chance: float) -> None:
    """Interrupt calls on this runner again and again, at whatever they are doing."""
    worker = get_worker()
    while True:
        for key, execution in list(worker.calls._executing.items()):
            if str(key).startswith(prefix) and random.random() < chance:
                execution.interrupt()
        await asyncio.sleep(0)


def _pool_threads() -> int:
    return sum("Dask-Default-Threads" in t.name for t in threading.enumerate())


def tree(depth: int) -> int:
    """A call that makes calls and waits for them, in every plain way."""
    client = get_client()
    if depth == 0:
        return 1
    one = client.submit(tree, depth - 1, pure=False).result()
    rest = client.gather(client.map(abs, range(3), pure=False))
    return int(one + sum(rest))


async def tree_of_coroutines(depth: int) -> int:
    client = get_client()
    if depth == 0:
        return 1
    one, *rest = await asyncio.gather(
        client.submit(tree_of_coroutines, depth - 1, pure=False),
        client.gather(client.map(abs, range(3), pure=False)),
    )
    return int(one + sum(rest[0]))


def crowd(folder: str, depth: int) -> int:
    """Nested calls that note how many execute at once."""
    worker = get_worker()
    here = os.path.join(folder, worker.name)
    mark = os.path.join(here, str(threading.get_ident()))
    seen = 0

    def execute() -> None:
        nonlocal seen
        os.makedirs(here, exist_ok=True)
        open(mark, "w").close()
        spin(0.02)
        seen = max(seen, len(os.listdir(here)))
        os.unlink(mark)

    execute()
    if depth:
        client = get_client()
        futures = client.map(crowd, [folder] * 2, [depth - 1] * 2, pure=False)
        seen = max(seen, *client.gather(futures))
        execute()
        seen = max(seen, client.submit(crowd, folder, depth - 1, pure=False).result())
        execute()
    return seen


class Thing(set[str]):
    """Something of which it can be seen when it is gone, even in an error."""


def note(thing: Any) -> Any:
    """Remember a thing without keeping it."""
    vars(get_worker()).setdefault("things", []).append(weakref.ref(thing))
    return thing


def make() -> Any:
    return note(Thing())


async def make_in_a_coroutine() -> Any:
    return note(Thing())


def take(given: Any) -> Any:
    note(given)
    return note(Thing(given))


def fail(given: Any) -> None:
    raise ValueError(note(given))


def call_another() -> Any:
    client = get_client()
    return note(Thing(client.submit(take, client.submit(make)).result()))


def swallow() -> Any:
    kept = make()
    spin()
    return kept


def what_is_there(dask_worker: Any) -> tuple[int, int]:
    """How many things there have been on this runner, and how many are there still."""
    things = vars(dask_worker).get("things", [])
    return len(things), sum(thing() is not None for thing in things)
