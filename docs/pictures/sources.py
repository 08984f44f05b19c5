"""Note, and compare, the sources of the page that each picture shows.

    python docs/pictures/sources.py                  # which pictures are older than their pages
    python docs/pictures/sources.py flame-page.png   # note that it is of the code as it is

``sources.json`` has, for each picture, a digest of the picture and one of each module of its page,
in a form without comments, docstrings and white space. When such a module has changed, take the
picture again with its script, look at it, and note it. If the change cannot be seen in it, only
note it.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
NOTED = HERE / "sources.json"
_STATIC = "dask_flame/dashboard/static"
_FRAME = ("dask_flame/dashboard/theme.py", "dask_flame/dashboard/frame.py", f"{_STATIC}/theme.js",
          f"{_STATIC}/frame.js")  # fmt: skip
_FLAME = (
    *_FRAME,
    "dask_flame/dashboard/flame/page.py",
    "dask_flame/dashboard/flame/figures.py",
    *(
        f"{_STATIC}/{name}.js"
        for name in (
            "flame", "curves", "charts", "grid", "panel", "cells", "tools", "widths", "table",
            "columns", "colors", "scales", "groups", "filter",
        )
    ),
)  # fmt: skip
_POOLS = (
    *_FRAME,
    "dask_flame/dashboard/pools/*.py",
    "dask_flame/dashboard/bar_rows.py",
    "dask_flame/dashboard/time_range.py",
    f"{_STATIC}/pools.js",
)
_WATCH = ("dask_flame/notebook/watch.py", "dask_flame/notebook/svg.py", "dask_flame/charts/*.py")
_CLUSTER = ("dask_flame/driver/display.py", "dask_flame/driver/widget.py")
#: The script that takes each picture, and the modules of the page that it shows.
PICTURES: dict[str, tuple[str, tuple[str, ...]]] = {
    "attach-jupyterlab.png": (
        "attach_jupyterlab.py",
        (
            "dask_flame/attached/jupyter/kernelspecs.py",
            "dask_flame/attached/application/completion.py",
        ),
    ),
    "cost.png": ("../../benchmarks/cost.py", ("benchmarks/cost_picture.py",)),
    "flame-bert.png": ("bert.py", _FLAME),
    "flame-charts.png": ("pages.py", _FLAME),
    "flame-moving.gif": ("moving.py", _FLAME),
    "flame-page.png": ("pages.py", _FLAME),
    "gallery-bert.png": ("gallery.py", _FLAME),
    "gallery-sweep.png": ("gallery.py", _FLAME),
    "gallery-transcode.png": ("gallery.py", _FLAME),
    "jupyterlab.png": ("jupyterlab.py", (*_CLUSTER, *_POOLS)),
    "notebook.png": ("notebook.py", (*_CLUSTER, *_WATCH)),
    "pools-page.png": ("pools.py", _POOLS),
    "versus.png": ("../../benchmarks/versus.py", ("benchmarks/versus_picture.py",)),
    "video-summary-done.png": ("video.py", ("examples/video_summary.py",)),
    "video-summary-panel.png": ("video.py", _CLUSTER),
    "video-summary-pools.png": ("video.py", _POOLS),
    "video-summary.png": ("video.py", ("examples/video_summary.py",)),
}


def digest(path: Path) -> str:
    """Return a digest of a file, of source code without what cannot be seen on a page."""
    content = path.read_bytes()
    if path.suffix == ".py":
        content = _python(content.decode()).encode()
    elif path.suffix == ".js":
        content = re.sub(r"^\s*//.*$|\s+", " ", content.decode(), flags=re.MULTILINE).encode()
        content = b" ".join(content.split())
    return hashlib.sha256(content).hexdigest()[:12]


def _python(source: str) -> str:
    """Return the syntax tree as Python 3.11 writes it, so that each version has one digest."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            del node.body[0]
        if not getattr(node, "type_params", True):  # only since Python 3.12
            del node.type_params
        if isinstance(node, ast.JoinedStr):  # Python 3.12 adds empty texts in some places
            node.values = [v for v in node.values if getattr(v, "value", None) != ""]
    # Python 3.13 leaves out empty lists, unless it is told.
    every: dict[str, Any] = {"show_empty": True} if sys.version_info >= (3, 13) else {}
    return ast.dump(tree, **every)


def sources(picture: str, root: Path = ROOT) -> dict[str, str]:
    """Return the digests of the modules that a picture shows, by their names."""
    paths = (path for pattern in PICTURES[picture][1] for path in sorted(root.glob(pattern)))
    return {str(path.relative_to(root)): digest(path) for path in paths}


def stale(picture: str, noted: dict[str, dict[str, object]]) -> str:
    """Return why a picture may be older than the code that it shows; empty if it is not."""
    script = PICTURES[picture][0]
    advice = (
        f"take it with {script}, look at it, and type: python docs/pictures/sources.py {picture}"
    )
    was = noted.get(picture)
    if was is None or was["picture"] != digest(HERE / picture):
        return f"{picture} is not noted; type: python docs/pictures/sources.py {picture}"
    before, now = was["sources"], sources(picture)
    assert isinstance(before, dict)
    changed = sorted(name for name in before.keys() | now if before.get(name) != now.get(name))
    return f"{picture} is older than {', '.join(changed)}; {advice}" if changed else ""


def note(pictures: Iterable[str]) -> None:
    """Note that pictures are of the code as it is."""
    noted = json.loads(NOTED.read_text()) if NOTED.exists() else {}
    for picture in pictures:
        noted[picture] = {"picture": digest(HERE / picture), "sources": sources(picture)}
    known = {name: noted[name] for name in sorted(noted) if name in PICTURES}
    NOTED.write_text(json.dumps(known, indent=1) + "\n")


def main() -> None:
    names = [Path(name).name for name in sys.argv[1:]]
    if unknown := [name for name in names if name not in PICTURES]:
        sys.exit(f"there is no {', '.join(unknown)}; there are: {', '.join(PICTURES)}")
    if names:
        note(names)
        return
    noted = json.loads(NOTED.read_text())
    why = [line for name in PICTURES if (line := stale(name, noted))]
    sys.exit("\n".join(why) or None)


if __name__ == "__main__":
    main()
