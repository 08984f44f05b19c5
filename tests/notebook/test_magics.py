"""``%%flame`` in a shell of IPython, on real runners."""

from __future__ import annotations

import builtins
import contextlib
import io
import os
import signal
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from distributed import Client, LocalCluster

from dask_flame import FlameCluster, Pool
from tests.support.waiting import wait_for

pytest.importorskip("IPython")
from IPython.core.displaypub import CapturingDisplayPublisher
from IPython.core.interactiveshell import ExecutionResult, InteractiveShell
from traitlets.config import Config

pytestmark = pytest.mark.process

Flame = Callable[..., tuple[FlameCluster, Client]]


class Notebook:
    """Runs cells as a notebook does; keeps what the last one has shown."""

    def __init__(self, shell: Any) -> None:
        self.shell = shell
        self.out = self.err = self.error = ""
        self.displayed: list[dict[str, Any]] = []
        self.live = io.StringIO()

    def run(self, cell: str) -> ExecutionResult:
        publisher = self.shell.display_pub
        publisher.outputs.clear()
        self.live = out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()) as err:
            result = self.shell.run_cell(textwrap.dedent(cell).strip("\n"), store_history=True)
        self.out, self.err = out.getvalue(), err.getvalue()
        self.displayed = [output["data"] for output in publisher.outputs]
        return result

    def ok(self, cell: str) -> Any:
        """Run a cell that succeeds; the value of its last expression."""
        result = self.run(cell)
        assert result.success, self.out + self.err
        return result.result

    def flame(self, cell: str, line: str = "") -> Any:
        return self.ok(f"%%flame {line}\n" + textwrap.dedent(cell).strip("\n"))

    def fails(self, cell: str, line: str = "") -> str:
        """Run a cell that fails; what is shown of it."""
        result = self.run(f"%%flame {line}\n" + textwrap.dedent(cell).strip("\n"))
        assert not result.success
        return self.out + self.err

    def __getitem__(self, name: str) -> Any:
        return self.shell.user_ns[name]

    def __contains__(self, name: str) -> bool:
        return name in self.shell.user_ns


@pytest.fixture
def shell(tmp_path: Any) -> Iterator[Notebook]:
    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "nocolor"
    before = sys.modules["__main__"]
    shown = builtins.__dict__.get("display")
    shell = InteractiveShell.instance(config=config, ipython_dir=str(tmp_path / "ipython"))
    shell.display_pub = CapturingDisplayPublisher()
    shell.run_line_magic("load_ext", "dask_flame")
    yield Notebook(shell)
    shell.run_line_magic("unload_ext", "dask_flame")
    InteractiveShell.clear_instance()
    sys.modules["__main__"] = before
    if shown is None:
        builtins.__dict__.pop("display", None)


@pytest.fixture
def notebook(shell: Notebook, flame: Flame) -> Notebook:
    flame(pools={n: Pool(max=1, env={"POOL": n}) for n in ("cpu", "gpu")})
    return shell


def test_names_travel_and_come_back(notebook: Notebook) -> None:
    notebook.ok("""
        import os
        x, table, pid, kept, words, told = 5, {"a": 1}, os.getpid(), [], ["to"], []
        def helper(n): return n + x
        class Model:
            def __init__(self, v): self.v = v
            def get(self): return helper(self.v)
        """)
    kept = notebook["kept"]
    value = notebook.flame("""
        import math, json as js
        assert os.getpid() != pid
        y = helper(3)
        model = Model(4)
        table["b"] = kept
        words += ["be"]
        told.append(1); told = told
        def later(): return x + y
        for i in range(3): pass
        del pid
        model.get()
        """)
    assert value == 9
    assert "Out[2]: 9" in notebook.out
    assert (notebook["y"], notebook["i"]) == (8, 2)
    assert notebook["table"] == {"a": 1, "b": []}
    assert (notebook["words"], notebook["told"]) == (["to", "be"], [1])
    assert notebook["kept"] is kept
    assert "pid" not in notebook
    # As in any notebook, functions see what names are now, and instances know their class.
    assert notebook.ok("x = 100; later(), model.get(), isinstance(model, Model)") == (
        108,
        104,
        True,
    )
    assert notebook.ok("math.floor(2.5), js.dumps(1), later.__globals__ is globals()") == (
        2,
        "1",
        True,
    )


def test_prints_and_displays_come_in_order_while_it_runs(notebook: Notebook, tmp_path: Any) -> None:
    notebook.ok(f"from pathlib import Path; go = Path({str(tmp_path / 'go')!r})")

    def watch() -> None:
        wait_for(lambda: "first" in notebook.live.getvalue())
        (tmp_path / "go").touch()

    running = threading.Thread(target=watch)
    running.start()
    value = notebook.flame("""
        import logging, sys, threading, time, warnings
        from IPython.display import HTML, display
        print("first")
        while not go.exists(): time.sleep(0.01)
        display(HTML("<b>second</b>"))
        handle = display(HTML("1"), display_id="here")
        handle.update(HTML("2"))
        del handle
        print("third\\rfourth", end="")
        print("error", file=sys.stderr)
        warnings.warn("careful")
        thread = threading.Thread(target=print, args=("from a thread",))
        thread.start(); thread.join()
        del thread
        !echo from a shell
        """)
    running.join()
    assert value is None
    assert notebook.out.startswith("first\nthird\rfourth")
    assert "from a thread\n" in notebook.out
    assert "from a shell" in notebook.out
    assert "[cpu-1]" not in notebook.out
    assert "error\n" in notebook.err
    assert "UserWarning: careful" in notebook.err
    html = [output["text/html"] for output in notebook.displayed]
    assert html == ["<b>second</b>", "1", "2"]


def test_figures_appear_and_come_back(notebook: Notebook) -> None:
    pytest.importorskip("matplotlib_inline")
    notebook.flame("""
        import matplotlib.pyplot as plt
        fig, ax = plt.subplots()
        ax.plot([1, 2, 3]);
        """)
    (output,) = notebook.displayed
    assert output["image/png"].startswith("iVBOR")
    assert notebook["fig"].axes[0] is notebook["ax"]
    notebook.flame("plt.plot([3, 2]); plt.show(); print('after')")
    assert len(notebook.displayed) == 1
    assert notebook.out == "after\n"


def test_the_value_of_the_last_expression(notebook: Notebook) -> None:
    notebook.flame("1 + 1;")
    assert notebook.out == ""
    assert notebook.ok("%%flame\nNone") is None
    value = notebook.flame("""
        import asyncio
        async def slow(): await asyncio.sleep(0); return {"a": "long " * 30, "b": 2}
        await slow()
        """)
    assert value == {"a": "long " * 30, "b": 2}
    assert notebook.ok("_") is value
    # What cannot be brought back is shown, and named where it was assigned.
    notebook.flame("import sqlite3\nconnection = sqlite3.connect(':memory:')\nok = 1\nconnection")
    assert notebook["ok"] == 1
    assert "connection" not in notebook
    assert "connection stayed on the runner, as it cannot travel: TypeError" in notebook.err
    assert "<sqlite3.Connection" in notebook.displayed[0]["text/plain"]


def test_errors_show_the_cells_own_lines(notebook: Notebook) -> None:
    notebook.ok("def inner(n):\n    return 1 / n")
    shown = notebook.fails("""
        before = "it came here"
        def outer(n):
            try:
                return inner(n)
            except ZeroDivisionError as error:
                raise KeyError("no") from error
        outer(0)
        after = 1
        """)
    assert notebook["before"] == "it came here"
    assert "after" not in notebook
    assert "KeyError: 'no'" in shown
    assert "ZeroDivisionError: division by zero" in shown
    for number, line in [(8, "outer(0)"), (5, "return inner(n)"), (7, 'raise KeyError("no")')]:
        assert f"{number} " in shown
        assert line in shown, shown
    assert "return 1 / n" in shown  # that of another cell
    assert "Cell In[2], line 8" in shown
    # None of ours, and not a word of Dask.
    for word in ("run_cell", "CellFailed", "dask_flame", "Compute Failed"):
        assert word not in shown, shown


def test_an_error_whose_class_is_not_here_is_shown_as_text(notebook: Notebook) -> None:
    shown = notebook.fails("""
        import sys, types
        module = types.ModuleType("only_there")
        sys.modules["only_there"] = module
        exec("class Odd(Exception): pass", vars(module))
        raise module.Odd("very")
        """)
    assert "Odd: very" in shown
    assert "line 6" in shown
    assert "run_cell" not in shown


def test_a_cell_that_is_no_python(notebook: Notebook) -> None:
    shown = notebook.fails("x = 1\ndef broken(:")
    assert "SyntaxError: invalid syntax" in shown
    assert "line 3" in shown
    assert "magics" not in shown
    assert "cell_calls" not in shown


@pytest.mark.parametrize(
    ("line", "cell", "said"),
    [
        ("pool=tpu", "1", "there is no pool 'tpu'; there are 'cpu', 'gpu'"),
        ("cores=3", "1", "cores=3: there are the options pool, timeout, rerun"),
        ("timeout=soon", "1", "timeout='soon' is not a duration"),
        ("rerun=maybe", "1", "rerun=maybe is not yes or no; write rerun=no"),
        ("'", "1", "No closing quotation; write for example %%flame pool=gpu"),
        ("", "uses()", "lock, which uses uses, cannot travel to a runner: TypeError: cannot pick"),
        ("", "lock", "make it inside of the cell, or take it out"),
    ],
)
def test_what_is_refused_before_anything_runs(
    shell: Notebook, flame: Flame, line: str, cell: str, said: str
) -> None:
    cluster, _ = flame(pools={"cpu": Pool(max=1), "gpu": Pool(max=1)})
    shell.ok("import threading; lock = threading.Lock()\ndef uses(): return lock")
    shown = shell.fails(cell, line)
    assert said in shown
    assert "Traceback" not in shown
    assert not cluster.runners


def test_without_a_client_it_says_what_to_type(shell: Notebook) -> None:
    shown = shell.fails("1")
    assert "client = Client(FlameCluster(max=8))" in shown
    assert "Traceback" not in shown


def test_where_cells_run(notebook: Notebook) -> None:
    where = "import os\nos.environ['POOL']"
    assert notebook.flame(where) == "cpu"
    assert notebook.flame(where, "gpu") == "gpu"
    assert notebook.flame(where) == "cpu"
    notebook.ok("%flame pool=gpu timeout=1m")
    assert "pool=gpu timeout=1m" in notebook.out
    assert notebook.flame(where) == "gpu"
    assert notebook.flame(where, "pool=cpu rerun=no") == "cpu"
    notebook.ok("%flame pool=none timeout=")
    assert notebook.flame(where) == "cpu"


def test_a_cell_that_takes_too_long(notebook: Notebook) -> None:
    shown = notebook.fails("while True: pass", "timeout=0.3s")
    assert "CallTimeout: cell-1-" in shown
    assert "was not done within its timeout=0.3 s" in shown
    assert "Traceback" in shown
    assert "magics" not in shown
    assert "cell_calls" not in shown
    assert notebook.flame("1") == 1


def test_stopping_the_cell_stops_it_on_its_runner(shell: Notebook, flame: Flame) -> None:
    cluster, _ = flame(max=1)

    def stop() -> None:
        wait_for(lambda: "running" in shell.live.getvalue(), 200)
        os.kill(os.getpid(), signal.SIGINT)

    stopping = threading.Thread(target=stop)
    stopping.start()
    shown = shell.fails("""
        print("running")
        try:
            while True: pass
        finally:
            print("tidied up")
        """)
    stopping.join()
    assert "KeyboardInterrupt" in shown
    assert "magics" not in shown
    assert "cell_calls" not in shown
    wait_for(lambda: all(m.busy == 0 for m in cluster.runners.values()))
    assert shell.flame("2") == 2


def test_a_cell_whose_runner_is_lost_runs_again(notebook: Notebook, tmp_path: Any) -> None:
    notebook.ok(f"from pathlib import Path; seen = Path({str(tmp_path / 'seen')!r})")
    # What a first cell imports is imported, so that the next one ends its process at once.
    notebook.flame("pass")
    cell = """
        import os, signal
        if not seen.exists():
            seen.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        "done"
        """
    assert notebook.flame(cell) == "done"
    assert "its runner was lost: it runs again on cpu-2" in notebook.err
    (tmp_path / "seen").unlink()
    shown = notebook.fails(cell, "rerun=no")
    assert "RunnerLost" in shown
    assert "SIGKILL" in shown


def test_of_a_flood_the_first_and_the_last_lines_are_shown(notebook: Notebook) -> None:
    notebook.flame("for i in range(9_000): print(i)")
    assert notebook.out == "".join(f"{i}\n" for i in range(9_000))
    assert notebook.err == ""
    notebook.flame("print(''.join(f'{i}\\n' for i in range(100_000)), end='')")
    shown = [*range(10_000), *range(99_990, 100_000)]
    assert notebook.out == "".join(f"{i}\n" for i in shown)
    said = "… 89,990 lines not shown: a cell shows 10,000 lines at once, then 200 per second\n"
    assert notebook.err == said


def test_the_scheduler_keeps_nothing_of_it(shell: Notebook, flame: Flame) -> None:
    cluster, client = flame(max=1)
    shell.flame("print('x' * 1000)")
    wait_for(lambda: not [t for t in cluster.scheduler._broker._topics if "flame-cell" in t])
    assert not [t for t in client._event_handlers if "flame-cell" in t]
    wait_for(lambda: not cluster.scheduler.tasks)


def test_it_runs_on_any_dask_cluster(shell: Notebook) -> None:
    with (
        LocalCluster(n_workers=1, processes=False, dashboard_address=":0") as cluster,
        Client(cluster),
    ):
        shell.ok("x = 20")
        # Not a process of its own, but a thread of this one: displays are for runners.
        assert shell.flame("print('here')\nx + 1") == 21
        assert shell.out.startswith("here\n")
        assert "pool=, timeout= and rerun= are a FlameCluster's" in shell.fails("1", "gpu")
