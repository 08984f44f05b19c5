"""``%%flame`` in a real kernel, whose cells have file names as in JupyterLab."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator

import pytest

from tests.support.paths import ROOT

pytest.importorskip("ipykernel")
from tests.notebook.kernels import CLUSTER, Cell, Kernel, kernel

pytestmark = [
    pytest.mark.process,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def notebook() -> Iterator[Kernel]:
    with kernel(CLUSTER) as running:
        yield running


def arrows(cell: Cell) -> list[str]:
    """The lines of a traceback that have an arrow."""
    assert cell.failed
    return re.findall(r"^-+> (\d+ .*)$", cell.text, re.MULTILINE)


def test_arrows_stand_before_the_lines_that_failed(notebook: Kernel) -> None:
    notebook.ok("def other(n):\n    half = n / 2\n    return half / n\n")
    cell = notebook.run("""
%%flame
# a comment
x = 1

@(lambda function: function)
def outer(n):
    y = 3
    return [other(i) for i in (n, 0)]

class Model:
    a = 1
    b = outer(2)
""")
    assert arrows(cell) == [
        "10 class Model:",
        "12     b = outer(2)",
        "8     return [other(i) for i in (n, 0)]",
        # The comprehension has a frame of its own in Python 3.11.
        *(
            ["8     return [other(i) for i in (n, 0)]"]
            if ", in outer.<locals>" in cell.text
            else []
        ),
        "3     return half / n",
    ]
    assert "ZeroDivisionError: float division by zero" in cell.text
    assert "in other()" in cell.text
    cell = notebook.run("""
%%flame
try:
    1 / 0
except ZeroDivisionError as error:
    raise KeyError("no") from error
""")
    assert arrows(cell) == ["3     1 / 0", '5     raise KeyError("no") from error']
    cell = notebook.run("%%flame\nimport json\n\njson.loads('{')\nx = 1")
    assert arrows(cell)[0] == "4 json.loads('{')"
    assert arrows(cell)[-1].endswith("obj, end = self.scan_once(s, idx)")


def test_what_the_compiler_warns_of_is_said_once(notebook: Kernel) -> None:
    assert notebook.ok('%%flame\nx = 1\nx is "one"').text.count("SyntaxWarning") == 1


def test_a_change_of_directory_ends_with_the_cell(notebook: Kernel) -> None:
    before = notebook.ok("%%flame\nimport os\nprint(os.getcwd())").text
    for move in ("%cd /", "%pushd /", "import os\nos.chdir('/')"):
        cell = notebook.ok(f"%%flame\n{move}\nprint('now', os.getcwd())")
        assert "now /\n" in cell.text
        assert notebook.ok("%%flame\nprint(os.getcwd())").text == before
    assert "_dh" not in notebook.ok("%%flame\n%who").text
    # As in the kernel itself: without a name of its own, nothing is assigned there.
    assert notebook.ok("str(_dh[-1])").displayed == [{"text/plain": repr(os.getcwd())}]


def test_a_cell_that_asks_for_input_says_what_to_do(notebook: Kernel) -> None:
    for ask in ("input('name? ')", "import sys; sys.stdin.read()", "breakpoint()"):
        cell = notebook.run(f"%%flame\n{ask}")
        assert "FlameError: a cell on a runner cannot ask for input; ask in a cell" in cell.text
        assert "streams.py" not in cell.text
        assert "EOFError" not in cell.text


def test_progress_bars_and_widgets_are_text(notebook: Kernel) -> None:
    notebook.ok("from tqdm.notebook import tqdm as bar")
    cell = notebook.ok("""
%%flame
from tqdm.notebook import trange
for i in bar("abc"): pass
for i in trange(7): pass
""")
    assert cell.displayed == []
    assert "100%|██████████| 3/3" in cell.text
    assert "100%|██████████| 7/7" in cell.text
    cell = notebook.ok("""
%%flame
import ipywidgets
from IPython.display import display
display(ipywidgets.IntSlider(3))
display(ipywidgets.IntSlider(4))
slider = ipywidgets.IntSlider(5)
slider
""")
    assert [list(shown) for shown in cell.displayed] == [["text/plain"]] * 3
    assert [shown["text/plain"] for shown in cell.displayed] == [
        f"IntSlider(value={n})" for n in (3, 4, 5)
    ]
    assert cell.text.count("widgets of a runner are shown as text") == 1
    assert "slider stayed on the runner" in cell.text
    # Those of the notebook itself are as before.
    cell = notebook.ok("import ipywidgets\nipywidgets.IntSlider(3)")
    assert "application/vnd.jupyter.widget-view+json" in cell.displayed[0]


def test_pages_are_printed(notebook: Kernel) -> None:
    assert "Convert a number or string to an integer" in notebook.ok("%%flame\nint?").text


def test_an_endless_flood_is_cut_and_stopped() -> None:
    def stop(cell: Cell) -> None:
        # The message about what was dropped comes after more than a second of printing.
        if "not shown" in cell.messages[-1][1].get("text", "") and not stopped:
            stopped.append(len(json.dumps(cell.messages)))
            notebook.interrupt()

    # A cluster of its own, since a runner that is slow to stop may be replaced.
    with kernel(CLUSTER) as notebook:
        for endless in ("print('x' * 20)", "print('x', end='')", "print('x' * 1000)", "display(1)"):
            stopped: list[int] = []
            cell = notebook.run(f"%%flame\nwhile True: {endless}", seen=stop)
            assert cell.messages[-1][1]["ename"] == "KeyboardInterrupt"
            assert stopped[0] < 3_000_000
            assert "a cell shows 10,000 lines at once, then 200 per second" in cell.text
            assert notebook.ok("%%flame\n1").displayed == [{"text/plain": "1"}]


def test_a_pool_that_is_not_there_is_refused_at_once(notebook: Kernel) -> None:
    said = "UsageError: there is no pool 'nix'; there are 'default'\n"
    assert notebook.run("%flame pool=nix").text == said
    assert notebook.ok("%%flame\n1").displayed == [{"text/plain": "1"}]


def test_a_pool_that_was_chosen_before_the_cluster_came() -> None:
    with kernel("%load_ext dask_flame") as notebook:
        said = notebook.ok("%flame pool=nix").text
        assert "there is no Dask client yet: the first cell finds out" in said
        notebook.ok(CLUSTER.replace("%load_ext dask_flame\n", ""))
        said = notebook.run("%%flame\n1").text
        assert "there is no pool 'nix'; there are 'default'\n%flame has set pool=nix" in said
        assert "write %flame pool=none" in said
        notebook.ok("%flame pool=none")
        assert notebook.ok("%%flame\n1").displayed == [{"text/plain": "1"}]


TRAIN = """
import time

def train(rate):
    for step in range(20):
        report(step=step, loss=rate / (step + 1))
        time.sleep(0.02)

futures = client.map(train, [0.1, 0.2], key=["low", "high"])
watch(futures)
"""


def test_a_console_shows_the_end_of_the_curves(notebook: Kernel) -> None:
    # As `jupyter console` asks; it prints displays, and does not know of updates.
    cell = notebook.ok(TRAIN, allow_stdin=True)
    kinds = [kind for kind, _ in cell.messages]
    assert kinds.count("display_data") == 1
    assert "update_display_data" not in kinds
    assert "2 calls: 2 done" in cell.displayed[0]["text/plain"]
    assert "  1  low" in cell.displayed[0]["text/plain"]
    lines = cell.text.split("\r")
    assert any("best loss" in line and "by low" in line for line in lines)
    assert lines[-1].strip() == ""
    assert max(map(len, lines)) < 80


def test_a_notebook_has_one_picture_that_is_replaced(notebook: Kernel) -> None:
    # Dask would not run calls with the same keys again.
    train = TRAIN.replace('["low", "high"]', '["first", "second"]')
    cell = notebook.ok(train, allow_stdin=True, metadata={"cellId": "1"})
    kinds = [kind for kind, _ in cell.messages]
    assert kinds[0] == "display_data"
    assert set(kinds[1:]) == {"update_display_data"}
    assert "2 calls: 2 done" in cell.displayed[-1]["text/plain"]


def test_a_cluster_is_html_beside_its_widget(notebook: Kernel) -> None:
    widget, page = notebook.ok("client.cluster").displayed
    # The widget itself is nothing where there are no widgets, and has no text in a console.
    assert set(widget) == {"application/vnd.jupyter.widget-view+json", "text/html"}
    assert widget["text/html"] == ""
    assert set(page) == {"text/html", "text/plain"}
    assert "1 ready" in page["text/html"]
    assert page["text/plain"].startswith("FlameCluster(")


@pytest.mark.parametrize("page", ["README.md", "docs/notebook.md"])
def test_each_block_of_the_documentation_is_a_cell(page: str) -> None:
    cells = re.findall(r"```ipython\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert any(cell.startswith("%%flame") for cell in cells)
    pools = "FlameCluster(pools={n: Pool(max=1) for n in ('cpu', 'gpu')}, dashboard_address=None)"
    start = f"from dask.distributed import Client\nfrom dask_flame import FlameCluster, Pool\n\
client = Client({pools})"
    with kernel(start) as notebook:
        for cell in cells:
            notebook.ok(cell)
        assert notebook.ok("middle").displayed == [{"text/plain": "2.0"}]
