"""The gallery shows lines that are really in the examples, and each example has its place there."""

from __future__ import annotations

import re
import struct

import pytest

from tests.support.paths import ROOT

GALLERY = ROOT / "docs" / "gallery.md"
EXAMPLES = ROOT / "examples"

pytestmark = pytest.mark.unit


def test_the_lines_shown_are_in_the_files() -> None:
    text = GALLERY.read_text()
    shown = re.findall(
        r"^<!-- not run here: lines of examples/(\S+) -->\n```python\n(.*?)^```$",
        text,
        re.DOTALL | re.MULTILINE,
    )
    assert len(shown) == text.count("```python"), "each block names its file"
    for name, lines in shown:
        assert lines in (EXAMPLES / name).read_text(), (name, lines)


def test_each_example_has_its_place_and_its_command() -> None:
    text = GALLERY.read_text()
    files = {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb", ".html")}
    assert files <= set(re.findall(r"\.\./examples/([\w.]+)", text))
    for command in re.findall(r"^python (\S+)", text, re.MULTILINE):
        assert (ROOT / command).is_file(), command
    readme = (EXAMPLES / "README.md").read_text()
    for name in files:
        assert f"]({name})" in readme, name


def test_the_pictures_are_pictures() -> None:
    pictures = re.findall(r"!\[[^\]]+\]\((\S+)\)", GALLERY.read_text())
    assert len(pictures) >= 3
    for picture in pictures:
        head = (GALLERY.parent / picture).read_bytes()[:24]
        assert head.startswith(b"\x89PNG"), picture
        width, height = struct.unpack(">II", head[16:])
        assert width >= 1000, picture
        assert height >= 600, picture
