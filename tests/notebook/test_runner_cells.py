"""``%%flame on=RUNNER`` and ``on=`` a failed call's frame, in a shell of IPython."""

from __future__ import annotations

import os
from typing import Any

import pytest
from distributed import Event

from tests.notebook.test_attached_cells import completed
from tests.notebook.test_magics import Notebook
from tests.notebook.test_magics import shell as shell  # a fixture
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process


def loops(event: str) -> int:
    stop = Event(event)
    while not stop.is_set():
        for _ in range(10_000):
            pass
    return os.getpid()


def fails(rate: float) -> float:
    losses = [1 / rate, 0.0]
    return losses[0] / losses[1]


def test_cells_run_in_runners_and_in_frames(shell: Notebook, flame: Any) -> None:
    cluster, client = flame(max=1, post_mortem=True, idle_timeout="1h")
    call = client.submit(loops, "stop", key="the loop")
    name = wait_for(lambda: [name for name, runner in cluster.runners.items() if runner.busy])[0]
    shell.ok("mine = 7")
    # Beside the call that has the only slot.
    value = shell.flame(
        "import os, math\nprint('hello'); pid = os.getpid()\nmine = 3", f"on={name}"
    )
    assert value is None
    assert "hello\n" in shell.out
    assert shell.flame("mine += 1", f"on={name} get=pid") is None
    assert shell["mine"] == 7
    assert shell["pid"] not in (None, os.getpid())
    assert completed(shell, f"%%flame on={name}\nmath.isf") == {"isfinite"}
    assert completed(shell, f"%%flame on={name}\nmin") >= {"mine"}
    said = shell.fails("def f():\n    return 1 / 0\nf()", f"on={name}")
    assert "line 4, in <module>\n    f()" in said
    assert "CallTimeout" in shell.fails("while True: pass", f"on={name} timeout=0.2s")
    assert 'dask_flame.expose("runner-7")' in shell.fails("1", "on=runner-7")
    assert cluster.runners[name].busy == 1
    Event("stop", client=client).set()
    assert call.result() == shell["pid"]
    # A frame, by the variable that has it.
    shell.shell.user_ns["future"] = client.submit(fails, 0.5)
    shell.ok("import dask_flame; pm = dask_flame.post_mortem(future)")
    assert repr(shell.flame("half = losses[0] / 2\nlosses", "on=pm")) == "[2.0, 0.0]"
    assert completed(shell, "%%flame on=pm\nloss") == {"losses"}
    assert shell.flame("pass", "on=pm get=half") is None
    assert shell["half"] == 1.0
    # Attached as long as there is the variable.
    attached = shell["pm"].attached_application()
    channel = attached._channel
    del attached
    shell.ok("%xdel pm")
    wait_for(lambda: channel.closed)


def test_a_name_means_a_runner_of_the_current_cluster(shell: Notebook, flame: Any) -> None:
    first, client = flame(max=1)
    pid = client.submit(os.getpid).result()
    shell.shell.user_ns["runner"] = first.runners["runner-1"]
    assert repr(shell.flame("import os; os.getpid()", "on=runner-1")) == str(pid)
    second, other = flame(max=1)
    there = other.submit(os.getpid).result()
    assert there != pid
    assert repr(shell.flame("import os; os.getpid()", "on=runner-1")) == str(there)
    assert repr(shell.flame("import os; here = os.getpid(); here", "on=runner")) == str(pid)
    assert repr(shell.flame("here", "on=runner")) == str(pid)
    # The clients of the two are all that there are.
    for cluster, its in ((first, client), (second, other)):
        assert set(cluster.scheduler.client_comms) == {its.id}
