"""Locks of modules exclude others, and never deadlock."""

from __future__ import annotations

import random
import sys
import threading

import pytest

from dask_flame.code.runner.locks import ModuleLocks

pytestmark = pytest.mark.unit


def test_one_thread_at_a_time_holds_a_lock() -> None:
    locks, inside, most = ModuleLocks(), [0], [0]

    def work() -> None:
        for _ in range(200):
            with locks.hold("a") as taken:
                assert taken
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    finally:
        sys.setswitchinterval(interval)
    assert most == [1]


def test_the_same_thread_may_take_a_lock_again() -> None:
    locks = ModuleLocks()
    with locks.hold("a") as first, locks.hold("a") as second:
        assert first
        assert second
    with locks.hold("a") as free:
        assert free


def test_two_threads_that_need_each_others_locks_both_go_on() -> None:
    locks, both = ModuleLocks(), threading.Barrier(2)
    found: list[bool] = []

    def work(mine: str, other: str) -> None:
        with locks.hold(mine):
            both.wait(30)
            with locks.hold(other) as taken:
                found.append(taken)

    threads = [threading.Thread(target=work, args=names) for names in ("ab", "ba")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert sorted(found) == [False, True]


@pytest.mark.parametrize("seed", range(5))
def test_random_orders_of_locks_end(seed: int) -> None:
    locks, randoms = ModuleLocks(), random.Random(seed)

    def work(orders: list[list[str]]) -> None:
        for names in orders:
            take(names)

    def take(names: list[str]) -> None:
        if names:
            with locks.hold(names[0]):
                take(names[1:])

    orders = [[randoms.sample("abcde", 3) for _ in range(100)] for _ in range(4)]
    threads = [threading.Thread(target=work, args=(each,)) for each in orders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
