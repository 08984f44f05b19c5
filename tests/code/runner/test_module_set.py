"""The modules of a version, from their packed sources, where the driver's folders are not."""

from __future__ import annotations

import importlib
import inspect
import pickle
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import pytest

from dask_flame.code.manifest import Manifest, Root
from dask_flame.code.runner import importing, versions
from dask_flame.code.runner.proxies import ModuleProxy
from dask_flame.code.runner.versions import Versions, using
from dask_flame.core.packs import build, digest

pytestmark = pytest.mark.unit

#: A folder that is not on this machine, as for a runner in a pod.
ELSEWHERE = "/no/such/folder/of/the/driver"


class Runner:
    """The versions of a process that stands for a runner."""

    def __init__(self, folder: Path) -> None:
        self.versions = Versions(folder, lambda: [()], here=False)
        self._sent: list[str] = []

    def send(self, files: dict[str, str], root: str = ELSEWHERE) -> str:
        """Send a version with these files; return its id."""
        contents = {digest(text.encode()): text.encode() for text in files.values()}
        names = {name: digest(text.encode()) for name, text in files.items()}
        manifest = Manifest((Root(root, names),))
        version = manifest.version
        packed = build({**contents, bytes.fromhex(version): manifest.packed()}.items())
        tops = {name.partition(".")[0] for name in manifest.modules()}
        self._sent.append(version)
        self.versions.receive(version, {version: packed}, tops, self._sent, latest=True)
        return version


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[Runner]:
    before, stock, finders = dict(sys.modules), __import__, list(sys.meta_path)
    made = Runner(tmp_path / "code")
    versions.install(made.versions)
    importing.install(made.versions)
    yield made
    import builtins

    builtins.__import__ = stock
    sys.meta_path[:] = finders
    versions._installed.clear()
    for name in set(sys.modules) - set(before):
        if name.partition(".")[0] in made.versions.tops:
            del sys.modules[name]


PACKAGE = {
    "shop/__init__.py": "from .basket import Basket\nNAME = 'shop'\n",
    "shop/basket.py": "from . import prices\n\nclass Basket:\n    def total(self):\n"
    "        return prices.PRICE\n\ndef fail():\n    raise ValueError('out of stock')\n",
    "shop/prices.py": "PRICE = 5\n",
    "shop/lists/names.txt": "apple",
}


def test_a_package_and_its_data(runner: Runner) -> None:
    runner.send(PACKAGE)
    import shop  # type: ignore[import-not-found]
    from shop.basket import Basket  # type: ignore[import-not-found]

    assert shop.Basket is Basket
    assert Basket().total() == 5
    assert type(shop) is ModuleType
    assert (Path(shop.__file__).parent / "lists" / "names.txt").read_text() == "apple"
    from importlib.resources import files

    assert files("shop").joinpath("lists/names.txt").read_text() == "apple"
    assert pickle.loads(pickle.dumps(Basket())).total() == 5
    with pytest.raises(ModuleNotFoundError, match="has to be in the image of the runners"):
        import shop.compiled


def test_tracebacks_show_the_drivers_files_and_the_source_is_known(runner: Runner) -> None:
    runner.send(PACKAGE)
    from shop.basket import fail

    try:
        fail()
    except ValueError as error:
        (last,) = traceback.extract_tb(error.__traceback__)[-1:]
    assert last.filename == f"{ELSEWHERE}/shop/basket.py"
    assert last.line == "raise ValueError('out of stock')"
    assert inspect.getsource(fail).startswith("def fail():")


@pytest.mark.parametrize("no_bytecode", [False, True])
def test_runners_of_a_machine_compile_a_module_once(
    runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_bytecode: bool
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", no_bytecode)
    runner.send(PACKAGE)
    import shop  # type: ignore[import-not-found]

    second = Runner(tmp_path / "code")
    second.send(PACKAGE)
    modules = second.versions.current()
    assert modules is not None
    with mock.patch("builtins.compile", side_effect=AssertionError):
        code = modules.code("shop", f"{ELSEWHERE}/shop/__init__.py")
    assert code == shop.__loader__.get_code("shop")
    with mock.patch("builtins.compile", side_effect=AssertionError), pytest.raises(AssertionError):
        modules.code("shop", "/another/file.py")


def test_two_versions_at_once(runner: Runner) -> None:
    first = runner.send(PACKAGE)
    second = runner.send({**PACKAGE, "shop/prices.py": "PRICE = 6\n"})
    found: dict[str, Any] = {}
    for key, version in (("one", first), ("two", second)):
        runner.versions.begin(key, version)
        with using(runner.versions._of_call[key]):
            import shop

            found[key] = shop.Basket
            assert importlib.import_module("shop.prices").PRICE in (5, 6)
            assert pickle.loads(pickle.dumps(shop.Basket())).__class__ is shop.Basket
    assert found["one"]().total() == 5
    assert found["two"]().total() == 6
    assert found["one"] is not found["two"]
    with using(runner.versions._of_call["one"]), pytest.raises(pickle.PicklingError):
        pickle.dumps(found["two"]())
    runner.versions.end("one")
    # Only one version is left: its modules are in sys.modules, as in any process.
    assert type(sys.modules["shop"]) is ModuleType
    assert sys.modules["shop"].Basket is found["two"]
    runner.versions.end("two")


def test_an_import_that_fails_leaves_nothing(runner: Runner) -> None:
    runner.send({"bad.py": "import worse\n", "worse.py": "1 / 0\n"})
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            importlib.import_module("bad")
        assert not {"bad", "worse"} & sys.modules.keys()


def test_modules_that_replace_themselves_or_are_removed(runner: Runner) -> None:
    runner.send(
        {
            "odd.py": "import sys\n\nclass Odd:\n    x = 3\n\nsys.modules[__name__] = Odd()\n",
            "plain.py": "made = object()\n",
        }
    )
    import odd  # type: ignore[import-not-found]
    import plain  # type: ignore[import-not-found]

    assert odd.x == 3
    assert importlib.import_module("odd") is odd
    first = plain.made
    importlib.reload(plain)
    assert plain.made is not first
    second = plain.made
    del sys.modules["plain"]
    assert importlib.import_module("plain").made is not second


def test_threads_that_import_at_once_execute_a_module_once(runner: Runner) -> None:
    runner.send(
        {
            "slow.py": "import time\nimport threading\nbegan.append(threading.get_ident())\n"
            "time.sleep(0.2)\nDONE = True\n".replace("began", "__import__('sys').began"),
        }
    )
    sys.began = []  # type: ignore[attr-defined]
    seen: list[bool] = []

    def work() -> None:
        import slow  # type: ignore[import-not-found]

        seen.append(slow.DONE)

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert seen == [True] * 5
    assert len(sys.began) == 1  # type: ignore[attr-defined]
    del sys.began  # type: ignore[attr-defined]


def test_a_folder_that_the_runner_has_too_is_used(runner: Runner, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    for name, text in PACKAGE.items():
        (shared / name).parent.mkdir(parents=True, exist_ok=True)
        (shared / name).write_text(text)
    (shared / "large.bin").write_text("not sent")
    runner.send({**PACKAGE, "shop/prices.py": "PRICE = 7\n"}, str(shared))
    import shop

    assert shop.Basket().total() == 7  # the driver's version, not the file's
    assert (Path(shop.__file__).parents[1] / "large.bin").exists()
    # With other data it is another project.
    (shared / "shop/lists/names.txt").write_text("pear")
    runner.send({**PACKAGE, "shop/prices.py": "PRICE = 8\n"}, str(shared))
    importlib.invalidate_caches()
    again = importlib.import_module("shop")
    assert (Path(again.__file__ or "").parent / "lists" / "names.txt").read_text() == "apple"


def test_entries_of_sys_modules_that_a_program_makes(runner: Runner) -> None:
    runner.send(
        {
            "pkg/__init__.py": "",
            "pkg/old.py": "WHO = 'old'\n",
            "pkg/new.py": "import sys\nWHO = 'new'\n"
            "sys.modules['pkg.old'] = sys.modules[__name__]\n",
            "helpers.py": "WHO = 'real'\n",
            "blocked.py": "WHO = 'blocked'\n",
        }
    )
    import pkg.new  # type: ignore[import-not-found]
    import pkg.old  # type: ignore[import-not-found]

    assert pkg.old.WHO == "new"
    import helpers  # type: ignore[import-not-found]

    fake = ModuleType("helpers")
    fake.WHO = "fake"  # type: ignore[attr-defined]
    with mock.patch.dict(sys.modules, {"helpers": fake, "blocked": None}):
        assert importlib.import_module("helpers").WHO == "fake"
        from helpers import WHO  # type: ignore[import-not-found]

        assert WHO == "fake"
        with pytest.raises(ModuleNotFoundError, match="halted"):
            import blocked  # type: ignore[import-not-found]  # noqa: F401
    assert importlib.import_module("helpers").WHO == helpers.WHO == "real"


#: A module that makes others, as the module six does.
MAKER = """
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

__path__ = []


class Finder:
    def find_spec(self, name, path, target=None):
        return ModuleSpec(name, self) if name == "vendored.moves" else None

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        module.Q = 5


sys.meta_path.append(Finder())
"""


def test_finders_that_a_module_adds_are_asked(runner: Runner) -> None:
    runner.send({"vendored.py": MAKER})
    from vendored.moves import Q  # type: ignore[import-not-found]

    assert Q == 5


def test_tools_that_look_at_all_modules_import_none(runner: Runner) -> None:
    files = {"exits.py": "raise SystemExit(3)\n", "fine.py": "X = 1\n"}
    first = runner.send(files)
    second = runner.send({**files, "fine.py": "X = 2\n"})
    for key, version in (("one", first), ("two", second)):
        runner.versions.begin(key, version)
        with using(runner.versions._of_call[key]):
            with pytest.raises(SystemExit):
                importlib.import_module("exits")
            assert importlib.import_module("fine").X in (1, 2)
    third = runner.send({**files, "fine.py": "X = 3\n"})
    runner.versions.begin("three", third)
    with using(runner.versions._of_call["three"]):
        assert isinstance(sys.modules["fine"], ModuleProxy)
        for module in list(sys.modules.values()):
            getattr(module, "__name__", None), getattr(module, "anything", None)
        assert not runner.versions._of_call["three"].modules
        fine = importlib.import_module("fine")
        assert fine.X == 3
        fine.X = 4
        assert importlib.reload(sys.modules["fine"].__spec__.loader.modules.load("fine")).X == 3  # type: ignore[union-attr]


def test_a_module_that_is_imported_while_a_second_version_begins(runner: Runner) -> None:
    began, go = threading.Event(), threading.Event()
    sys.flame_test = (began, go)  # type: ignore[attr-defined]
    slow = "import sys\nsys.flame_test[0].set()\nsys.flame_test[1].wait(30)\nX = 1\n"
    first = runner.send({"slow.py": slow, "other.py": ""})
    runner.versions.begin("one", first)
    found: list[Any] = []

    def work() -> None:
        with using(runner.versions._of_call["one"]):
            import slow

            found.append((type(slow), slow.X))

    thread = threading.Thread(target=work)
    thread.start()
    assert began.wait(30)
    runner.versions.begin("two", runner.send({"slow.py": slow, "other.py": "Y = 1\n"}))
    go.set()
    thread.join(30)
    assert found == [(ModuleType, 1)]
    del sys.flame_test  # type: ignore[attr-defined]


def test_versions_that_nothing_needs_are_dropped(runner: Runner) -> None:
    for number in range(10):
        version = runner.send({"counted.py": f"X = {number}\n"})
        runner.versions.begin("key", version)
        with using(runner.versions._of_call["key"]):
            assert number == importlib.import_module("counted").X
        runner.versions.end("key")
    assert len(runner.versions._sets) == 1
