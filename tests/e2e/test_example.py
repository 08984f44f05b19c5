"""The BERT example, small: as a script, interrupted, and as a notebook whose kernel is killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
import yaml
from distributed import Client

import dask_flame
from dask_flame import CallStopped, FlameCluster, report
from dask_flame.backends.kubernetes.backend import KubernetesBackend
from dask_flame.errors import BackendError
from dask_flame.testing import marked_processes
from tests.support.paths import ROOT, free_port
from tests.support.waiting import wait_for

# They take seconds to import, which the example does itself.
for _needed in ("torch", "transformers"):
    if find_spec(_needed) is None:
        pytest.skip(f"pip install {_needed}", allow_module_level=True)
nbformat = pytest.importorskip("nbformat")

#: Seconds within which a script or a notebook ends; on a busy machine, imports take minutes.
WITHIN = 600

pytestmark = [pytest.mark.process, pytest.mark.timeout(2 * WITHIN)]

EXAMPLES = ROOT / "examples"
SCRIPT = EXAMPLES / "bert_tuning.py"
NOTEBOOK = EXAMPLES / "bert_tuning.ipynb"
SMALL = ["--variants", "2", "--runners", "2", "--samples", "100", "--max-length", "24"]
#: The rights of somebody with a kubeconfig who may adopt clusters.
CONNECTING = [
    rule
    for name in ("role-remote.yaml", "components/connect/role-connect.yaml")
    for rule in next(yaml.safe_load_all((ROOT / "deploy/kubernetes" / name).read_text()))["rules"]
]
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


def own_lines(err: str) -> str:
    """Leave out that another program of this machine has the usual port of the dashboard."""
    return "".join(line for line in err.splitlines(keepends=True) if "is in use" not in line)


def test_it_trains_ranks_saves_and_draws(tmp_path: Path, token: str) -> None:
    # A few steps on a hundred texts are enough to see that something is learnt. There is one runner
    # for both variants, because most of the time is for importing torch and transformers.
    few = ["--runners", "1", "--cpus", "1", "--steps", "8", "--depths", "1", "--early-stop"]
    example = start(*SMALL, *few, "--out", str(tmp_path))
    out, err = example.communicate(timeout=WITHIN)
    assert example.returncode == 0, err
    assert own_lines(err) == ""
    assert "/flame" in out
    facts = json.loads((tmp_path / "results.json").read_text())
    assert len(facts["results"]) == 2
    best = max(r["accuracies"][-1][1] for r in facts["results"].values())
    assert best > 2 * facts["majority"], out
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "best").is_dir()
    wait_for(lambda: not marked_processes(token, variable=_TOKEN))


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
        out, err = example.communicate(timeout=WITHIN)
        assert (example.returncode, own_lines(err)) == (0, ""), out
        assert len(json.loads((tmp_path / "out/results.json").read_text())["results"]) == 1
        wait_for(fake.at_rest, what="nothing is left")
    runners = [o["spec"]["containers"][0] for o in made if "runner" in o["metadata"]["name"]]
    assert [c["image"] for c in runners] == ["train:1"]
    assert runners[0]["resources"]["limits"] == {"cpu": "1", "memory": "2Gi"}


def test_a_killed_kernel_is_adopted(
    tmp_path: Path, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("aiohttp")
    from tests.fakes.kubernetes import FakeKubernetes

    # All pods of the fake share this machine's ports.
    monkeypatch.setenv("DASK_FLAME__SCHEDULER__PORT", str(free_port()))
    monkeypatch.setenv("DASK_FLAME__SCHEDULER__DASHBOARD_PORT", str(free_port()))
    steps = 30
    image = {"PYTHONPATH": str(ROOT)}
    with FakeKubernetes(namespaces={"team": {}}, env=image).in_thread() as fake:
        fake.grant("driver", CONNECTING)
        monkeypatch.setenv("KUBECONFIG", fake.kubeconfig(tmp_path / "kubeconfig"))
        pods = ["--backend", "kubernetes", "--image", "train:1", "--cpus", "1", "--memory", "2GiB"]
        small = [*SMALL, "--runners", "1", "--steps", str(steps), "--eval-every", "15"]
        example = start(*small, *pods, "--depths", "1", "--out", str(tmp_path / "out"))
        observer: Any = None
        try:
            assert example.stdout is not None
            # Its cluster is there.
            assert any("Live curves" in line for line in example.stdout)
            observer = wait_for(observing, WITHIN)
            seen = dask_flame.reports_of(observer)
            wait_for(
                lambda: any(len(c.series.get("loss", ())) > 3 for c in seen.calls.values()), WITHIN
            )
        finally:
            # In the middle: there is one runner, and two calls for it.
            example.kill()
            said = example.communicate()
            if observer is not None:
                observer.close()
        client = wait_for(adopting, 60)
        try:
            futures = dask_flame.recover()
            names = [key for key in futures if not key.endswith(":summary")]
            assert len(names) == 2, said
            losses = {
                name: futures[f"{name}:summary"].result(timeout=WITHIN).losses for name in names
            }
            reports = client.cluster.reports
            for name in names:
                wait_for(lambda name=name: len(reports.calls[name].series["loss"]) == steps)
                call = reports.calls[name]
                assert list(call.series["loss"].steps) == list(range(1, steps + 1))
                assert list(call.series["loss"].values) == pytest.approx(
                    [y for _, y in losses[name]]
                )
                assert call.attempt == 1
        finally:
            client.close()
            client.cluster.close()
        wait_for(fake.at_rest, 60, f"nothing is left: {fake.left()}")
    wait_for(lambda: not marked_processes(token, variable=_TOKEN))


def observing() -> Any:
    """An observer of the only cluster, or None while it starts."""
    return connected(adopt=False)


def adopting() -> Any:
    """The new driver's Client of the only cluster, or None while its driver seems to be there."""
    return connected(adopt=True)


def connected(*, adopt: bool) -> Any:
    async def names() -> list[str]:
        async with KubernetesBackend.inspector() as inspector:
            return [cluster.id for cluster in await inspector.clusters()]

    for name in asyncio.run(names()):
        with contextlib.suppress(BackendError, OSError):
            return dask_flame.connect(name, adopt=adopt, backend="kubernetes")
    return None


def test_ctrl_c_leaves_nothing_and_says_what_was_learnt(tmp_path: Path, token: str) -> None:
    example = start(*SMALL, "--steps", "100000", "--out", str(tmp_path))
    assert example.stdout is not None
    seen = ""
    for line in example.stdout:
        seen += line
        if "in training" in line and " at " in line:
            break
    example.send_signal(signal.SIGINT)
    out, err = example.communicate(timeout=WITHIN)
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
    out, err = example.communicate(timeout=WITHIN)
    assert example.returncode == 2
    assert says in err
    assert "Traceback" not in out + err
    assert own_lines(err).count("\n") <= 2


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("BERT_TUNING_STEPS", "2")
    return nbformat.read(NOTEBOOK, as_version=4)


def kernel(notebook: Any) -> Any:
    nbclient = pytest.importorskip("nbclient")
    return nbclient.NotebookClient(
        notebook, timeout=WITHIN, resources={"metadata": {"path": str(EXAMPLES)}}
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


def module() -> Any:
    """The example, imported here: it imports torch and transformers only where it trains."""
    spec = spec_from_file_location("bert_tuning", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    found = module_from_spec(spec)
    sys.modules[spec.name] = found
    try:
        spec.loader.exec_module(found)
    finally:
        del sys.modules[spec.name]
    return found


def learn(accuracy: float) -> float:
    """Report one accuracy until it is stopped, or for as long as its place allows."""
    for step in range(8, 33, 8):
        report(step=step, loss=1 - accuracy)
        report(step=step, accuracy=accuracy)
    if accuracy < 0.5:
        for step in range(40, 10_000):
            time.sleep(0.02)
            report(step=step, loss=1 - accuracy)
    return accuracy


def test_clear_losers_are_stopped_and_the_page_can_tell_why() -> None:
    example = module()
    rates = [0.81, 0.8, 0.79, 0.72, 0.31]
    with (
        FlameCluster(max=2, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        futures = client.map(learn, rates)
        example.stop_losers(futures)
        assert client.gather(futures, errors="skip") == rates[:4]
        with pytest.raises(CallStopped, match=r"accuracy 31% at step \d+, the median is \d\d%"):
            futures[4].result()
        calls = cluster.reports.calls
        wait_for(lambda: calls[futures[4].key].state == "cancelled")
        assert "the median is" in calls[futures[4].key].why


def test_a_variant_is_compared_with_the_others_at_the_same_step() -> None:
    rule = module().EarlyStop()
    assert [rule.why(n, 8, 0.8) for n in "abc"] == ["", "", ""]
    assert rule.why("d", 16, 0.1) == "", "nobody else was there"
    assert rule.why("d", 8, 0.71) == "", "it is close"
    assert rule.why("e", 8, 0.65) == "accuracy 65% at step 8, the median is 80%"
    assert rule.why("a", 8, 0.8) == "", "seen again"


def test_the_page_ranks_by_accuracy() -> None:
    link = module().ranked_link("http://127.0.0.1:8787/flame?token=abc")
    assert link.startswith("http://127.0.0.1:8787/flame?token=abc&metric=accuracy&metric=loss")
    assert link.endswith("&sort=last:accuracy&descending=1"), "as the table that is printed"
    assert module().ranked_link("http://a/flame").startswith("http://a/flame?metric=accuracy")
