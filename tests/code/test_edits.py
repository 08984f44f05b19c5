"""Calls run the local modules as they were when the call was submitted."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from distributed import Client, WorkerPlugin

from dask_flame import FlameCluster, PoolError
from dask_flame.code.driver.shared_scan import SharedScan
from tests.support.paths import ROOT
from tests.support.waiting import wait_for
from tests.support.watches import watches

pytestmark = pytest.mark.process

Flame = Any


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that the driver imports from; its modules are forgotten afterwards."""
    folder = tmp_path / "project"
    folder.mkdir()
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(folder)):
            del sys.modules[name]


def write(file: Path, text: str) -> None:
    """Save a file as an editor does."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(dedent(text))
    importlib.invalidate_caches()


def wait_until_exists(path: str) -> None:
    while not os.path.exists(path):
        time.sleep(0.005)


def test_the_next_call_runs_what_was_saved(flame: Flame, project: Path) -> None:
    write(project / "recipe.py", "def version():\n    return 'first'\n")
    _, client = flame(max=2)
    import recipe

    assert client.gather(client.map(lambda _: recipe.version(), range(4))) == ["first"] * 4
    held = client.submit(recipe.version)
    assert held.result() == "first"
    for version in ("second", "third"):
        write(project / "recipe.py", f"def version():\n    return {version!r}\n")
        # The same call: its key must differ, although the first future is held.
        assert client.submit(recipe.version).result() == version
        assert client.gather(client.map(lambda _: recipe.version(), range(4))) == [version] * 4
        importlib.reload(recipe)
        assert client.submit(recipe.version).result() == version
    assert held.result() == "first"


def test_no_call_runs_a_mixture(flame: Flame, project: Path) -> None:
    def save(version: int) -> None:
        write(project / "one.py", f"import two\nV = {version}\ndef both():\n    return V, two.V\n")
        write(project / "two.py", f"V = {version}\n")
        write(project / "late" / "__init__.py", "")
        write(project / "late" / "three.py", f"V = {version}\n")

    save(0)
    _, client = flame(max=2, concurrency=4)

    def call(version: int, n: int) -> tuple[int, ...]:
        import one

        before = one.both()
        time.sleep(0.05)
        import late.three

        return (*before, late.three.V, importlib.import_module("two").V)

    futures = []
    for version in range(10):
        save(version)
        futures.append((version, client.map(call, [version] * 20, range(20))))
    for version, some in futures:
        assert set(client.gather(some)) == {(version,) * 4}


def test_a_running_call_keeps_its_version(flame: Flame, project: Path, tmp_path: Path) -> None:
    write(project / "state.py", "VERSION = 'old'\n")
    write(project / "later.py", "VERSION = 'old'\n")
    _, client = flame(max=1, concurrency=2)
    go = str(tmp_path / "go")

    def old() -> tuple[str, ...]:
        import state

        open(go + ".begun", "w").close()
        wait_until_exists(go)
        found: list[str] = []

        def in_a_thread() -> None:
            import later

            found.append(later.VERSION)

        thread = threading.Thread(target=in_a_thread)
        thread.start()
        thread.join()
        import pickle

        named = pickle.loads(b"cstate\nVERSION\n.")
        return state.VERSION, found[0], importlib.import_module("later").VERSION, named

    running = client.submit(old)
    wait_for(lambda: os.path.exists(go + ".begun"))
    write(project / "state.py", "VERSION = 'new'\n")
    write(project / "later.py", "VERSION = 'new'\n")

    def new() -> tuple[str, str]:
        import later
        import state

        return state.VERSION, later.VERSION

    assert client.submit(new).result() == ("new", "new")
    Path(go).touch()
    assert running.result() == ("old",) * 4


def test_modules_keep_their_state_while_nothing_that_they_use_changes(
    flame: Flame, project: Path
) -> None:
    write(project / "model.py", "import layers\nCALLS = []\n")
    write(project / "layers.py", "SIZE = 1\n")
    write(project / "notes.py", "X = 1\n")
    _, client = flame(max=1, min=1)

    def count() -> int:
        import model

        model.CALLS.append(1)
        return len(model.CALLS)

    assert [client.submit(count, pure=False).result() for _ in range(2)] == [1, 2]
    write(project / "notes.py", "X = 2\n")
    assert client.submit(count, pure=False).result() == 3
    write(project / "layers.py", "SIZE = 2\n")
    assert client.submit(count, pure=False).result() == 1


def test_results_of_an_older_version_are_the_drivers_own(flame: Flame, project: Path) -> None:
    text = "class Thing:\n    def __init__(self, x):\n        self.x = x\n"
    write(project / "things.py", text + "VERSION = 1\n")
    _, client = flame(max=1, min=1)
    import things

    made = client.submit(things.Thing, 1)
    again = client.submit(things.Thing, 2)
    client.gather(client.submit(lambda thing: type(thing).__name__, made))
    write(project / "things.py", text + "VERSION = 2\n")

    def look(thing: Any) -> tuple[bool, int, int]:
        return isinstance(thing, things.Thing), things.VERSION, thing.x

    # A call of the new version sees an instance of its own class.
    assert client.submit(look, made).result() == (True, 2, 1)
    assert type(again.result()) is things.Thing
    assert type(made.result()) is things.Thing


def test_a_module_that_appears_or_goes(flame: Flame, project: Path) -> None:
    write(project / "always.py", "X = 0\n")
    _, client = flame(max=1)

    def find() -> int | str:
        try:
            import sometimes
        except ModuleNotFoundError as error:
            return str(error)
        return sometimes.X

    missing = "No module named 'sometimes'"
    assert client.submit(find).result() == missing
    write(project / "sometimes.py", "X = 5\n")
    assert client.submit(find).result() == 5
    (project / "sometimes.py").unlink()
    # A runner of this machine could find the file's bytecode, and other modules of the version.
    assert client.submit(find).result() == missing


def test_an_error_in_a_module_is_the_callers(flame: Flame, project: Path) -> None:
    write(project / "broken.py", "def f():\n    return 1\n")
    _, client = flame(max=1)
    import broken

    assert client.submit(broken.f).result() == 1
    write(project / "broken.py", "def f():\n    return (\n")
    with pytest.raises(SyntaxError, match="was never closed"):
        client.submit(broken.f).result()
    write(project / "broken.py", "1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        client.submit(broken.f).result()
    write(project / "broken.py", "def f():\n    return 2\n")
    assert client.submit(broken.f).result() == 2


def test_functions_for_all_runners_are_new_too(flame: Flame, project: Path) -> None:
    write(project / "tools.py", "def version():\n    return 1\n")
    cluster, client = flame(max=2, min=2)
    client.wait_for_workers(2)
    import tools

    assert set(client.run(tools.version).values()) == {1}
    write(project / "tools.py", "def version():\n    return 2\n")
    assert set(client.run(tools.version).values()) == {2}

    class Plugin(WorkerPlugin):
        def setup(self, worker: Any) -> None:
            worker.seen_by_plugin = tools.version()

    write(project / "tools.py", "def version():\n    return 3\n")
    client.register_plugin(Plugin())

    def seen(dask_worker: Any) -> int:
        found: int = dask_worker.seen_by_plugin
        return found

    assert set(client.run(seen).values()) == {3}
    cluster.resize(min=3, max=3)
    client.wait_for_workers(3)
    assert list(client.run(seen).values()) == [3, 3, 3]


def test_calls_of_calls_use_the_same_version(flame: Flame, project: Path, tmp_path: Path) -> None:
    write(project / "inner.py", "VERSION = 1\ndef version():\n    return VERSION\n")
    _, client = flame(max=2)
    go = str(tmp_path / "go")

    def outer() -> tuple[int, int]:
        import inner
        from distributed import get_client

        open(go + ".begun", "w").close()
        wait_until_exists(go)
        here = inner.version()
        there = get_client().submit(inner.version, pure=False).result()
        return here, there

    running = client.submit(outer)
    wait_for(lambda: os.path.exists(go + ".begun"))
    write(project / "inner.py", "VERSION = 2\ndef version():\n    return VERSION\n")
    assert client.submit(lambda: __import__("inner").version()).result() == 2
    Path(go).touch()
    assert running.result() == (1, 1)


SECOND_DRIVER = """
import sys

from dask.distributed import Client

import dask_flame

dask_flame.resume_clients()
import shared

with Client(sys.argv[1]) as client:
    futures = client.map(lambda n: (shared.WHO, n), range(5))
    print(client.gather(futures))
    print(client.submit(shared.only_here).result())
    print(client.submit(shared.who).result())
"""


def test_two_drivers_have_modules_of_their_own(flame: Flame, project: Path, tmp_path: Path) -> None:
    write(project / "shared.py", "WHO = 'first'\n\ndef who():\n    return WHO\n")
    other = tmp_path / "other"
    second = "WHO = 'second'\n\ndef only_here():\n    return 'only ' + WHO\n"
    write(other / "shared.py", second + "\ndef who():\n    return WHO\n")
    write(other / "drive.py", SECOND_DRIVER)
    cluster, client = flame(max=1, concurrency=2)
    import shared

    held = client.submit(shared.who)  # the other driver submits a call of the same name
    assert held.result() == "first"
    done = subprocess.run(
        [sys.executable, "drive.py", cluster.scheduler_address],
        cwd=other,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.stdout.splitlines() == [
        str([("second", n) for n in range(5)]),
        "only second",
        "second",
    ], done.stderr
    assert client.submit(shared.who, pure=False).result() == "first"


def test_code_can_be_chosen(project: Path, tmp_path: Path) -> None:
    write(project / "wanted.py", "X = 1\n")
    write(tmp_path / "apart" / "chosen.py", "X = 2\n")

    def find(name: str) -> int | None:
        try:
            found: int = importlib.import_module(name).X
        except ModuleNotFoundError:
            return None
        return found

    for code, there in (
        ([tmp_path / "apart"], 2),
        ([tmp_path / "apart" / "chosen.py"], 2),
        (False, None),
    ):
        cluster = FlameCluster(max=1, dashboard_address=None, code=code)
        with cluster, Client(cluster) as client:
            assert client.submit(find, "chosen").result() == there
    with pytest.raises(PoolError, match=r"^code=.* is not a list of .*/nowhere does not"):
        FlameCluster(max=1, dashboard_address=None, code=[tmp_path / "nowhere"])
    with pytest.raises(PoolError, match="code='yes' is not True, False, or a list"):
        FlameCluster(max=1, dashboard_address=None, code="yes")


def test_a_version_that_comes_back(flame: Flame, project: Path) -> None:
    write(project / "undone.py", "V = 'A'\ndef f():\n    return V\n")
    cluster, client = flame(max=1, min=1)
    import undone

    for version in "ABCBA":
        write(project / "undone.py", f"V = {version!r}\ndef f():\n    return V\n")
        # Nothing holds an earlier version, so that the scheduler has forgotten it.
        assert client.submit(undone.f).result() == version
        assert set(client.run(undone.f).values()) == {version}
    cluster.resize(min=2, max=2)
    client.wait_for_workers(2)
    assert set(client.run(undone.f).values()) == {"A"}


KINDS = """
import enum

class Thing:
    def __init__(self, x):
        self.x = x

class Color(enum.Enum):
    RED = 1

VERSION = {version}
"""


def test_the_result_of_a_call_that_ran_during_an_edit(
    flame: Flame, project: Path, tmp_path: Path
) -> None:
    write(project / "kinds.py", KINDS.format(version=1))
    _, client = flame(max=2, min=2)
    client.wait_for_workers(2)
    go = str(tmp_path / "go")
    import kinds

    def make() -> tuple[Any, Any]:
        import kinds

        open(go + ".begun", "w").close()
        wait_until_exists(go)
        return kinds.Thing(3), kinds.Color.RED

    def use(made: tuple[Any, Any]) -> tuple[int, bool, bool]:
        return kinds.VERSION, isinstance(made[0], kinds.Thing), made[1] is kinds.Color.RED

    one, two = [ws.address for ws in client.cluster.scheduler.workers.values() if ws.nthreads][:2]
    running = client.submit(make, workers=[one])
    old = client.submit(use, running, workers=[two])  # on the other runner, and not begun
    wait_for(lambda: os.path.exists(go + ".begun"))
    # The later version lacks the class.
    write(project / "kinds.py", KINDS.format(version=2).replace("Thing", "Other"))

    def version() -> int:
        found: int = kinds.VERSION
        return found

    assert client.submit(version).result() == 2
    Path(go).touch()
    assert old.result() == (1, True, True)
    write(project / "kinds.py", KINDS.format(version=3))
    for worker in (one, two):
        assert client.submit(use, running, workers=[worker]).result() == (3, True, True)
    thing, color = running.result()
    assert type(thing) is kinds.Thing
    assert color is kinds.Color.RED


def test_scattered_data_and_what_cannot_be_pickled(flame: Flame, project: Path) -> None:
    write(project / "kinds.py", KINDS.format(version=1))
    _, client = flame(max=1, min=1)
    import kinds

    scattered = client.scatter(kinds.Thing(7))
    lock = client.submit(lambda: threading.Lock())
    plain = client.submit(lambda: list("abc"))

    def use(thing: Any, lock: Any, plain: list[str]) -> tuple[bool, bool, int, int]:
        return isinstance(thing, kinds.Thing), lock.locked(), len(plain), kinds.VERSION

    for version in (1, 2, 3):
        write(project / "kinds.py", KINDS.format(version=version))
        expected = (True, False, 3, version)
        assert client.submit(use, scattered, lock, plain).result() == expected


def test_keys_of_calls_of_calls_depend_on_the_version(flame: Flame, project: Path) -> None:
    write(project / "inner.py", "def version():\n    return 1\n")
    _, client = flame(max=2)

    def outer(n: int) -> tuple[int, Any]:
        import inner
        from distributed import get_client

        future = get_client().submit(inner.version)
        return future.result(), future

    held = client.submit(outer, 1)
    assert held.result()[0] == 1
    write(project / "inner.py", "def version():\n    return 2\n")
    assert client.submit(outer, 2).result()[0] == 2


def test_clusters_and_clients_share_a_scan_and_leave_no_watch(
    flame: Flame, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(project / "shared.py", "def value():\n    return 1\n")
    done = []
    scan = SharedScan._scan

    def counted(self: SharedScan) -> None:
        done.append(self)
        scan(self)

    monkeypatch.setattr(SharedScan, "_scan", counted)
    before = watches()
    first, client = flame(max=1)
    import shared

    assert client.submit(shared.value).result() == 1
    second, other = flame(max=1)
    assert other.submit(shared.value).result() == 1
    assert len(done) == 1
    assert first.local_code.scan is second.local_code.scan
    with Client(first.scheduler_address) as by_address:
        assert by_address.submit(shared.value, pure=False).result() == 1
        assert watches() == before + 2 * (sys.platform == "linux")  # it sends data files, too
    assert watches() == before + (sys.platform == "linux")
    client.close()
    first.close()
    write(project / "shared.py", "def value():\n    return 2\n")
    assert other.submit(shared.value).result() == 2
    other.close()
    second.close()
    assert watches() == before
    for _ in range(3):  # other tests may change files below the repository meanwhile
        done.clear()
        third, client = flame(max=1)
        assert client.submit(shared.value, pure=False).result() == 2
        client.close()
        third.close()
        if not done:
            break
    assert not done


def test_an_uploaded_module_is_no_local_code(flame: Flame, tmp_path: Path) -> None:
    cluster, client = flame(max=2)
    version = cluster.local_code.version()
    uploaded = tmp_path / "uploaded_helper.py"
    uploaded.write_text("def value():\n    return 5\n")
    client.upload_file(str(uploaded))
    try:
        assert cluster.local_code.version() == version
        assert "uploaded_helper" not in cluster.local_code.tops

        def value() -> Any:
            import uploaded_helper  # type: ignore[import-not-found]

            return uploaded_helper.value()

        # On the second runner, too, which starts later.
        assert client.gather(client.map(lambda _: value(), range(2), pure=False)) == [5, 5]
    finally:
        sys.modules.pop("uploaded_helper", None)
