"""Links into clusters' folders end with them, and are handed on between clusters."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import pytest

from dask_flame.core import placed_links
from dask_flame.core.placed_links import copy_of, is_placed, place, remove_folder

pytestmark = pytest.mark.unit


class Cluster:
    """A cluster's folder, with a copy for a link."""

    def __init__(self, where: Path, name: str, link: Path) -> None:
        self.folder = str(where / f"dask-flame-{name}")
        self.link = str(link)
        copy = Path(copy_of(self.folder, self.link))
        copy.parent.mkdir(parents=True)
        copy.write_text(name)

    def place(self) -> None:
        place(self.folder, self.link)

    def end(self) -> None:
        remove_folder(self.folder)
        assert not os.path.lexists(self.folder)


@pytest.fixture
def link(tmp_path: Path) -> Path:
    (tmp_path / "user").mkdir()
    return tmp_path / "user/data"


def test_a_link_ends_with_its_folder(link: Path, tmp_path: Path) -> None:
    one = Cluster(tmp_path, "one", link)
    one.place()
    assert link.read_text() == "one"
    assert is_placed(str(link))
    one.end()
    assert list(link.parent.iterdir()) == []


@pytest.mark.parametrize("order", ["012", "021", "102", "120", "201", "210"])
def test_it_is_handed_on(order: str, link: Path, tmp_path: Path) -> None:
    clusters = [Cluster(tmp_path, str(number), link) for number in range(3)]
    for number, cluster in enumerate(clusters):
        cluster.place()
        assert link.read_text() == str(number)
    left = {0, 1, 2}
    for number in map(int, order):
        clusters[number].end()
        left.remove(number)
        if left:
            # The latest that is left has it.
            assert link.read_text() == str(max(left))
    assert list(link.parent.iterdir()) == []


@pytest.mark.parametrize("ending", [0, 1])
def test_it_always_leads_somewhere(
    ending: int, link: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clusters = [Cluster(tmp_path, str(number), link) for number in range(2)]
    for cluster in clusters:
        cluster.place()
    give_up, seen = placed_links._give_up, []

    def watched(*args: Any, **note: Any) -> None:
        seen.append(link.read_text())
        give_up(*args, **note)
        seen.append(link.read_text())

    with monkeypatch.context() as patch:
        patch.setattr(placed_links, "_give_up", watched)
        clusters[ending].end()
    assert seen == ["1", str(1 - ending)]
    clusters[1 - ending].end()


def test_it_is_not_handed_to_a_cluster_that_ends_too(
    link: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = (Cluster(tmp_path, name, link) for name in ("one", "two"))
    one.place()
    two.place()
    give_up = placed_links._give_up

    def meanwhile(*args: Any, **note: Any) -> None:
        give_up(*args, **note)
        if Path(two.folder).exists():
            two.end()

    with monkeypatch.context() as patch:
        patch.setattr(placed_links, "_alone", lambda folder: contextlib.nullcontext())
        patch.setattr(placed_links, "_give_up", meanwhile)
        one.end()
    assert list(link.parent.iterdir()) == []


def test_what_is_no_link_of_ours_stays(link: Path, tmp_path: Path) -> None:
    one = Cluster(tmp_path, "one", link)
    one.place()
    link.unlink()
    link.write_text("the user's")
    one.end()
    assert link.read_text() == "the user's"
    other = Cluster(tmp_path, "other", link)
    with pytest.raises(FileExistsError):
        other.place()
    assert link.read_text() == "the user's"
    other.end()
    assert link.read_text() == "the user's"
    link.unlink()
    link.symlink_to("elsewhere")
    assert not is_placed(str(link))


def test_a_note_that_names_something_else_removes_nothing(link: Path, tmp_path: Path) -> None:
    one = Cluster(tmp_path, "one", link)
    link.symlink_to("/etc")
    note = {"link": str(link), "copy": "/etc", "before": [], "temporary": str(link)}
    placed_links._note(one.folder, note)
    one.end()
    assert os.readlink(link) == "/etc"


def test_a_kill_at_any_moment(link: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class KilledError(BaseException):
        pass

    def kill(*args: object) -> None:
        raise KilledError

    for number, moment in enumerate(("symlink", "replace")):
        first = Cluster(tmp_path, f"first{number}", link)
        second = Cluster(tmp_path, f"second{number}", link)
        first.place()
        with monkeypatch.context() as patch:
            patch.setattr(os, moment, kill)
            patch.setattr(os, "unlink", kill)
            with pytest.raises(KilledError):
                second.place()
        second.end()
        assert link.read_text() == f"first{number}"
        first.end()
        assert list(link.parent.iterdir()) == []


def test_a_note_that_was_cut_off(link: Path, tmp_path: Path) -> None:
    one = Cluster(tmp_path, "one", link)
    one.place()
    with open(os.path.join(one.folder, ".placed"), "a") as file:
        file.write('{"link": "/et')
    one.end()
    assert list(link.parent.iterdir()) == []
