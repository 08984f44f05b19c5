"""Each name inside of Dask that is relied on is there, and no module uses others."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import distributed.protocol.pickle
import distributed.scheduler
import distributed.threadpoolexecutor
import distributed.utils
import pytest
import pytest_asyncio
from dask.tokenize import normalize_token
from distributed import Actor, Client, LocalCluster, Scheduler, Worker
from distributed.batched import BatchedSend
from distributed.comm import Comm
from distributed.deploy.cluster import Cluster
from distributed.shuffle import ShuffleSchedulerPlugin
from tornado.httpserver import HTTPServer
from tornado.tcpserver import TCPServer

import dask_flame
from dask_flame.core import distributed_internals as internals

pytestmark = pytest.mark.process

PACKAGE = Path(dask_flame.__file__).parent
HERE = PACKAGE / "core" / "distributed_internals.py"
STOCK: dict[str, Any] = {
    "BatchedSend": BatchedSend,
    "Client": Client,
    "Cluster": Cluster,
    "Comm": Comm,
    "HTTPServer": HTTPServer,
    "Scheduler": Scheduler,
    "ShuffleSchedulerPlugin": ShuffleSchedulerPlugin,
    "TCPServer": TCPServer,
    "Worker": Worker,
    "distributed.protocol.pickle": distributed.protocol.pickle,
    "distributed.scheduler": distributed.scheduler,
}
#: Modules with the subclasses whose methods are overridden.
MODULES = (
    "core.immediate_send",
    "driver.cluster",
    "driver.hosted_cluster",
    "driver.lifecycle",
    "driver.hosts.remote",
    "runner.nested",
    "runner.worker",
    "scheduler.home.worker",
    "scheduler.scheduler",
)


class Counter:
    """An actor."""


@pytest_asyncio.fixture
async def live() -> AsyncIterator[dict[str, Any]]:
    """Return one living object of each kind, by the name under which its uses are registered."""
    async with (
        LocalCluster(
            n_workers=1, processes=False, asynchronous=True, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster, asynchronous=True) as client,
    ):
        future = client.submit(Counter, actor=True)
        actor = await future
        scheduler = cluster.scheduler
        yield {
            "Actor": actor,
            "Broker": scheduler._broker,
            "Client": client,
            "Cluster": cluster,
            "Dispatch": normalize_token,
            "Future": future,
            "LoopRunner": cluster._loop_runner,
            "Scheduler": scheduler,
            "Span": next(iter(scheduler.extensions["spans"].spans.values())),
            "TCPServer": scheduler.http_server,
            "TaskState": scheduler.tasks[future.key],
            "Worker": next(iter(cluster.workers.values())),
            "distributed.scheduler": distributed.scheduler,
            "distributed.threadpoolexecutor": distributed.threadpoolexecutor,
            "distributed.utils": distributed.utils,
        }


@pytest.mark.asyncio
async def test_what_is_used_is_there(live: dict[str, Any]) -> None:
    assert isinstance(live["Actor"], Actor)
    assert {owner for owner, _ in internals.USED} == set(live)
    missing = [f"{o}.{name}" for o, name in internals.USED if not hasattr(live[o], name)]
    assert not missing


@pytest.mark.parametrize("name", [*internals.REPLACED, *internals.OVERRIDDEN])
def test_a_method_that_is_replaced_or_overridden_is_there(name: str) -> None:
    owner, _, method = name.rpartition(".")
    assert inspect.isfunction(getattr(STOCK[owner], method))


def test_what_is_not_listed_is_not_replaced() -> None:
    with pytest.raises(LookupError, match=r"Client\.submit is not listed"):
        internals.replace(Client, "submit", print)


def test_each_function_registers_what_it_uses() -> None:
    used = {name for _, name in internals.USED}
    tree = ast.parse(HERE.read_text())
    private = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and _private(n.attr)}
    assert private
    assert private <= used


def test_private_methods_are_overridden_only_where_that_is_listed() -> None:
    for module in MODULES:
        importlib.import_module(f"dask_flame.{module}")
    found = set()
    for name, stock in STOCK.items():
        for ours in _subclasses(stock) if isinstance(stock, type) else ():
            if ours.__module__.startswith("dask_flame."):
                methods = [m for m in vars(ours) if inspect.isfunction(getattr(stock, m, None))]
                found |= {f"{name}.{method}" for method in methods if _private(method)}
    assert found == set(internals.OVERRIDDEN)


def test_no_other_module_uses_private_names_or_replaces_methods() -> None:
    modules = [path for path in PACKAGE.rglob("*.py") if path != HERE]
    assert len(modules) > 100
    found = [(path.name, use) for path in modules for use in _uses(ast.parse(path.read_text()))]
    assert not found


def test_uses_are_found() -> None:
    code = """
from distributed import Client, Scheduler
import distributed.utils as utils
from distributed._async_taskgroup import AsyncTaskGroup
from dask.base import _private
Client.submit = print
utils.sync = print
def look(scheduler):
    return scheduler._broker
"""
    assert len(list(_uses(ast.parse(code)))) == 5


def _uses(tree: ast.Module) -> Iterator[str]:
    """Find private names that are imported from Dask or looked up, and attributes that are set."""
    foreign = set()
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and _of_dask(node.module or ""):
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            yield from (f"line {node.lineno}: {name}" for name in names if _private(name))
            foreign |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            foreign |= {
                alias.asname or alias.name.partition(".")[0]
                for alias in node.names
                if _of_dask(alias.name)
            }
        elif isinstance(node, ast.Attribute) and _own(node):
            own.add(node.attr)
    used = {name for _, name in internals.USED} | {n.rpartition(".")[2] for n in internals.REPLACED}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        root: ast.expr = node
        while isinstance(root, ast.Attribute):
            root = root.value
        is_set = isinstance(node.ctx, ast.Store) and isinstance(root, ast.Name)
        if is_set and root.id in foreign:
            yield f"line {node.lineno}: {ast.unparse(node)} is set"
        elif _private(node.attr) and node.attr in used - own and not _own(node):
            yield f"line {node.lineno}: {ast.unparse(node)}"


def _own(node: ast.Attribute) -> bool:
    """Whether an attribute is one of the class in whose code it is."""
    value = node.value
    if isinstance(value, ast.Call):
        return isinstance(value.func, ast.Name) and value.func.id == "super"
    return isinstance(value, ast.Name) and value.id in ("self", "cls")


def _private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _of_dask(module: str) -> bool:
    return module.partition(".")[0] in ("dask", "distributed", "tornado")


def _subclasses(cls: type) -> Iterator[type]:
    for sub in cls.__subclasses__():
        yield sub
        yield from _subclasses(sub)
