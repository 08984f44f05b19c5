"""A script whose calls use what it defines; run by test_main_module.py."""

import concurrent.futures
import dataclasses
import enum
import functools
import io
import multiprocessing
import pickle
import time
import typing

import torch
from dask.distributed import Client

from dask_flame import FlameCluster


@functools.lru_cache
def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)


@functools.cache
def answer():
    return 42


UserId = typing.NewType("UserId", int)


@functools.singledispatch
def kind(x):
    return "any"


@kind.register
def _(x: int):
    return "int"


class Shape:
    @functools.lru_cache  # noqa: B019
    def area(self):
        return 5

    @functools.cached_property
    def name(self):
        return "shape"

    class Inner:
        x = 1


@dataclasses.dataclass
class Point:
    x: int = 1


class Colour(enum.Enum):
    RED = 1


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)


def double(x):
    return 2 * x


def made():
    return pickle.dumps([Point(4), Colour.RED, Net, double, Shape])


def copied():
    return isinstance(pickle.loads(pickle.dumps(Point())), Point)


def saved():
    file = io.BytesIO()
    torch.save(Net(), file)
    file.seek(0)
    return isinstance(torch.load(file, weights_only=False), Net)


def pool():
    with multiprocessing.get_context("fork").Pool(2) as p:
        return p.map(double, range(3))


def spawned():
    with multiprocessing.get_context("spawn").Pool(1) as p:
        return p.map(double, range(3))


def executor():
    context = multiprocessing.get_context("fork")
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as p:
        return list(p.map(double, range(3)))


def imported():
    import __main__

    return __main__.Point is Point and __main__.double is double


class Missing:
    def __reduce__(self):
        return "MISSING"


MISSING = Missing()


def version():
    return pickle.dumps(later), later()


def later():
    return 1


if __name__ == "__main__":
    with (
        FlameCluster(max=1, concurrency=2, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):

        def run(f, *args):
            return client.submit(f, *args, pure=False).result(timeout=100)

        assert run(fib, 20) == 6765
        assert run(lambda: fib(20)) == 6765
        assert run(answer) == 42
        assert run(kind, 3) == "int"
        assert run(kind, "x") == "any"
        assert run(lambda: UserId(3)) == 3
        assert run(lambda of: of(3), UserId) == 3
        assert run(lambda: (Shape().area(), Shape().name, Shape.Inner.x)) == (5, "shape", 1)
        point, red, net, twice, shape = pickle.loads(run(made))
        assert (point, red, net, twice, shape) == (Point(4), Colour.RED, Net, double, Shape)
        assert run(copied)
        assert run(saved)
        assert run(imported)
        assert run(pool) == run(executor) == run(spawned) == [0, 2, 4]
        assert run(lambda p: pickle.loads(pickle.dumps(p)), client.submit(Point, 7)) == Point(7)
        why = client.submit(lambda m: m, MISSING).exception(timeout=100)
        assert isinstance(why, AttributeError)
        assert "MISSING" in str(why)

        # Two versions at once: each call has its own.
        def slow():
            time.sleep(0.5)
            return pickle.loads(pickle.dumps(later))()

        old = client.submit(slow)
        run(time.sleep, 0.2)

        def later():
            return 2

        assert run(lambda: pickle.loads(pickle.dumps(later))()) == 2
        assert old.result() == 1
        assert list(cluster.runners) == ["runner-1"], cluster.events
    print("all well")
