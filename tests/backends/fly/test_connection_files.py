"""The files with which another process of the user connects."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest

from dask_flame.backends.fly import connection_files
from dask_flame.backends.fly.connection_files import SavedConnection
from dask_flame.core.connection import ConnectionInfo

pytestmark = pytest.mark.unit

SAVED = SavedConnection(
    app="flame",
    reach="proxy",
    connection=ConnectionInfo(port=8786, key="k3y", security={"tls_client_key": "s3cret"}),
)


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


def test_only_the_user_reads_them(state: Path) -> None:
    before = os.umask(0)
    try:
        connection_files.write("a/b-1f2e", SAVED)
    finally:
        os.umask(before)
    file = connection_files.path_of("a/b-1f2e")
    assert file.parent == state / "dask-flame" / "fly"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert {stat.S_IMODE(p.stat().st_mode) for p in (file.parent, file.parent.parent)} == {0o700}
    assert list(file.parent.iterdir()) == [file]
    assert connection_files.read("a/b-1f2e") == SAVED
    assert "k3y" not in repr(SAVED)
    assert "s3cret" not in repr(SAVED)
    connection_files.remove("a/b-1f2e")
    connection_files.remove("a/b-1f2e")
    assert connection_files.read("a/b-1f2e") is None


def test_a_folder_where_others_write_is_not_used(state: Path) -> None:
    folder = connection_files.folder()
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    with pytest.raises(PermissionError):
        connection_files.write("c", SAVED)
    assert list(folder.iterdir()) == []
    folder.chmod(0o700)
    connection_files.write("c", SAVED)
    folder.chmod(0o777)  # somebody else may have written it
    assert connection_files.read("c") is None


def test_a_file_that_is_a_link_or_broken_is_not_read(tmp_path: Path) -> None:
    connection_files.write("c", SAVED)
    file = connection_files.path_of("c")
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    assert connection_files.read("c") is None
    file.unlink()
    file.write_text('{"app": "flame"')
    assert connection_files.read("c") is None


def test_old_files_of_an_app_without_machines_are_removed() -> None:
    for cluster in ("lives", "gone", "new", "other"):
        app = "another" if cluster == "other" else "flame"
        saved = SavedConnection(app=app, reach="proxy", connection=SAVED.connection)
        connection_files.write(cluster, saved)
        if cluster != "new":
            old = time.time() - 7200
            os.utime(connection_files.path_of(cluster), (old, old))
    connection_files.remove_old("flame", {"lives"})
    left = {file.stem for file in connection_files.folder().iterdir()}
    assert left == {"lives", "new", "other"}
