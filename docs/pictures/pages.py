"""Take pictures of the page of the curves from a real run: 64 networks on 64 runners.

    python pages.py FOLDER

One cell trains 64 variants of a small network on scikit-learn's handwritten digits (the test set of
UCI's Optical Recognition of Handwritten Digits, CC BY 4.0); some of them diverge. While they
train, ``flame-page.png`` and, on dark ground, ``flame-charts.png`` (one for each runner) are taken.
"""

from __future__ import annotations

import itertools
import sys
import time
from pathlib import Path

import numpy as np
from dask.distributed import Client
from shoot import shoot
from sklearn.datasets import load_digits

from dask_flame import FlameCluster, report


def train(rate: float, width: int, beta: float) -> float:
    """Train a network with one hidden layer; its loss on digits that it has not seen."""
    digits = load_digits()
    random = np.random.default_rng(0)
    order = random.permutation(len(digits.data))
    x, labels = digits.data[order] / 16, digits.target[order]
    y = np.eye(10)[labels]
    (x, held), (y, wanted) = np.split(x, [1500]), np.split(y, [1500])
    weights = [random.normal(0, 0.2, (64, width)), random.normal(0, 0.2, (width, 10))]
    speeds = [np.zeros_like(w) for w in weights]

    def run(x):
        hidden = np.tanh(x @ weights[0])
        scores = hidden @ weights[1]
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        return hidden, scores / scores.sum(axis=1, keepdims=True)

    def loss(guess, y):
        return float(-np.log((guess * y).sum(axis=1) + 1e-9).mean())

    best = float("inf")
    for step in range(4000):
        rows = random.integers(0, len(x), 32)
        hidden, guess = run(x[rows])
        error = (guess - y[rows]) / len(rows)
        back = (error @ weights[1].T) * (1 - hidden**2)
        for i, slope in enumerate((x[rows].T @ back, hidden.T @ error)):
            speeds[i] = beta * speeds[i] - rate * slope
            weights[i] += speeds[i]
        if step % 4 == 0:
            now = loss(run(held)[1], wanted)
            right = (run(held)[1].argmax(axis=1) == wanted.argmax(axis=1)).mean()
            numbers = {"loss": now, "accuracy": right, "batch_loss": loss(guess, y[rows])}
            report(numbers, step=step, of=4000)
            best = min(best, now)
            if step > 600 and now > 5:
                raise ArithmeticError(f"diverged: loss {now:.1f} at step {step}")
    return best


VARIANTS = list(
    itertools.product(
        [0.003, 0.006, 0.012, 0.025, 0.05, 0.1, 0.2, 0.8], [8, 24, 64, 160], [0.0, 0.9]
    )
)


def main(folder: str) -> None:
    with (
        FlameCluster(
            max=64, preload=["numpy", "sklearn.datasets"], dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster) as client,
    ):
        futures = client.map(train, *zip(*VARIANTS, strict=True))
        steps = "[...(window.daskFlame?.calls.byId.values() ?? [])].map((call) => call.step)"
        for name, query, step, click in (
            ("flame-page.png", "?metric=loss&metric=accuracy", 200, ()),
            ("flame-charts.png", "?theme=dark&view=grid&color=runner", 900, ()),
        ):
            wait = f"() => {steps}.filter((step) => step > {step}).length > 50"
            link = cluster.flame_link + query
            shoot(link, str(Path(folder, name)), wait=wait, click=click, timeout=300)
        while any(future.status == "pending" for future in futures):
            time.sleep(0.5)


if __name__ == "__main__":
    main(*sys.argv[1:])
