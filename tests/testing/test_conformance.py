"""The conformance suite fails backends that break a promise, and passes one that breaks none."""

from __future__ import annotations

import contextlib
import inspect
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dask_flame.testing import conformance
from dask_flame.testing.conformance import BackendConformance, staged
from dask_flame.testing.written_files import WrittenFiles
from tests.testing import broken_backends as broken

pytestmark = pytest.mark.process

CLOSING = "test_closing_ends_all_at_any_moment_and_more_than_once"
GRACE = "test_a_runner_ends_by_itself_in_its_grace_even_after_a_fork_of_the_driver"
SHORTER = "test_a_shorter_grace_holds"
KILLED = "test_nothing_is_left_of_a_driver_that_is_killed"
AWAY = "test_no_answer_is_not_taken_for_none"
CLOSING_AWAY = "test_closing_without_an_answer_does_not_raise"
SAID = "test_what_is_said_of_a_boot_is_said_once_and_of_runners_there_are"
PRINTED = "test_what_a_runner_prints_is_kept"

#: Each broken backend, with the test that has to fail it, and a part of what that says.
BROKEN = [
    (broken.ClosesInWordsOnly, CLOSING, "workers gone"),
    (broken.LeavesConfigurations, CLOSING, "config.json"),
    (broken.KnowsNoGrace, GRACE, "a last word"),
    (broken.FailsInAFork, GRACE, "RuntimeError"),
    (broken.KeepsTheFirstGrace, SHORTER, ""),
    (broken.HasNothingBesideTheDriver, KILLED, "ended with their driver"),
    (broken.LeavesConfigurationsOfTheKilled, KILLED, "private keys"),
    (broken.EndsInSilence, AWAY, "DID NOT RAISE"),
    (broken.RefusesTwice, AWAY, "boot raised"),
    (broken.ClosesWithAnError, CLOSING_AWAY, "nobody answers"),
    (broken.TellsTroubleLate, SAID, "no machine is free"),
    (broken.ForgetsOutput, PRINTED, "one"),
]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that cannot pass any more does not wait for as long as the suite would."""

    def hopeless() -> None:
        monkeypatch.setattr(conformance, "_WITHIN", 1.0)

    wait = conformance._until

    async def until(condition: Callable[[], object], what: str) -> None:
        if "has runners" not in what:
            hopeless()  # its driver has been killed
        await wait(condition, what)

    monkeypatch.setattr(broken, "hopeless", hopeless)
    monkeypatch.setattr(conformance, "_until", until)


async def play(backend: Any, test: str, folder: Path) -> None:
    """Run one test of the suite on a backend."""
    suite = BackendConformance()
    place = f"{backend.__module__}:{backend.__name__}"
    given = {
        "outage": broken.outage,
        "driver": place,
        "processes_here": True,
        "factory": backend,
        "tmp_path": folder,
    }
    method = getattr(suite, test)
    wanted = inspect.signature(method).parameters
    async with contextlib.AsyncExitStack() as stack:
        if "stage" in wanted:
            given["stage"] = stage = await stack.enter_async_context(staged(backend))
            stack.push_async_callback(stage.backend.really_close)
        await method(**{name: given[name] for name in wanted})


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("backend", "test", "says"), BROKEN, ids=[backend.__name__ for backend, _, _ in BROKEN]
)
@pytest.mark.usefixtures("impatient")
async def test_one_that_breaks_a_promise_fails(
    backend: Any, test: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # For files that it leaves, and its driver.
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises((Exception, pytest.fail.Exception)) as caught:
        await play(backend, test, tmp_path)
    assert says in str(caught.value)


@pytest.mark.asyncio
@pytest.mark.parametrize("test", sorted({test for _, test, _ in BROKEN}))
async def test_one_that_keeps_all_promises_passes(test: str, tmp_path: Path) -> None:
    await play(broken.Faraway, test, tmp_path)


def test_files_that_are_written_anywhere_are_found(tmp_path: Path) -> None:
    with WrittenFiles() as written:
        (tmp_path / "a").write_text("the word")
        (tmp_path / "b").write_text("another")
        with open(tmp_path / "draft", "w") as file:
            file.write("the word")
        (tmp_path / "draft").rename(tmp_path / "c")
        (tmp_path / "d").write_text("the word")
        (tmp_path / "d").unlink()
    (tmp_path / "later").write_text("the word")
    assert written.with_text("the word") == [str(tmp_path / "a"), str(tmp_path / "c")]
