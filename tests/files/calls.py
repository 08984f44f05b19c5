"""What test_pods.py calls on runners, without the imports of its tests (runner)."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from dask.distributed import get_worker


def read(folder: str) -> dict[str, Any]:
    found: dict[str, Any] = {"where": os.getcwd(), "name": get_worker().name}
    for path in (Path("config.toml"), *Path(folder).rglob("*")):
        if path.is_symlink():
            found[path.name] = os.readlink(path)
        elif path.is_file():
            found[path.name] = (path.stat().st_mode & 0o777, path.read_bytes())
        else:
            found[path.name] = None
    return found


def change(folder: str, seconds: float = 0.0) -> str:
    time.sleep(seconds)
    Path("out/sub").mkdir(parents=True)
    Path("out/sub/large").write_bytes(Path(folder, "large").read_bytes() * 2)
    Path("out/name").write_text(get_worker().name)
    return str(get_worker().name)
