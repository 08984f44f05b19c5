"""Calls are pickled at the first try, and as distributed pickles them."""

from __future__ import annotations

import pickle
import subprocess
import sys
import types
from typing import Any

import cloudpickle
import pytest
from dask._task_spec import Task
from distributed.protocol import pickle as dask_pickle

from dask_flame.serialization import pickling
from dask_flame.serialization.packed import PackedTask

pytestmark = pytest.mark.process

#: A script, whose functions belong to ``__main__``.
SCRIPT = """
import pickle, sys

import cloudpickle
from dask._expr import LLGExpr
from dask._task_spec import Task
from distributed.client import _MapExpr
from distributed.protocol import pickle as dask_pickle
from dask_flame.serialization import pickling

stock = dask_pickle.dumps
pickling.prepare(interruptible=True)
fast, tries = dask_pickle.dumps, []

scale = 3
state = {"calls": 0}


def times(x, by=state):
    return x * scale, by is state


class Loud:
    def __reduce__(self):
        tries.append(None)
        return Loud, ()


class Broken:
    def __reduce__(self):
        tries.append(None)
        raise ZeroDivisionError("not to be pickled")


def both(value):
    found = []
    for dumps in (stock, fast):
        buffers = []
        found.append((dumps(value, buffer_callback=buffers.append), [bytes(b) for b in buffers]))
    return found


# In the driver, the function is that of the module; in the scheduler, it is a copy.
copied = pickle.loads(cloudpickle.dumps(times))
for function in (times, copied):
    array = pickle.PickleBuffer(bytearray(b"x" * 100))
    for value in (
        Task("a-1", function, 1),
        LLGExpr({"a-1": Task("a-1", function, 1)}),
        Task("a-1", function, array),
    ):
        one, other = both(value)
        assert one == other
    assert one[1] == [b"x" * 100]
    mapped = _MapExpr(function, [[1, 2]], key="a", pure=False, annotations={}, kwargs={})
    assert pickle.loads(fast(mapped)).func(2)[0] == 6
    tries.clear()
    fast(Task("a-1", function, Loud()))
    assert len(tries) == 1

# A global that changes between two calls is sent as it is.
scale = 5
assert pickle.loads(fast(Task("a-1", times, 2)))()[0] == 10

# What cannot be pickled fails as with distributed.
for dumps in (stock, fast):
    tries.clear()
    try:
        dumps(Task("a-1", times, Broken()))
    except ZeroDivisionError:
        assert tries
    else:
        raise AssertionError("pickled")
"""


def test_a_call_of_a_function_of_main_has_the_pickle_that_distributed_makes() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Failed to serialize") == 2


def test_bytes_that_name_main_are_pickled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pickling.prepare(interruptible=True)

    pickled: list[Any] = []
    reduce = PackedTask.__reduce_ex__

    def noted(self: PackedTask, protocol: Any) -> Any:
        pickled.append(protocol)
        return reduce(self, protocol)

    monkeypatch.setattr(PackedTask, "__reduce_ex__", noted)
    packed = PackedTask(b"... __main__ ...", [bytearray(b"large")], version="v")
    buffers: list[pickle.PickleBuffer] = []
    found = dask_pickle.dumps(packed, buffer_callback=buffers.append)
    assert len(pickled) == 1
    read = pickle.loads(found, buffers=buffers)
    assert (type(read), read.version) == (PackedTask, "v")
    assert [bytes(buffer) for buffer in buffers] == [b"large"]


def test_other_calls_are_left_to_distributed() -> None:
    pickling.prepare(interruptible=True)
    task = Task("a-1", abs, -1)
    assert pickle.loads(dask_pickle.dumps(task))() == 1
    assert pickle.loads(dask_pickle.dumps(task, protocol=4))() == 1


def test_a_function_of_a_module_that_is_registered_by_value() -> None:
    """It is submitted itself: the graph, not the function, is what distributed looks at."""
    module = types.ModuleType("made_by_hand")
    exec("def double(x):\n    return 2 * x", module.__dict__)
    sys.modules[module.__name__] = module
    task = Task("a", module.double, 2)
    try:
        assert pickling._at_first_try(task) is None
        cloudpickle.register_pickle_by_value(module)
        pickled = pickling._at_first_try(task)
        cloudpickle.unregister_pickle_by_value(module)
    finally:
        del sys.modules[module.__name__]
    assert pickled is not None
    assert pickle.loads(pickled)() == 4
