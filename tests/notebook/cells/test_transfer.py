from __future__ import annotations

import threading
from typing import Any

import pytest

from dask_flame.notebook.cells.transfer import Parcel, pack, unpack

pytestmark = pytest.mark.unit


def notebook(source: str) -> dict[str, Any]:
    """The namespace of a notebook with this cell."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(source, namespace)
    return namespace


def elsewhere(there: dict[str, Any], parcel: Parcel) -> dict[str, str]:
    values, failed = unpack(parcel, there)
    there.update(values)
    return failed


def test_functions_travel_with_what_they_use_and_share_the_namespace() -> None:
    here = notebook(
        "x = 1\nunused = 2\ndef g(): return x\ndef f(): return g()\n"
        "class C:\n    def m(self): return f()\n    held = lambda self: deep()\n"
        "def deep(): return y\ny = 5"
    )
    parcel = pack(here, here, ["C"], follow=True)
    assert not parcel.failed
    assert parcel.users == {"f": "C", "deep": "C", "g": "f", "y": "deep", "x": "g"}
    there: dict[str, Any] = {"__name__": "__main__"}
    assert elsewhere(there, parcel) == {}
    assert "unused" not in there
    assert there["C"]().m() == 1
    there["x"] = 7
    assert there["f"].__globals__ is there
    assert (there["C"]().m(), there["C"]().held()) == (7, 5)
    # On their way back they find what is there, which may have changed.
    there["x"] = 8
    back = pack(there, there, ["g"], follow=False)
    here["x"] = 9
    assert elsewhere(here, back) == {}
    assert here["x"] == 9
    assert here["g"]() == 9


def test_what_cannot_travel_is_named_and_holds_up_nothing_else() -> None:
    here = notebook("import threading\nlock = threading.Lock()\ndef f(): return lock\nx = [1]")
    parcel = pack(here, here, ["x", "f"], follow=True)
    assert list(parcel.failed) == ["lock"]
    assert parcel.failed["lock"] == "TypeError: cannot pickle '_thread.lock' object"
    assert parcel.users == {"lock": "f"}
    assert unpack(parcel, {})[0]["x"] == [1]


def test_what_is_shared_stays_shared() -> None:
    shared: list[int] = []
    here: dict[str, Any] = {
        "a": {"deep": [shared]},
        "b": [shared],
        "c": [1],
        "text": "shared",
        "same": "shared",
        "cell": (lambda: shared),
    }
    parcel = pack(here, here, here.keys(), follow=True)
    assert [names for names, _ in parcel.parts if len(names) > 1] == [("a", "b", "cell")]
    there, _ = unpack(parcel, {})
    assert there["a"]["deep"][0] is there["b"][0] is there["cell"]()
    assert there["c"] == [1]


def test_one_that_cannot_be_unpacked_holds_up_no_other() -> None:
    parcel = pack({"a": [1], "b": _Bad()}, {}, ["a", "b"], follow=True)
    values, failed = unpack(parcel, {})
    assert values == {"a": [1]}
    assert failed == {"b": "ImportError: no such library"}


def test_builtins_stay_what_they_were() -> None:
    here = notebook("def f(): return len([])")
    parcel = pack(here, here, ["f"], follow=True)
    mark = object()
    there: dict[str, Any] = {"__builtins__": mark}
    unpack(parcel, there)
    assert there == {"__builtins__": mark}


def test_threads_unpack_into_their_own() -> None:
    here = notebook("def f(): return x")
    parcel = pack(here, here, ["f"], follow=True)
    found = []

    def one(n: int) -> None:
        there = {"x": n}
        for _ in range(50):
            values, _ = unpack(parcel, there)
            found.append(values["f"]() == n)

    threads = [threading.Thread(target=one, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 200


class _Bad:
    def __reduce__(self) -> Any:
        return _raise, ()


def _raise() -> None:
    raise ImportError("no such library\nat all")
