"""Train 200 small models, stop the worse half at each of three epochs, and print the best ones.

::

    python examples/sweep.py

Runners are local processes, or pods with ``DASK_FLAME__BACKEND=kubernetes``. The data are the
handwritten digits in scikit-learn (BSD-3-Clause): 1,797 images from E. Alpaydin and C. Kaynak,
"Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998 (CC BY 4.0).
"""

import argparse
import random
from collections.abc import Sequence
from statistics import median

from dask.distributed import Client, Future
from dask.system import CPU_COUNT
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

import dask_flame
from dask_flame import FlameCluster

RUNGS = (2, 5, 10)  # the epochs at which the worse half is stopped
EPOCHS = 20


def train(units: int, layers: int, rate: float, decay: float, batch: int) -> float:
    """Train one model on a runner; report its accuracy after each epoch, and return the last."""
    pixels, digits = load_digits(return_X_y=True)
    x, test_x, y, test_y = train_test_split(pixels / 16, digits, stratify=digits, random_state=0)
    options = {"learning_rate_init": rate, "alpha": decay, "batch_size": batch}
    model = MLPClassifier((units,) * layers, **options, random_state=0)
    for epoch in range(1, EPOCHS + 1):
        model.partial_fit(x, y, classes=range(10))
        accuracy = float(model.score(test_x, test_y))
        dask_flame.report(step=epoch, of=EPOCHS, accuracy=accuracy)
    return accuracy


def halve(futures: Sequence[Future]) -> None:
    """Stop each call that is below the median of those that reached an epoch of RUNGS so far."""
    calls = {future.key: future for future in futures}
    reached: dict[int, list[float]] = {rung: [] for rung in RUNGS}
    for r in dask_flame.stream(futures):
        if r.step in reached:
            reached[r.step].append(r.values["accuracy"])
            if r.values["accuracy"] < median(reached[r.step]):
                dask_flame.stop(calls[r.key], why=f"below the median at epoch {r.step}")


def variants(count: int) -> list[tuple[int, int, float, float, int]]:
    """Draw arguments of `train`, always the same."""
    choose, between = random.Random(0).choice, random.Random(1).uniform
    rates = [(10 ** between(-4, -1.5), 10 ** between(-5, -1)) for _ in range(count)]
    return [
        (choose((8, 16, 32, 64, 128)), choose((1, 2)), *rate, choose((16, 32, 64, 128)))
        for rate in rates
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", type=int, default=200)
    parser.add_argument("--runners", type=int, default=CPU_COUNT)
    args = parser.parse_args()
    with FlameCluster(max=args.runners, cpus=1, idle_timeout="10s") as cluster:
        client = Client(cluster)
        print("Curves:", cluster.flame_link, flush=True)
        tried = variants(args.models)
        futures = client.map(train, *zip(*tried, strict=True))
        halve(futures)
        calls = zip(futures, tried, strict=True)
        ended = [(f.result(), v) for f, v in calls if f.status == "finished"]
        print(f"{len(tried) - len(ended)} of {len(tried)} were stopped early. The best ones:")
        for accuracy, (units, layers, rate, decay, batch) in sorted(ended, reverse=True)[:5]:
            print(f"{accuracy:.1%}  {units=} {layers=} {rate=:.2g} {decay=:.2g} {batch=}")
        print(cluster.cost())
