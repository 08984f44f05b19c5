"""What test_fetch.py calls on runners, without the imports of its tests (runner)."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from dask.distributed import get_worker

from dask_flame import fetch
from dask_flame.files.tree import BLOCK


def write(path: str, content: bytes = b"x", times: int = 1, folder: str = "") -> str:
    if folder:
        os.makedirs(folder, exist_ok=True)
        os.chdir(folder)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(content * times)
    return str(get_worker().name)


def write_later(path: str, content: str) -> None:
    """Write in the middle of the call, so that coarse times of files are within it, too."""
    time.sleep(0.05)
    Path(path).write_text(content)
    time.sleep(0.05)


def write_nothing(begun: str, go: str) -> None:
    Path(begun).touch()
    while not Path(go).exists():
        time.sleep(0.01)


def write_in_background(path: str) -> None:
    """Start a process that writes when a file appears, and leave it behind."""
    code = (
        "import os, time\n"
        f"while not os.path.exists({path!r} + '.go'): time.sleep(0.01)\n"
        f"open({path!r}, 'w').write('written')"
    )
    subprocess.Popen([sys.executable, "-c", code])


def write_tree() -> None:
    root = Path("out")
    (root / "empty").mkdir(parents=True)
    (root / "sub").mkdir()
    (root / "sub/large").write_bytes(os.urandom(100) * 90_000)
    (root / "run").write_text("#!/bin/sh")
    (root / "run").chmod(0o755)
    (root / "link").symlink_to("sub/large")
    (root / "nothing").touch()
    for number in range(300):
        (root / f"sub/{number}").write_text(str(number))
    os.mkdir(os.fsencode(root) + b"/\xe9")


def pid() -> int:
    return os.getpid()


def fail() -> None:
    raise KeyError("its own")


def write_two() -> None:
    for name in ("a", "b"):
        os.makedirs(f"out/{name}")
        Path(f"out/{name}/large").write_bytes(bytes(BLOCK))


def fetch_inside(folder: str) -> bytes:
    future = get_worker().client.submit(write, "inner", b"inside")
    return bytes(fetch("inner", future, to=f"{folder}/copy").read_bytes())
