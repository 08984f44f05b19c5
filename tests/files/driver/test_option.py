"""What files= takes, and what its errors say."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import pytest

from dask_flame import FlameCluster
from dask_flame.errors import PoolError
from dask_flame.files.driver.option import check_files

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "data/sub").mkdir(parents=True)
    (tmp_path / "data/a").write_text("a")
    (tmp_path / "data/sub/b").write_text("bb")
    (tmp_path / "config.toml").write_text("x = 1")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Root may read everything."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def paths(files: Any) -> dict[str, str]:
    return {item.path: os.path.relpath(item.source) for item in check_files(files)}


def test_folders_and_files(here: Path) -> None:
    assert check_files(None) == check_files({}) == []
    both = {"/data/a": "data/a", "/data/sub/b": "data/sub/b"}
    assert paths({"data/": "/data"}) == paths({here / "data": Path("/data/")}) == both
    assert paths({"data": "."}) == {"a": "data/a", "sub/b": "data/sub/b"}
    assert paths({"data": "x/../y"}) == {"y/a": "data/a", "y/sub/b": "data/sub/b"}
    for target in ("etc/config.toml", "etc/", "./etc/"):
        assert paths({"config.toml": target}) == {"etc/config.toml": "config.toml"}
    assert paths({"config.toml": "."}) == {"config.toml": "config.toml"}


def test_several_in_one_folder() -> None:
    assert paths({"data": "d", "config.toml": "d/"}).keys() == {"d/a", "d/sub/b", "d/config.toml"}


@pytest.mark.parametrize(
    "files",
    [
        {"data/a": "x", "config.toml": "x"},
        {"data/a": "x", "config.toml": "x/y"},
        {"data": "x", "config.toml": "x/a"},
        {"data": "x", "config.toml": "x/sub/b/c"},
    ],
)
def test_two_for_one_path(files: dict[str, str]) -> None:
    with pytest.raises(PoolError, match=r"files= have two things for 'x.*config\.toml"):
        check_files(files)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["data"], r"files=\['data'\] is not a mapping .*; write files=\{"),
        ("data", "is not a mapping"),
        ({1: "x"}, r"files=\{1: 'x'\} is not a mapping of paths"),
        ({"data": None}, "is not a mapping of paths"),
        ({"data": ""}, "is not a mapping of paths"),
        ({b"data": "x"}, "is not a mapping of paths"),
        ({"data": "~/data"}, r"\{'data': '~/data'\} is not to a path from /, or one relative"),
        ({"nothing": "x"}, r"files=\{'nothing': …\} cannot be sent: there is no such file .* in /"),
        ({"config.toml/": "x"}, "cannot be sent: Not a directory"),
        ({"/dev/null": "x"}, "cannot be sent: neither a file nor a folder"),
    ],
)
def test_what_is_refused(files: Any, said: str) -> None:
    with pytest.raises(PoolError, match=said):
        check_files(files)
    with pytest.raises(PoolError, match=said):
        FlameCluster(files=files)


def test_what_cannot_be_read(here: Path) -> None:
    here.chmod(0o755)
    for folder in here.parents:
        if folder.stat().st_uid == os.getuid() and folder.name.startswith("pytest"):
            folder.chmod(0o755)
    (here / "data/sub").chmod(0o000)
    try:
        with unprivileged(), pytest.raises(PoolError, match=r"/sub'?: Permission denied; change"):
            check_files({"data": "/data"})
    finally:
        (here / "data/sub").chmod(0o755)


def test_a_limit_of_their_size(here: Path) -> None:
    (here / "data/large").write_bytes(bytes(200_000))
    with dask.config.set({"flame.files.limit": "100 kB"}):
        with pytest.raises(PoolError) as error:
            check_files({"data": "/data"})
        (here / "data/large").write_bytes(bytes(99_997))
        assert check_files({"data": "/data"})
        (here / "data/large").write_bytes(bytes(99_998))
        with pytest.raises(PoolError):
            check_files({"data": "/data"})
    said = str(error.value)
    assert said.startswith(
        "files= are 200 kB in total, more than flame.files.limit=100 kB; the largest are "
        "'data/large' (200 kB), 'data/sub/b' (2 B), 'data/a' (1 B); for more, give runners"
    )
    assert "s3://" in said
    assert said.endswith('or write dask.config.set({"flame.files.limit": "256 MiB"})')


def test_a_limit_that_is_wrong() -> None:
    with dask.config.set({"flame.files.limit": "much"}), pytest.raises(PoolError, match="a size"):
        FlameCluster()
