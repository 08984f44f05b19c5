"""The examples in docstrings run as they stand."""

from __future__ import annotations

import collections
import contextlib
import doctest
import importlib
import pkgutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import dask
import pytest
from dask.distributed import Client, LocalCluster

import dask_flame
from dask_flame import FlameCluster, Pool

pytestmark = pytest.mark.process

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE

#: Examples that use `client` and `cluster`, or runners; "plain" has a cluster without our plugins.
CLUSTERS = {
    "dask_flame.driver.calls": "flame",
    "dask_flame.driver.pools_api": "flame",
    "dask_flame.driver.runners": "flame",
    "dask_flame.files.driver.fetch": "flame",
    "dask_flame.integrations.optuna": "flame",
    "dask_flame.notebook.watch": "flame",
    "dask_flame.prints.scheduler.plugin": "plain",
    "dask_flame.reports.driver.export": "flame",
    "dask_flame.reports.driver.kept": "flame",
    "dask_flame.reports.driver.replica": "plain",
    "dask_flame.reports.driver.stop": "flame",
    "dask_flame.reports.driver.run": "flame",
    "dask_flame.lease.recovery": "flame",
    "dask_flame.reports.driver.stream": "flame",
    "dask_flame.reports.runner.report": "flame",
    "dask_flame.reports.scheduler.plugin": "plain",
    "dask_flame.reports.scheduler.store": "flame",
    "dask_flame.testing.proxy": "flame",
}
#: Docstrings with examples that are not run, and why.
SKIPPED = {
    "dask_flame.attached.client.looks.Looks.log": "it needs an application that logs",
    "dask_flame.attached.client.looks.Looks.stacks": "it needs an application",
    "dask_flame.driver.connect.connecting.connect": "it needs a cluster whose driver was killed",
    "dask_flame.driver.pools_api.PoolsApi.cost": "its runners ran for hours",
    "dask_flame.driver.post_mortem.post_mortem": "it needs a pool that keeps frames",
    "dask_flame.driver.runners.Runner.attach": "it needs a runner of that name",
    "dask_flame.integrations.asgi.while_connected": "it needs a web server",
    "dask_flame.integrations.lightning.ReportCallback": "it needs a module to train",
    "dask_flame.integrations.lightning.ReportLogger": "it needs a module to train",
    "dask_flame.integrations.transformers.ReportCallback": "it needs a model to train",
    "dask_flame.reports.driver.export.Exports.to_mlflow": "MLflow may not be installed",
    "dask_flame.reports.driver.export.Exports.to_wandb": "wandb may not be installed",
    "dask_flame.reports.runner.report._Report.bind": "it starts programs of the user's",
    "dask_flame.runner.devices.devices": "it needs a GPU",
}


def modules() -> list[str]:
    """Names of the modules with examples."""
    (root,) = dask_flame.__path__
    found = [m.name for m in pkgutil.walk_packages(dask_flame.__path__, "dask_flame.")]
    paths = {name: Path(root, *name.split(".")[1:]) for name in found}
    sources = {
        name: path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        for name, path in paths.items()
    }
    return [name for name in found if ">>> " in sources[name].read_text()]


MODULES = modules()


def examples(module: ModuleType) -> list[doctest.DocTest]:
    return [test for test in doctest.DocTestFinder().find(module) if test.examples]


def train(rate: float) -> float:
    dask_flame.report(step=0, loss=1 - rate)
    return 1 - rate


@contextlib.contextmanager
def names(kind: str | None) -> Iterator[dict[str, Any]]:
    """What examples find by name; functions are pickled as a notebook's are."""
    found: dict[str, Any] = {
        "__name__": "__main__",
        "Client": Client,
        "Path": Path,
        "collections": collections,
        "dask_flame": dask_flame,
        "depths": [1, 2],
        "describe": abs,
        "loader": [0.1, 0.2],
        "rates": [0.1],
        "slow": lambda: 1,
        "stills": [-1],
        "train": train,
        "upload": len,
    }
    if kind is None:
        yield found
    elif kind == "plain":
        with (
            LocalCluster(n_workers=1, processes=False, dashboard_address=":0") as cluster,
            Client(cluster) as client,
        ):
            yield found | {"client": client, "cluster": cluster}
    else:
        pools = {"cpu": Pool(max=2), "gpu": Pool(max=1)}
        with (
            # distributed asserts that no actor waits for a worker; here one may.
            dask.config.set({"distributed.scheduler.validate": False}),
            FlameCluster(pools=pools, dashboard_address=None) as flame,
            Client(flame) as client,
        ):
            client.submit(train, 0.1).result()
            yield found | {"client": client, "cluster": flame}


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tests = examples(importlib.import_module(name))
    assert tests
    skipped = {
        test.name
        for test in tests
        if any(doctest.SKIP in example.options for example in test.examples)
    }
    assert skipped == {docstring for docstring in SKIPPED if docstring.startswith(f"{name}.")}
    with names(CLUSTERS.get(name)) as found, warnings.catch_warnings():
        # Another cluster on this machine may have the dashboard's usual port.
        warnings.filterwarnings("ignore", "Port .* is already in use")
        for test in tests:
            # The module's own names, as in its help; a cluster in place of what is not there.
            test.globs = {**test.globs, **found}
            said: list[str] = []
            result = doctest.DocTestRunner(optionflags=FLAGS).run(test, out=said.append)
            assert not result.failed, "".join(said)
