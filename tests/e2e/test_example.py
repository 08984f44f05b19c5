"""The BERT example, small: as a script, interrupted, and as a notebook whose kernel is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from dask_flame.testing import marked_processes
from tests.support.paths import ROOT
from tests.support.waiting import wait_for

# They take seconds to import, which the example does itself.
for _needed in ("torch", "transformers"):
    if find_spec(_needed) is None:
        pytest.skip(f"pip install {_needed}", allow_module_level=True)
nbformat = pytest.importorskip("nbformat")

pytestmark = pytest.mark.process

EXAMPLES = ROOT / "examples"
SCRIPT = EXAMPLES / "bert_tuning.py"
NOTEBOOK = EXAMPLES / "bert_tuning.ipynb"
SMALL = ["--variants", "2", "--runners", "2", "--samples", "100", "--max-length", "24"]
_TOKEN = "DASK_FLAME_TEST_EXAMPLE"


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """What all processes that a test starts have in their environment."""
    token = uuid.uuid4().hex
    monkeypatch.setenv(_TOKEN, token)
    monkeypatch.setenv("BERT_TUNING_VARIANTS", "2")
    monkeypatch.setenv("BERT_TUNING_RUNNERS", "2")
    yield token
    monkeypatch.delenv(_TOKEN)
    for process in marked_processes(token, variable=_TOKEN):
        process.kill()


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_it_trains_ranks_saves_and_draws(tmp_path: Path, token: str) -> None:
    # Some tens of steps on a hundred texts are enough to see that something is learnt.
    example = start(*SMALL, "--steps", "20", "--depths", "2", "--out", str(tmp_path))
    out, err = example.communicate(timeout=200)
    assert example.returncode == 0, err
    assert err == ""
    assert "/flame" in out
    facts = json.loads((tmp_path / "results.json").read_text())
    assert len(facts["results"]) == 2
    best = max(r["accuracies"][-1][1] for r in facts["results"].values())
    assert best > 2 * facts["majority"], out
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "best").is_dir()
    assert marked_processes(token, variable=_TOKEN) == []


def test_it_runs_in_pods(tmp_path: Path, token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("aiohttp")
    from tests.fakes.kubernetes import FakeKubernetes

    container = {"name": "hub", "image": "hub/image:1", "args": ["sleep", "3600"]}
    pod = {"metadata": {"name": "me", "namespace": "team"}, "spec": {"containers": [container]}}
    made: list[dict[str, Any]] = []
    # What would refuse them sees all that are made.
    with FakeKubernetes(admission=lambda _, obj: made.append(obj)).in_thread() as fake:
        fake.create({"apiVersion": "v1", "kind": "Pod", **pod})
        wait_for(lambda: fake.objects("pods")[0]["status"].get("podIP"))
        monkeypatch.setenv("KUBECONFIG", fake.kubeconfig(tmp_path / "kubeconfig"))
        monkeypatch.setenv("POD_NAME", "me")
        pods = ["--backend", "kubernetes", "--image", "train:1", "--cpus", "1", "--memory", "2GiB"]
        small = [*SMALL, "--variants", "1", "--steps", "2", "--eval-every", "2", "--depths", "1"]
        example = start(*small, *pods, "--out", str(tmp_path / "out"))
        out, err = example.communicate(timeout=200)
        assert (example.returncode, err) == (0, ""), out
        assert len(json.loads((tmp_path / "out/results.json").read_text())["results"]) == 1
        wait_for(fake.at_rest, 30, "nothing is left")
    runners = [o["spec"]["containers"][0] for o in made if "runner" in o["metadata"]["name"]]
    assert [c["image"] for c in runners] == ["train:1"]
    assert runners[0]["resources"]["limits"] == {"cpu": "1", "memory": "2Gi"}


def test_ctrl_c_leaves_nothing_and_says_what_was_learnt(tmp_path: Path, token: str) -> None:
    example = start(*SMALL, "--steps", "100000", "--out", str(tmp_path))
    assert example.stdout is not None
    seen = ""
    for line in example.stdout:
        seen += line
        if "in training" in line and " at " in line:
            break
    example.send_signal(signal.SIGINT)
    out, err = example.communicate(timeout=60)
    assert example.returncode == 130, err
    assert "stopped" in out
    stopped = json.loads((tmp_path / "results.json").read_text())["results"].values()
    assert any(r["losses"] for r in stopped)
    wait_for(lambda: not marked_processes(token, variable=_TOKEN))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--variants", "0"], "--variants"),
        (["--dataset", "no-such-data"], "neither bbc-news nor rotten-tomatoes"),
        (["--depths", "9"], "has 6 layers"),
        (["--backend", "cloud"], "backend='cloud' is not known"),
        (["--model", "no-such-model"], "--model no-such-model"),
    ],
)
def test_bad_input_gets_a_line(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # the hub's own client tries for half a minute
    example = start(*arguments, "--out", str(tmp_path))
    out, err = example.communicate(timeout=100)
    assert example.returncode == 2
    assert says in err
    assert "Traceback" not in out + err
    assert err.count("\n") <= 2


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("BERT_TUNING_STEPS", "2")
    return nbformat.read(NOTEBOOK, as_version=4)


def kernel(notebook: Any) -> Any:
    nbclient = pytest.importorskip("nbclient")
    return nbclient.NotebookClient(
        notebook, timeout=200, resources={"metadata": {"path": str(EXAMPLES)}}
    )


def code(notebook: Any, name: str) -> tuple[Any, int]:
    return next((c, i) for i, c in enumerate(notebook.cells) if c["id"] == name)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_the_notebook_runs_from_top_to_bottom(notebook: Any, token: str) -> None:
    assert all(not c.get("outputs") for c in notebook.cells), "committed without its outputs"
    kernel(notebook).execute()
    text = json.dumps(notebook)
    assert "2 of 2: " in text
    assert "image/png" in text
    assert "2 calls: 2 done" in json.dumps(code(notebook, "watch")[0]["outputs"])
    assert "runners: none of 0..2" in text
    wait_for(lambda: not marked_processes(token, variable=_TOKEN))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_kernel_that_is_killed_half_way_leaves_nothing(
    notebook: Any, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BERT_TUNING_STEPS", "100000")
    client = kernel(notebook)
    with client.setup_kernel():
        for name in ("parameters", "cluster", "variants", "train", "map"):
            client.execute_cell(*code(notebook, name))
        wait, index = code(notebook, "map")
        wait["source"] = (
            "import time\n"
            "while len(cluster.reports.calls) < 2:\n"
            "    time.sleep(0.05)\n"
            "print('training', cluster.name)"
        )
        client.execute_cell(wait, index)
        assert "training" in json.dumps(wait["outputs"])
        # The kernel, its supervisor and two runners, at the least.
        assert len(marked_processes(token, variable=_TOKEN)) >= 4
        manager = client.km
        os.kill(manager.provisioner.process.pid, signal.SIGKILL)
        wait_for(lambda: not marked_processes(token, variable=_TOKEN))
