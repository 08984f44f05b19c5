"""Which folders other users could change, and that those are not believed."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dask_flame.core import own_folders
from dask_flame.core.own_folders import make_own, make_temporary, open_in, open_own, why_unsafe

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def _everything() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that others can enter: pytest's are below one that they cannot."""
    made = Path(tempfile.mkdtemp(dir="/tmp"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def mode(path: Path | str) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


def test_what_is_made_is_private_whatever_the_umask(place: Path) -> None:
    make_own(place / "a" / "b")
    assert (mode(place / "a"), mode(place / "a/b")) == (0o700, 0o700)
    make_own(place / "a" / "b")
    made = make_temporary("x-", str(place))
    assert mode(made) == 0o700
    there = open_own(made)
    os.close(open_in(there, "file", os.O_RDWR | os.O_CREAT))
    assert mode(f"{made}/file") == 0o600
    os.symlink("file", f"{made}/link")
    with pytest.raises(OSError, match="symbolic links"):
        open_in(there, "link", os.O_RDWR | os.O_CREAT)
    os.close(there)


@pytest.mark.parametrize("bits", [0o700, 0o755])
def test_own_folders_are_opened(place: Path, bits: int) -> None:
    (place / "own").mkdir()
    (place / "own").chmod(bits)
    os.close(open_own(place / "own"))


@pytest.mark.parametrize("bits", [0o777, 0o775, 0o1777])
def test_folders_in_which_others_write_are_not_opened(place: Path, bits: int) -> None:
    (place / "own").mkdir()
    (place / "own").chmod(bits)
    with pytest.raises(PermissionError, match="others may write"):
        open_own(place / "own")
    (place / "link").symlink_to("own")
    with pytest.raises(NotADirectoryError):
        open_own(place / "link")


def test_a_folder_is_as_safe_as_all_above_it(place: Path) -> None:
    deep = place / "shared" / "mine" / "deep"
    make_own(deep)
    assert why_unsafe(deep) == ""
    shared = place / "shared"
    shared.chmod(0o777)
    said = f"everybody may replace what is in {shared} (mode 777, without the sticky bit)"
    assert why_unsafe(deep) == why_unsafe(shared) == said
    shared.chmod(0o1777)
    assert why_unsafe(deep) == why_unsafe(shared) == ""
    assert why_unsafe(deep, alone=True) == ""
    assert why_unsafe(shared, alone=True) == f"everybody may make files in {shared} (mode 1777)"
    with pytest.raises(FileNotFoundError):
        why_unsafe(deep / "none")


def test_what_others_cannot_enter_they_cannot_change(place: Path) -> None:
    for name in ("closed/open", "open"):
        make_own(place / name)
        (place / name).chmod(0o777)
    inside = place / "closed/open"
    assert why_unsafe(inside) == why_unsafe(inside, alone=True) == ""
    (inside / "out").symlink_to("../../open")
    assert "open (mode 777" in why_unsafe(inside / "out")
    (place / "closed").chmod(0o711)
    assert "closed/open (mode 777" in why_unsafe(inside)


def test_links_are_followed_and_folders_that_they_are_in_count(place: Path) -> None:
    make_own(place / "real")
    make_own(place / "open")
    (place / "open" / "link").symlink_to("../real")
    (place / "twice").symlink_to(place / "open" / "link" / ".")
    assert why_unsafe(place / "twice") == ""
    (place / "open").chmod(0o777)
    assert "open (mode 777" in why_unsafe(place / "twice")
    (place / "open").chmod(0o700)
    (place / "real").chmod(0o777)
    assert "real (mode 777" in why_unsafe(place / "twice")
    (place / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="symbolic links"):
        why_unsafe(place / "loop")


def test_files_that_others_may_write(place: Path) -> None:
    (place / "file").touch()
    assert why_unsafe(place / "file") == (f"everybody may write to {place}/file (mode 666)")
    (place / "file").chmod(0o644)
    assert why_unsafe(place / "file") == ""


def test_groups(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = place / "folder"
    folder.mkdir()
    folder.chmod(0o775)
    if os.getuid() == 0:
        assert why_unsafe(folder) == ""  # root's own group
        os.chown(folder, 0, 4242)
        assert why_unsafe(folder).startswith("group 4242 may replace what is in")
    monkeypatch.setattr(own_folders, "_is_own_group", lambda gid: True)
    assert why_unsafe(folder) == ""


def test_other_users(place: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can give files away")
    (place / "folder").mkdir(mode=0o700)
    os.chown(place / "folder", 1502, 1502)
    assert why_unsafe(place / "folder") == f"{place}/folder belongs to user 1502"
    with pytest.raises(PermissionError, match="another user's"):
        open_own(place / "folder")
    (place / "link").symlink_to("/etc")
    os.chown(place / "link", 1502, 1502, follow_symlinks=False)
    assert why_unsafe(place / "link") == f"{place}/link belongs to user 1502"
