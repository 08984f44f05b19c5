"""What works in a notebook's ``__main__`` works in a call."""

from __future__ import annotations

import subprocess
import sys

import cloudpickle.cloudpickle
import pytest
from distributed.protocol import pickle as dask_pickle

from dask_flame.runner.main_module import MainModule
from tests.support.paths import ROOT


@pytest.mark.process
def test_a_scripts_own_functions_and_classes() -> None:
    script = ROOT / "tests/support/main_script.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("all well\n")


@pytest.mark.unit
def test_a_name_that_nobody_has_sent() -> None:
    with pytest.raises(AttributeError, match="sent by its name alone"):
        _ = MainModule().nothing


@pytest.mark.unit
def test_what_cloudpickle_names_is_where_it_is_replaced() -> None:
    """Fails where a release moves the two functions that a runner's ``__main__`` listens to."""

    def function() -> int:
        return 3

    class Class:
        pass

    for thing, name in ((function, "_function_setstate"), (Class, "_class_setstate")):
        assert callable(getattr(cloudpickle.cloudpickle, name))
        assert name.encode() in cloudpickle.dumps(thing)
        assert name.encode() in dask_pickle.dumps(thing)
