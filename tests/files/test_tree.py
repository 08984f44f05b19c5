"""What is below a path, and how machines tell each other of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_flame.core.packs import digest
from dask_flame.files.compare import difference
from dask_flame.files.tree import (
    BLOCK,
    FILE,
    FOLDER,
    LINK,
    Item,
    TreeError,
    blocks,
    dumps,
    loads,
    scan,
)

pytestmark = pytest.mark.unit


def found(root: Path) -> dict[str, Item]:
    return {item.path: item for item in scan(str(root))}


names = st.binary(min_size=1, max_size=30).filter(lambda b: not set(b) & {0, ord("/")})
items = st.builds(
    Item,
    path=names.map(os.fsdecode),
    kind=st.sampled_from([FILE, FOLDER, LINK]),
    mode=st.integers(0, 0o777),
    size=st.integers(0, 2**40),
    to=names.map(os.fsdecode),
    blocks=st.lists(st.text("0123456789abcdef", min_size=32, max_size=32)).map(tuple),
)


@given(st.lists(items))
def test_items_travel_whatever_their_names(there: list[Item]) -> None:
    assert loads(dumps(there)) == there


def test_files_empty_folders_and_permissions(tmp_path: Path) -> None:
    (tmp_path / "a/empty").mkdir(parents=True)
    (tmp_path / "a/run.sh").write_text("#!/bin/sh")
    (tmp_path / "a/run.sh").chmod(0o4750)
    name = os.fsdecode(b"\xe9.txt")
    (tmp_path / name).touch()
    there = found(tmp_path)
    assert {path: item.kind for path, item in there.items()} == {
        "a/empty": FOLDER,
        "a/run.sh": FILE,
        name: FILE,
    }
    assert there["a/run.sh"].mode == 0o750
    assert there["a/run.sh"].size == 9
    assert found(tmp_path / name) == {"": Item("", FILE, 0o644, source=str(tmp_path / name))}
    assert found(tmp_path / "a/empty") == {"": Item("", FOLDER, source=str(tmp_path / "a/empty"))}


def test_links(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "deep").mkdir(parents=True)
    (outside / "deep/file").write_text("x")
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "file").touch()
    (root / "sub/inside").symlink_to(root / "file")
    (root / "sub/folder").symlink_to("..")
    (root / "sub/broken").symlink_to("nothing")
    (root / "sub/out").symlink_to(outside)
    (root / "one").symlink_to("../outside/deep/file")
    there = found(root)
    assert {path: (item.kind, item.to) for path, item in there.items()} == {
        "file": (FILE, ""),
        "one": (FILE, ""),
        "sub/broken": (LINK, "nothing"),
        "sub/folder": (LINK, ".."),
        "sub/inside": (LINK, "../file"),
        "sub/out/deep/file": (FILE, ""),
    }


def test_what_a_cluster_has_put_there_is_not_sent_again(tmp_path: Path) -> None:
    (tmp_path / "mine/only").mkdir(parents=True)
    copy = tmp_path / "dask-flame-one/placed/mine/data"
    copy.mkdir(parents=True)
    (tmp_path / "mine/data").symlink_to(copy)
    (tmp_path / "mine/only/data").symlink_to(copy)
    assert {path: item.kind for path, item in found(tmp_path / "mine").items()} == {"only": FOLDER}


def test_a_link_without_end(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    outside.mkdir()
    root.mkdir()
    (outside / "again").symlink_to(outside)
    (root / "out").symlink_to(outside)
    with pytest.raises(TreeError, match="contains it") as error:
        found(root)
    assert error.value.filename == str(root / "out/again")


def test_what_is_neither_file_nor_folder(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(TreeError, match="neither a file nor a folder"):
        found(tmp_path)


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK])
def test_blocks(size: int, tmp_path: Path) -> None:
    content = os.urandom(size)
    (tmp_path / "file").write_bytes(content)
    parts = list(blocks(str(tmp_path / "file")))
    assert b"".join(parts) == content
    assert all(len(part) == BLOCK for part in parts[:-1])


def test_differences(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * (BLOCK + 1))
    wanted = tuple(digest(block).hex() for block in blocks(str(file)))
    item = Item("file", FILE, 0o755, BLOCK + 1, blocks=wanted)
    assert difference(item, str(file)) == "is not executable"
    file.chmod(0o700)
    assert difference(item, str(file)) == ""
    file.write_bytes(b"x" * BLOCK + b"y")
    assert difference(item, str(file)) == "has other content"
    assert difference(item, str(tmp_path)) == "is no file"
    assert difference(Item("file", FOLDER), str(tmp_path)) == ""
    assert difference(Item("file", FOLDER), str(file)) == "is no folder"
    (tmp_path / "link").symlink_to("file")
    assert difference(Item("link", LINK, to="file"), str(tmp_path / "link")) == ""
    assert difference(Item("link", LINK, to="other"), str(tmp_path / "link"))
