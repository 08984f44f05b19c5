"""Looking inside a running application, without code: over its channel, and from a terminal."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import dask_flame
from dask_flame.attached import places
from dask_flame.attached.application import looks
from dask_flame.attached.client import looks as client_looks
from dask_flame.attached.looking import outside
from dask_flame.cli.commands import flame as command
from dask_flame.errors import AttachError
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process

PROGRAM = """
import asyncio, logging, sys, threading, time, tracemalloc
import dask_flame

tracemalloc.start()
logging.basicConfig(level="INFO", filename=sys.argv[1], format="%(message)s")
log = logging.getLogger("shop")
log.info("before token=hunter2-hunter2")
basket = [bytes(1000) for _ in range(100)]

async def checkout():
    await asyncio.sleep(3600)

async def main():
    asyncio.create_task(checkout(), name="the checkout")
    await asyncio.sleep(3600)

threading.Thread(target=asyncio.run, args=(main(),), name="the loop", daemon=True).start()

def talk():
    for n in range(10**9):
        log.info("line %s", n)
        time.sleep(0.01)

threading.Thread(target=talk, name="the talker", daemon=True).start()
dask_flame.expose("shop", readonly=True)
print("ready", flush=True)
sys.stdin.readline()
print("held", flush=True)
7 ** (7 ** 99)
"""


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine an answer takes its time."""
    monkeypatch.setattr(client_looks, "WITHIN", 60.0)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[str]]:
    """An application that is exposed for looking only."""
    monkeypatch.setenv(places.FOLDER, str(tmp_path / "sockets"))
    file = tmp_path / "shop.py"
    file.write_text(PROGRAM)
    arguments = [sys.executable, str(file), str(tmp_path / "shop.log"), "--password", "hunter2"]
    with subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def _run(*arguments: str) -> Any:
    return CliRunner().invoke(command, arguments, catch_exceptions=False)


def test_everything_can_be_looked_at_even_if_nothing_may_be_run(
    shop: subprocess.Popen[str],
) -> None:
    with dask_flame.attach("shop") as app:
        wait_for(lambda: "the checkout" in [task.name for task in app.stacks().tasks])
        found = app.stacks()
        names = {thread.name for thread in found.threads}
        assert {"MainThread", "the loop", "the talker"} <= names
        # Those that serve the notebook are left out.
        assert not [name for name in names if name.startswith("dask-flame")]
        assert found.pid == shop.pid
        assert any(task.name == "the checkout" for task in found.tasks)
        main = next(t for t in found.threads if t.name == "MainThread")
        assert main.lines[-1].source == "sys.stdin.readline()"
        memory = app.memory(most=3, limit=30)
        assert memory.traced
        assert memory.lines
        assert len(memory.types) == 3
        assert app.modules["dask_flame"].version == dask_flame.__version__
        assert app.versions.packages["dask-flame"] == dask_flame.__version__
        processes = app.processes
        assert [each.pid for each in processes] == [shop.pid]
        assert "hunter2" not in repr(processes)
        assert "no FlameCluster" in repr(app.pools)
        with pytest.raises(AttachError, match="readonly"):
            app.run("1")


def test_the_log_is_followed_and_left_as_it_was(shop: subprocess.Popen[str]) -> None:
    with dask_flame.attach("shop") as app:
        earlier = app.log()
        assert "before token=…" in repr(earlier)
        assert "from where this process keeps them" in earlier.since
        lines = app.log(follow=True)
        news = [line for line in (next(lines) for _ in range(200)) if line.number]
        assert all(line.text.startswith("line ") for line in news)
        numbers = [int(line.text.split()[1]) for line in news]
        assert numbers == list(range(numbers[0], numbers[0] + len(news)))
        # It is closed while the application waits for the next line.
        lines.close()
        assert app.stacks().pid == shop.pid


def test_an_application_that_holds_its_interpreter_is_read_from_outside(
    shop: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outside, "_program", lambda: None)
    monkeypatch.setattr(client_looks, "WITHIN", 0.5)
    assert shop.stdin is not None
    assert shop.stdout is not None
    with dask_flame.attach("shop") as app:
        shop.stdin.write("\n")
        shop.stdin.flush()
        assert shop.stdout.readline() == "held\n"

        def silent() -> Any:
            found = app.stacks()
            return found if found.how == "system" else None

        found = wait_for(silent)
        assert "has not answered within 0.5 s" in found.note
        assert "pip install py-spy" in found.note
        assert shop.pid in [thread.native for thread in found.threads]


def test_a_terminal_lists_applications_and_shows_their_stacks(
    shop: subprocess.Popen[str],
) -> None:
    # The backend matters for clusters only; the local one would look at those of other tests.
    listed = _run("apps")
    assert f"shop         {shop.pid}" in listed.output
    assert "hunter2" not in listed.output
    found = json.loads(_run("apps", "--output", "json").output)
    assert [(one["application"], one["pid"]) for one in found] == [("shop", shop.pid)]
    assert "APPLICATION" in _run("ps").output
    shown = _run("stacks", "shop").output
    assert "Thread the talker" in shown
    (one,) = json.loads(_run("stacks", "shop", "--json").output)
    assert one["pid"] == shop.pid
    wrong = _run("stacks", "no-such-thing")
    assert "there is no application or cluster no-such-thing" in wrong.output
    assert wrong.exit_code


def test_the_tap_of_the_log_is_opened_once_for_all_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    from dask_flame.attached.application.questions import Asked

    asked = Asked("shop")
    parts = looks.log(asked, follow=True)
    assert "since" in next(parts)
    other = looks.log(Asked("shop"))
    next(other)
    other.close()
    assert looks.tap()._readers == 1
    asked.over.set()
    assert list(parts) == []
    assert looks.tap()._readers == 0
