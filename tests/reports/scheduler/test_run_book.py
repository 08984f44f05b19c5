"""The scheduler knows each call of a run, from its submission to its end."""

from __future__ import annotations

from typing import Any

import pytest

from dask_flame.core.messages import RUN
from dask_flame.reports.scheduler.run_book import RunBook, submitted

pytestmark = pytest.mark.unit


def described(*keys: str, function: str = "train", run: Any = None) -> dict[str, Any]:
    calls = [(key, f"rate={n}", {"rate": n}) for n, key in enumerate(keys)]
    return {"function": function, "total": len(keys), "run": run, "calls": calls}


def add(book: RunBook, *keys: str, client: str = "c", at: float = 0.0, **about: Any) -> None:
    present = about.pop("present", {})
    with submitted(described(*keys, **about)):
        book.add(client, list(keys), list(keys), {}, present, at)


def names(book: RunBook) -> list[tuple[str, int]]:
    return [(run.name, run.total) for run in book.runs]


def test_a_call_waits_runs_and_ends() -> None:
    book = RunBook(10)
    add(book, "a", "b", at=1.0)
    a = book.get("a")
    assert a is not None
    assert (a.state, a.submitted, a.arguments, a.parameters) == (
        "waiting",
        1,
        "rate=0",
        {"rate": 0},
    )
    book.begin("a", "r1", 2.0)
    book.end("a", "failed", 3.0, "ValueError: no")
    book.end("a", "cancelled", 4.0)  # its future was released
    a = book.get("a")
    assert a is not None
    assert (a.state, a.runner, a.started, a.finished) == ("failed", "r1", 2.0, 3.0)
    assert (a.why, a.attempt) == ("ValueError: no", 1)
    assert book.calls["b"].state == "waiting"


def test_a_call_that_runs_again_is_another_attempt() -> None:
    book = RunBook(10)
    add(book, "a")
    book.begin("a", "r1", 2.0)
    book.end("a", "lost", 3.0)
    book.begin("a", "r2", 4.0)
    a = book.calls["a"]
    assert (a.state, a.attempt, a.runner, a.finished) == ("running", 2, "r2", None)


def test_each_map_is_a_run_and_single_calls_share_one_while_it_lasts() -> None:
    book = RunBook(100)
    add(book, "a", "b")
    add(book, "c", "d")
    for key in "efg":
        add(book, key, function="score")
    assert names(book) == [("train", 2), ("train 2", 2), ("score", 3)]
    for key in "efg":
        book.end(key, "done", 1.0)
    add(book, "h", function="score", at=50.0)  # a loop that waits for each call
    book.end("h", "done", 60.0)
    add(book, "i", function="score", at=200.0)
    add(book, "j", function="train", at=200.0)
    assert names(book)[2:] == [("score", 4), ("score 2", 1), ("train 3", 1)]


def test_clients_have_runs_of_their_own() -> None:
    book = RunBook(100)
    add(book, "a", client="one")
    add(book, "b", client="two")
    assert names(book) == [("train", 1), ("train 2", 1)]


def test_a_named_run_takes_all_calls_of_its_block() -> None:
    book = RunBook(100)
    add(book, "a", "b", run=["id", "sweep"])
    add(book, "c", function="score", run=["id", "sweep"])
    with submitted(None):  # a collection, computed inside of the block
        book.add("c", ["d"], ["d", "part"], {RUN: {"d": ["id", "sweep"]}}, {}, 0.0)
        book.add("c", ["e"], ["e", "part"], {}, {}, 0.0)
    (run,) = book.runs
    assert (run.name, run.total, run.named) == ("sweep", 4, True)
    assert set(book.calls) == set("abcd")


def test_without_descriptions_the_calls_of_a_graph_count_only_if_all_are_wanted() -> None:
    book = RunBook(100)
    book.add("c", ["a", "b"], ["a", "b"], {}, {}, 0.0)
    book.add("c", ["sum"], ["part", "sum"], {}, {}, 0.0)
    assert set(book.calls) == {"a", "b"}


def test_a_call_that_dask_already_knows_keeps_its_state() -> None:
    book = RunBook(100)
    add(book, "a", "b")
    book.begin("a", "r1", 1.0)
    book.end("a", "done", 2.0)
    add(book, "a", "b", present={"a": "done"})
    assert (book.calls["a"].state, book.calls["a"].finished) == ("done", 2.0)
    assert book.calls["b"].state == "waiting"
    assert {call.run for call in book.calls.values()} == {book.runs[1].id}


def test_memory_is_bounded() -> None:
    book = RunBook(10)
    for n in range(300):
        add(book, f"a{n}", f"b{n}")
        book.end(f"a{n}", "done", 1.0)
    assert len(book.calls) == 10
    assert len(book.runs) <= 200
    # Ended ones went first.
    assert [key for key, call in book.calls.items() if call.state != "waiting"] == ["a299"]
    add(book, *(f"c{n}" for n in range(40)))
    assert len(book.calls) == 10
    assert book.runs[-1].total == 40
