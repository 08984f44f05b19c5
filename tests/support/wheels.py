"""Wheels of tiny packages, made by the tests that install them."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path


def wheel(
    folder: Path, name: str, version: str, *, needs: Iterable[str] = (), code: str = ""
) -> Path:
    """Make a wheel of a package whose ``__version__`` says its version; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    file, meta = folder / f"{name}-{version}-py3-none-any.whl", f"{name}-{version}.dist-info"
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {other}" for other in needs]
    contents = {
        f"{name}/__init__.py": f"__version__ = {version!r}\n{code}",
        f"{meta}/METADATA": "\n".join([*lines, ""]),
        f"{meta}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\n"
        "Tag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in (*contents, f"{meta}/RECORD"))
    with zipfile.ZipFile(file, "w") as archive:
        for path, text in {**contents, f"{meta}/RECORD": record}.items():
            archive.writestr(path, text)
    return file


def unpacked(folder: Path, name: str, version: str, **more: Iterable[str]) -> Path:
    """Install such a package into a folder; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel(folder.parent / "wheels-of", name, version, **more)) as archive:
        archive.extractall(folder)
    return folder


def metadata(folder: Path, name: str, version: str) -> Path:
    """Say in a folder that a package is there in some version, without the package."""
    meta = folder / f"{name}-{version}.dist-info"
    meta.mkdir(parents=True)
    (meta / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return folder
