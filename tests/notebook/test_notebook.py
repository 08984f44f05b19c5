"""``%%flame``, ``watch`` and the cluster itself in a notebook that a real kernel executes."""

from __future__ import annotations

import json
import os
import signal
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from dask_flame.testing import marked_processes
from tests.support.waiting import wait_for

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipywidgets")

pytestmark = pytest.mark.process

_TOKEN = "DASK_FLAME_TEST_NOTEBOOK"

CELLS = {
    "cluster": """
%load_ext dask_flame
from dask.distributed import Client
from dask_flame import FlameCluster, report, watch

client = Client(FlameCluster(max=2, dashboard_address=None))
client.cluster
""",
    "prepare": """
texts = ["to be", "or not"]

def longest(texts):
    return max(texts, key=len)
""",
    "flame": """
%%flame
import os
words = longest(texts).split()
print("on", os.environ["DASK_FLAME_RUNNER"].rpartition("/")[2].strip("."))
len(words)
""",
    "fails": """
%%flame
words += ["that"]
words[7]
""",
    "train": """
import time

def train(rate):
    for step in range(steps):
        report(step=step, loss=rate / (step + 1))
        time.sleep(0.02)
    return rate

steps = 30
futures = client.map(train, [0.1, 0.2], key=["low", "high"])
watch(futures)
""",
    "end": """
print(words, client.gather(futures), client.cluster)
client.close()
client.cluster.close()
""",
}


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """What all processes that a test starts have in their environment."""
    token = uuid.uuid4().hex
    monkeypatch.setenv(_TOKEN, token)
    yield token
    monkeypatch.delenv(_TOKEN)
    for process in marked_processes(token, variable=_TOKEN):
        process.kill()


def kernel() -> Any:
    cells = [
        nbformat.v4.new_code_cell(source.strip(), id=name, metadata={"tags": _tags(name)})
        for name, source in CELLS.items()
    ]
    return nbclient.NotebookClient(nbformat.v4.new_notebook(cells=cells), timeout=100)


def _tags(name: str) -> list[str]:
    return ["raises-exception"] if name == "fails" else []


def outputs(notebook: Any, name: str) -> list[Any]:
    found: list[Any] = next(c for c in notebook.cells if c["id"] == name)["outputs"]
    return found


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_notebook_from_top_to_bottom(token: str) -> None:
    client = kernel()
    client.execute()
    notebook = client.nb

    widget, shown = (o for o in outputs(notebook, "cluster") if "data" in o)
    assert "0 to 2 runners" in shown["data"]["text/html"]
    assert "FlameCluster(" in shown["data"]["text/plain"]
    assert "application/vnd.jupyter.widget-view+json" in widget["data"]

    printed, value = outputs(notebook, "flame")
    assert printed["text"] == "on runner-1\n"
    assert (value["output_type"], value["data"]["text/plain"]) == ("execute_result", "2")

    (error,) = outputs(notebook, "fails")
    assert (error["ename"], error["evalue"]) == ("IndexError", "list index out of range")
    plain = "\n".join(error["traceback"])
    assert "line 3" in plain or "Cell" in plain
    assert "words" in plain
    assert "magics.py" not in plain
    assert "cell_calls.py" not in plain

    # One output, which was replaced as the curves grew, and is a picture of its own.
    (picture,) = outputs(notebook, "train")
    assert "2 calls: 2 done" in picture["data"]["image/svg+xml"]
    assert "best loss 0.003333 at step 29 by low" in picture["data"]["image/svg+xml"]
    # And as large as there is room for.
    assert "max-width:100%" in picture["data"]["text/html"]
    assert "  1  low" in picture["data"]["text/plain"]

    last = "".join(o["text"] for o in outputs(notebook, "end"))
    # What the failing cell had assigned before it failed is here too.
    assert "['or', 'not', 'that'] [0.1, 0.2] FlameCluster(" in last
    wait_for(lambda: not marked_processes(token, variable=_TOKEN))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("during", ["flame", "train"])
def test_a_kernel_that_is_killed_half_way_leaves_nothing(token: str, during: str) -> None:
    client = kernel()
    places = {cell["id"]: (cell, i) for i, cell in enumerate(client.nb.cells)}
    with client.setup_kernel():
        for name in ("cluster", "prepare"):
            client.execute_cell(*places[name])
        cell, _ = places[during]
        cell["source"] = cell["source"].replace("len(words)", "while True: pass")
        cell["source"] = cell["source"].replace("steps = 30", "steps = 100000")
        # Not waited for: it would go on for ever.
        client.kc.execute(cell["source"])
        told = nbclient.util.run_sync(client.kc.get_iopub_msg)
        marker = "on runner-1" if during == "flame" else "2 running"
        while marker not in json.dumps(told(timeout=60)["content"]):
            pass
        assert len(marked_processes(token, variable=_TOKEN)) >= 3
        os.kill(client.km.provisioner.process.pid, signal.SIGKILL)
        wait_for(lambda: not marked_processes(token, variable=_TOKEN))
