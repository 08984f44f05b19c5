"""Local code is found as Git and Python would, and each change of it is noticed."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dask_flame.code.driver.ignored import Ignored
from dask_flame.code.driver.local_code import LocalCode
from dask_flame.code.driver.roots import FoundRoot, automatic
from dask_flame.code.driver.scan import Scanner, Tree
from dask_flame.code.driver.shared_scan import SharedScan, scans
from dask_flame.code.manifest import Manifest
from dask_flame.core.packs import Pack
from dask_flame.errors import PoolError
from tests.support.examples import examples
from tests.support.watches import watches


def write(folder: Path, *names: str, text: str = "") -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def files(folder: Path, *, data: bool = False) -> set[str]:
    scanner = Scanner(data=data, most_bytes=1000)
    tree = scanner.scan([FoundRoot(str(folder))])
    return {os.path.relpath(p, folder) for own in tree.files.values() for p in own}


@pytest.mark.unit
def test_modules_and_packages_are_found_and_nothing_else(tmp_path: Path) -> None:
    modules = {"one.py", "pack/__init__.py", "pack/deep/er.py", "space/inner/two.py"}
    write(
        tmp_path,
        *modules,
        "pack/data.csv",
        "pack/.hidden.py",
        "pack/__pycache__/er.cpython-311.pyc",
        "not-a-name.py",
        "notebook.ipynb",
        "results/1.txt",
        ".venv/lib/x.py",
        "env/pyvenv.cfg",
        "env/lib/y.py",
        "node_modules/z/z.py",
        "space/inner/three.txt",
    )
    assert files(tmp_path) == modules
    assert files(tmp_path, data=True) == modules | {"pack/data.csv"}
    write(tmp_path, "pack/large.bin", text="x" * 1001)
    assert "pack/large.bin" not in files(tmp_path, data=True)


@pytest.mark.unit
def test_links_and_loops_end(tmp_path: Path) -> None:
    write(tmp_path, "pack/__init__.py", "pack/x.py")
    (tmp_path / "pack" / "again").symlink_to(tmp_path / "pack")
    (tmp_path / "pack" / "nowhere.py").symlink_to(tmp_path / "missing.py")
    (tmp_path / "linked.py").symlink_to(tmp_path / "pack" / "x.py")
    found = files(tmp_path)
    assert {"pack/__init__.py", "pack/x.py", "linked.py"} <= found
    assert len(found) < 10


@pytest.mark.unit
def test_what_the_driver_has_from_elsewhere_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The driver has imported these from the standard library: so do the calls.
    write(tmp_path, "json.py", "sys.py", "mine.py", "dask/__init__.py")
    assert files(tmp_path) == {"mine.py"}
    monkeypatch.syspath_prepend(str(tmp_path))
    assert FoundRoot(str(tmp_path)) in automatic()


RULES = st.lists(
    st.sampled_from(
        [
            "*.txt",
            "!keep.txt",
            "build/",
            "/top.py",
            "sub/*.py",
            "**/deep",
            "!deep/",
            "# x",
            "",
        ]
    ),
    max_size=4,
)
PATHS = [
    "pack/__init__.py",
    "pack/keep.txt",
    "pack/lose.txt",
    "pack/build/made.py",
    "pack/sub/s.py",
    "pack/deep/er.py",
    "pack/sub/deep/est.py",
    "top.py",
    "deep.py",
]


@pytest.mark.process
@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
@settings(max_examples=examples(15), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(RULES, RULES)
def test_gitignore_files_are_followed_as_git_does(
    tmp_path_factory: pytest.TempPathFactory, top: list[str], below: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("repository")
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    write(folder, *PATHS)
    (folder / ".gitignore").write_text("\n".join(top) + "\n")
    (folder / "pack" / ".gitignore").write_text("\n".join(below) + "\n")
    listed = subprocess.run(
        ["git", "ls-files", "--others", "--exclude-standard"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\n")
    expected = {name for name in listed if name and ".gitignore" not in name}
    found = files(folder, data=True)
    if "pack/__init__.py" in expected:
        assert found == expected


@pytest.fixture
def code(tmp_path: Path) -> Iterator[LocalCode]:
    write(tmp_path, "mod.py", "pack/__init__.py", "pack/sub/inner.py", text="X = 0\n")
    made = LocalCode([str(tmp_path)], data=True)
    yield made
    made.close()


def append(file: Path) -> None:
    with open(file, "a") as opened:
        opened.write("Y = 1\n")


def replaced(file: Path) -> None:
    """Save as editors do that write a new file and rename it."""
    new = file.with_suffix(".new")
    new.write_text("X = 3\n")
    new.rename(file)


CHANGES: dict[str, Callable[[Path], object]] = {
    "written": lambda folder: (folder / "mod.py").write_text("X = 1\n"),
    "same size": lambda folder: (folder / "pack/sub/inner.py").write_text("X = 9\n"),
    "appended": lambda folder: append(folder / "mod.py"),
    "replaced": lambda folder: replaced(folder / "pack/sub/inner.py"),
    "removed": lambda folder: (folder / "mod.py").unlink(),
    "new module": lambda folder: write(folder, "new.py"),
    "new package": lambda folder: write(folder, "fresh/__init__.py", "fresh/x.py"),
    "new data": lambda folder: write(folder, "pack/words.txt"),
    "renamed": lambda folder: (folder / "pack").rename(folder / "other"),
    "ignored": lambda folder: (folder / ".gitignore").write_text("mod.py\n"),
}


@pytest.mark.unit
@pytest.mark.parametrize("notified", [True, False])
@pytest.mark.parametrize("name", CHANGES)
def test_each_change_is_noticed_at_once(
    name: str, notified: bool, code: LocalCode, tmp_path: Path
) -> None:
    before = code.version()
    if not notified:
        code.scan._notifier.close()
    assert code.version() == before
    CHANGES[name](tmp_path)
    after = code.version()
    assert after not in (None, before)
    assert code.version() == after


@pytest.mark.unit
def test_ten_changes_in_a_row_are_ten_versions(code: LocalCode, tmp_path: Path) -> None:
    seen = set()
    for number in range(10):
        (tmp_path / "mod.py").write_text(f"X = {number}\n")
        seen.add(code.version())
    assert len(seen) == 10
    (tmp_path / "mod.py").write_text("X = 0\n")
    assert code.version() in seen


@pytest.mark.unit
@pytest.mark.parametrize("option", ["code.limit", "code.file-limit"])
def test_only_those_with_equal_options_share_a_scan(tmp_path: Path, option: str) -> None:
    import dask.config

    write(tmp_path, "mod.py")
    made = [LocalCode([str(tmp_path)]), LocalCode([tmp_path]), LocalCode([tmp_path / "mod.py"])]
    made.append(LocalCode([str(tmp_path)], data=True))
    with dask.config.set({f"flame.{option}": "1 MB"}):
        made.append(LocalCode([str(tmp_path)]))
    assert made[0].scan is made[1].scan
    assert len({id(code.scan) for code in made}) == 4
    for code in made:
        code.close()


@pytest.mark.unit
def test_one_watch_serves_all_and_ends_with_the_last(code: LocalCode, tmp_path: Path) -> None:
    before = watches()
    second = LocalCode([str(tmp_path)], data=True)
    assert code.version() == second.version()
    assert watches() == before + (sys.platform == "linux")
    code.close()
    code.close()  # a second time takes away no other user
    assert code.version() is None
    assert code.pack(()) == (None, b"", set())
    old = second.version()
    (tmp_path / "mod.py").write_text("X = 1\n")
    assert second.version() not in (None, old)
    second.close()
    assert watches() == before
    # Nothing is watched after a call in another thread that began before the last user left.
    second.scan.version()
    assert watches() == before


@pytest.mark.unit
@pytest.mark.parametrize("name", [None, *CHANGES])
def test_the_next_user_looks_for_changes(
    name: str | None, code: LocalCode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, pack, _ = code.pack(())
    code.close()
    if name is not None:
        CHANGES[name](tmp_path)
    scans_done = []
    scan = Scanner.scan

    def counted(self: Scanner, roots: Sequence[FoundRoot]) -> Tree:
        scans_done.append(roots)
        return scan(self, roots)

    monkeypatch.setattr(Scanner, "scan", counted)
    later = LocalCode([str(tmp_path)], data=True)
    assert later.scan is code.scan
    assert (later.version() == before) == (name is None)
    assert len(scans_done) == (name is not None)
    if name is None:
        assert later.pack(())[1] is pack
    assert later.scan._notifier.on or sys.platform != "linux"  # it watches again
    later.close()


@pytest.mark.unit
def test_few_and_small_scans_are_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scanned(name: str) -> SharedScan:
        write(tmp_path / name, "mod.py", text="X = 1\n")
        code = LocalCode([tmp_path / name])
        code.version()
        code.close()
        return code.scan

    first, second, third = scanned("a"), scanned("b"), scanned("c")
    assert scanned("c") is third
    assert scanned("b") is second
    assert scanned("a") is not first
    monkeypatch.setattr("dask_flame.code.driver.shared_scan._LARGEST_UNUSED", 5)
    assert scanned("d") is not scanned("d")


@pytest.mark.process
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_process_scans_for_itself(code: LocalCode, tmp_path: Path) -> None:
    code.version()
    with scans._lock:  # as if another thread had it
        process = os.fork()
        if process == 0:
            status = 2
            with contextlib.suppress(BaseException):
                own = LocalCode([str(tmp_path)], data=True)
                found = own.version() is not None and own.scan is not code.scan
                own.close()
                status = not found
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
    (tmp_path / "mod.py").write_text("X = 2\n")
    assert code.scan._notifier.changed() or sys.platform != "linux"


@pytest.mark.unit
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux notifies")
def test_what_does_not_matter_is_not_read_again(code: LocalCode, tmp_path: Path) -> None:
    before = code.version()
    tree = code.scan._tree
    write(tmp_path, "notes.ipynb", "pack/__pycache__/x.pyc", ".hidden")
    assert code.version() == before
    (tmp_path / "mod.py").touch()
    assert code.version() == before
    assert code.scan._tree is not tree


@pytest.mark.unit
def test_a_pack_has_what_the_receiver_lacks(code: LocalCode, tmp_path: Path) -> None:
    version, pack, sent = code.pack(())
    assert version is not None
    assert pack
    (tmp_path / "mod.py").write_text("X = 5\n")
    later, packed, more = code.pack(sent)
    assert later != version
    assert len(more - sent) == 2  # the changed file and the manifest
    assert len(Pack(packed)) == 2


@pytest.mark.unit
def test_too_much_code_is_refused_and_too_much_data_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import dask.config

    write(tmp_path, "pack/__init__.py", "pack/m.py", text="X = 0\n" * 10)
    write(tmp_path, "pack/large.txt", text="x" * 70_000)
    with dask.config.set({"flame.code.limit": 70_000}):
        code = LocalCode([str(tmp_path)], data=True)
        assert code.version() is not None
        assert "large.txt" in caplog.text
        code.close()
        write(tmp_path, "pack/more.py", text="# long\n" * 10_000)
        code = LocalCode([str(tmp_path)], data=True)
        with pytest.raises(PoolError, match=r"more than flame.code.limit=.*more.py.*code=False"):
            code.version()
        code.close()


@pytest.mark.unit
def test_nothing_local_is_no_version(tmp_path: Path) -> None:
    write(tmp_path, "notes.txt", "figures/1.svg")
    code = LocalCode([str(tmp_path)])
    assert code.version() is None
    assert code.pack(()) == (None, b"", set())
    assert not code.tops
    code.close()
    assert Manifest(()).modules() == {}


@pytest.mark.unit
def test_rules_of_the_folders_above_count_up_to_the_repository(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("*.py\n")
    top = tmp_path / "repository"
    (top / ".git").mkdir(parents=True)
    (top / ".gitignore").write_text("secret.py\n")
    write(top / "inner", "secret.py", "open.py")
    rules = Ignored.above(str(top / "inner")).within(str(top / "inner"))
    assert rules.file(str(top / "inner" / "secret.py"))
    assert not rules.file(str(top / "inner" / "open.py"))


@pytest.mark.unit
def test_several_modules_of_one_folder_and_a_root_below_another(tmp_path: Path) -> None:
    write(tmp_path, "one.py", "two.py", "three.py", "libs/core/src/nested/__init__.py")
    code = LocalCode([str(tmp_path / "one.py"), str(tmp_path / "two.py")])
    code.version()
    assert code.tops == {"one", "two"}
    code.close()
    code = LocalCode([str(tmp_path), str(tmp_path / "libs/core/src")])
    code.version()
    assert {"one", "two", "three", "nested"} <= code.tops
    code.close()


@pytest.mark.unit
def test_a_module_behind_a_link_is_followed_at_once(tmp_path: Path) -> None:
    target = tmp_path / "elsewhere" / "real.py"
    write(tmp_path, "elsewhere/real.py", text="X = 0\n")
    write(tmp_path / "project", "own.py")
    (tmp_path / "project" / "link.py").symlink_to(target)
    code = LocalCode([str(tmp_path / "project")])
    seen = {code.version()}
    for number in range(1, 4):
        target.write_text(f"X = {number}\n")
        seen.add(code.version())
    assert len(seen) == 4
    code.close()


@pytest.mark.unit
def test_a_change_whose_time_is_restored_is_noticed(code: LocalCode, tmp_path: Path) -> None:
    before, file = code.version(), tmp_path / "mod.py"
    found = file.stat()
    file.write_text("X = 7\n")
    os.utime(file, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert code.version() != before
    code.scan._notifier.close()
    before = code.version()
    file.write_text("X = 8\n")
    os.utime(file, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert code.version() != before


@pytest.mark.unit
def test_what_is_odd_in_sys_path_and_sys_modules_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "mine.py", "lazy.py")
    odd: list[Any] = [None, 3, b"/tmp", "\0", tmp_path / "no", str(tmp_path / "x.zip")]
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path, *odd])

    class Anything(ModuleType):
        def __getattr__(self, name: str) -> Any:
            raise ImportError(name)

    monkeypatch.setitem(sys.modules, "anything", Anything("anything"))
    monkeypatch.setitem(sys.modules, "an_object", mock.MagicMock())
    spec = importlib.util.find_spec("lazy")
    assert spec is not None
    assert spec.loader is not None
    spec.loader = importlib.util.LazyLoader(spec.loader)
    lazy = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "lazy", lazy)
    spec.loader.exec_module(lazy)
    code = LocalCode()
    code.version()
    assert {"mine", "lazy"} <= code.tops
    assert type(lazy).__name__ == "_LazyModule"  # still not imported
    code.close()


@pytest.mark.unit
def test_odd_rules(tmp_path: Path) -> None:
    write(tmp_path, "pack/__init__.py", "pack/a.py", "pack/b.py")
    (tmp_path / ".gitignore").write_text("!\n\\\nfoo\\ \nb.py\n")
    assert files(tmp_path) == {"pack/__init__.py", "pack/a.py"}
    # A home folder in a repository of settings, which ignores everything else.
    (tmp_path / ".git").mkdir()
    (tmp_path / ".gitignore").write_text("*\n")
    write(tmp_path / "project", "mine.py")
    assert files(tmp_path / "project") == {"mine.py"}


@pytest.mark.unit
def test_folders_of_installed_packages_are_not_local(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "target/pack/__init__.py", "target/pack-1.0.dist-info/METADATA", "own/mine.py")
    for name in ("target", "own"):
        monkeypatch.syspath_prepend(str(tmp_path / name))
    paths = [root.path for root in automatic()]
    assert str(tmp_path / "own") in paths
    assert str(tmp_path / "target") not in paths
