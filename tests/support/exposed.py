"""A program that is exposed, and kernels of Jupyter that are attached to it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

from dask_flame.attached import places
from dask_flame.attached.client.choice import Choice
from dask_flame.attached.jupyter.kernelspecs import kernel_name, list_applications_in
from tests.notebook.kernels import Kernel
from tests.support.paths import ROOT
from tests.support.waiting import wait_for

#: With the file that enables the server extension, as ``etc/jupyter`` of an environment.
CONFIGURATION = ROOT / "deploy" / "jupyter"

SHOP = '''
import sys, threading
from pathlib import Path
import dask_flame

class Till:
    """What a customer pays."""
    def __init__(self): self.total = 12.5; self.open_since = 9
    def ring_up(self, price: float, count: int = 1) -> float:
        """Ring up some pieces of a good."""
        return price * count

till = Till()
basket = {"tea": 3}
worker = threading.Thread(target=threading.Event().wait, daemon=True)
worker.start()
dask_flame.expose(sys.argv[1], readonly="readonly" in sys.argv)
print("ready", flush=True)
sys.stdin.readline()
'''


class Exposed:
    """An application in a process of its own.

    Attributes
    ----------
    name : str
    log : pathlib.Path
        What it has written, its log entries included.
    """

    def __init__(self, folder: Path, name: str = "shop", *options: str, source: str = SHOP) -> None:
        self.name = name
        file = folder / f"{name}.py"
        file.write_text(source)
        self.log = file.with_suffix(".log")
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(file), name, *options],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n", self.log.read_text()

    @property
    def pid(self) -> int:
        return self.process.pid

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def state(self) -> tuple[int, int]:
        """Return how many threads and file descriptors it has."""
        process = psutil.Process(self.pid)
        return process.num_threads(), process.num_fds()

    def detached(self, times: int) -> bool:
        """Return whether so many notebooks have detached."""
        return self.log.read_text().count("has detached") == times


@contextlib.contextmanager
def exposed(
    folder: Path, name: str = "shop", *options: str, source: str = SHOP
) -> Iterator[Exposed]:
    """Run an application."""
    program = Exposed(folder, name, *options, source=source)
    try:
        yield program
    finally:
        program.kill()


@contextlib.contextmanager
def own_sockets(folder: Path) -> Iterator[None]:
    """Keep the sockets of this test's applications apart from others'."""
    before = os.environ.get(places.FOLDER)
    os.environ[places.FOLDER] = str(folder)
    try:
        yield
    finally:
        os.environ.pop(places.FOLDER)
        if before is not None:
            os.environ[places.FOLDER] = before


@contextlib.contextmanager
def installed(folder: Path) -> Iterator[Path]:
    """Have the entry points of this checkout here, and in the processes that are started."""
    metadata = folder / "dask_flame-0.1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: dask-flame\nVersion: 0.1.0\n")
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    lines = []
    for group, points in groups.items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
    (metadata / "entry_points.txt").write_text("\n".join([*lines, ""]))
    path, before = sys.path[:], os.environ.get("PYTHONPATH")
    sys.path.insert(0, str(folder))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(folder), str(ROOT), before)))
    try:
        yield folder
    finally:
        sys.path[:] = path
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before


def manager(name: str = "shop", instance: int = 0) -> Any:
    """Return a manager of a kernel for an application."""
    specs = KernelSpecManager()
    list_applications_in(specs)
    kernel = kernel_name(Choice(name, instance, name))
    return KernelManager(kernel_name=kernel, kernel_spec_manager=specs)


@contextlib.contextmanager
def attached(name: str = "shop", instance: int = 0) -> Iterator[Kernel]:
    """Start a kernel that is attached to an application."""
    made = manager(name, instance)
    made.start_kernel()
    process = psutil.Process(made.provisioner.pid)
    client = made.client()
    try:
        client.start_channels()
        client.wait_for_ready(timeout=120)
        yield Kernel(made, client)
    finally:
        client.stop_channels()
        made.shutdown_kernel()
        made.cleanup_resources()
        wait_for(lambda: not process.is_running(), 60, "the end of the kernel")
