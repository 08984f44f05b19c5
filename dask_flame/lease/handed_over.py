"""Keep the work of drivers that were replaced until their successor takes it (scheduler).

A driver that was replaced although it was not dead closes its Client as soon as it learns of it,
and so releases its futures. Therefore a client of its own holds them from the handover on, as one
holds those of variables and queues.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from typing import Any

from distributed import Scheduler
from distributed.scheduler import TaskState

from dask_flame.lease.clients import is_driver

#: The id of this client, which never connects.
_HOLDER = "flame-handed-over"


class HandedOver:
    """The work of drivers that were replaced.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def keep(self, tasks: Iterable[TaskState]) -> None:
        """Keep these from now on, whatever their clients release."""
        self._scheduler.client_desires_keys([ts.key for ts in tasks], _HOLDER)

    def take(self, client: str) -> list[Any]:
        """Give a driver what no other connected driver wants; return its keys."""
        others = self._drivers_there() - {client}
        keys = self._keys(lambda ts: not _wanted_by(ts, others))
        # No turn of the loop lies between the two, so no result is released.
        self._scheduler.client_desires_keys(keys, client)
        self._release(keys)
        return keys

    def settle(self) -> None:
        """Let go of what connected drivers want: they are independent of the replaced one."""
        there = self._drivers_there()
        self._release(self._keys(lambda ts: _wanted_by(ts, there)))

    def let_go(self) -> None:
        """Keep nothing any more."""
        self._release(self._keys(lambda ts: True))

    def _keys(self, chosen: Callable[[TaskState], bool]) -> list[Any]:
        holder = self._scheduler.clients.get(_HOLDER)
        return [] if holder is None else [ts.key for ts in holder.wants_what if chosen(ts)]

    def _drivers_there(self) -> set[str]:
        return {client for client in self._scheduler.client_comms if is_driver(client)}

    def _release(self, keys: list[Any]) -> None:
        if keys:
            self._scheduler.client_releases_keys(keys, _HOLDER)


def _wanted_by(task: TaskState, clients: Container[str]) -> bool:
    return any(client.client_key in clients for client in task.who_wants or ())


def in_order(scheduler: Scheduler, keys: Container[Any]) -> list[Any]:
    """Return these keys in the order in which they were submitted: see :func:`put_in_order`."""
    return [key for key in scheduler.tasks if key in keys]


def put_in_order(scheduler: Scheduler, keys: set[Any], priorities: dict[Any, Any]) -> None:
    """Have the last tasks of a scheduler in the order of their calls.

    A client sends the keys of one ``map`` as a set, and the scheduler adds its tasks in the order
    of that. Their priorities have the order of the calls.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    keys : set
        The keys that the client wants.
    priorities : mapping of Key to tuple
        The priorities of these tasks, and of those that they need.
    """
    if len(keys) < 2:
        return
    tasks, last = scheduler.tasks, []
    for key in reversed(tasks):
        if key not in priorities:
            break  # it was there before
        if key in keys:
            last.append(key)
    last.reverse()
    # The first part is the user's, and is no order of submission. Scattered data have none.
    last.sort(key=lambda key: (priorities[key] or (0, 0, 0))[1:])
    for key in last:
        tasks[key] = tasks.pop(key)
