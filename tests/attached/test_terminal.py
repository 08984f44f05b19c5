"""``dask flame attach``: IPython in a terminal, with its cells in an application."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest
from click.testing import CliRunner

from dask_flame.cli import flame
from tests.support import exposed as support
from tests.support.exposed import Exposed, exposed
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process

_COMMAND = (sys.executable, "-m", "dask", "flame", "attach")
_PROMPT = r"shop .{0,80}In .{0,40}\["


@pytest.fixture(scope="module", autouse=True)
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with support.own_sockets(tmp_path_factory.mktemp("sockets") / "of"):
        yield


@pytest.fixture(autouse=True)
def folder() -> None:
    """Replace that of each test: the applications of this module have one."""


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Exposed]:
    with exposed(tmp_path) as program:
        yield program


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    # This terminal does not tell where its cursor is.
    own = {"IPYTHONDIR": str(tmp_path / "ipython"), "PROMPT_TOOLKIT_NO_CPR": "1", "TERM": "xterm"}
    return {**os.environ, **own}


@pytest.fixture
def terminal(shop: Exposed, env: dict[str, str], tmp_path: Path) -> Iterator[Any]:
    """A real terminal with the program in it, at its first prompt."""
    command, *arguments = (*_COMMAND, "shop")
    with (tmp_path / "terminal.log").open("w") as log:
        there = pexpect.spawn(
            command, arguments, env=env, encoding="utf-8", timeout=120, dimensions=(40, 120)
        )
        there.logfile_read = log
        try:
            there.expect(_PROMPT)
            yield there
        finally:
            there.close(force=True)


def ended(terminal: Any) -> int:
    """Wait for the end of the program, and return its exit code."""
    terminal.expect(pexpect.EOF)
    return int(terminal.wait())


def test_cells_run_in_the_application_until_it_is_detached(terminal: Any, shop: Exposed) -> None:
    # Completed, with what only the application knows.
    terminal.send("till.ring\t")
    terminal.expect("_up")
    terminal.send("(2, count=3)\r")
    terminal.expect(r"Out.*1.*\]: .*6")
    terminal.expect(_PROMPT)
    terminal.send("print('pid', __import__('os').getpid())\r")
    terminal.expect(f"pid {shop.pid}")
    terminal.expect(_PROMPT)
    terminal.send("till.ring_up?\r")
    terminal.expect("Ring up some pieces")
    terminal.expect(_PROMPT)
    terminal.send("1 / 0\r")
    terminal.expect("ZeroDivisionError")
    terminal.expect(_PROMPT)
    terminal.send("!ls\r")
    terminal.expect("does not work here")
    terminal.expect(_PROMPT)

    terminal.send("print('be' + 'gun'); __import__('threading').Event().wait()\r")
    terminal.expect("begun")
    terminal.sendintr()
    terminal.expect("KeyboardInterrupt")
    terminal.expect(_PROMPT)
    # From the history: the cell before the last.
    terminal.send("\x1b[A\x1b[A\x1b[A\r")
    terminal.expect("ZeroDivisionError")
    terminal.expect(_PROMPT)

    terminal.sendeof()
    terminal.expect("Detached from shop; it goes on")
    assert ended(terminal) == 0
    wait_for(lambda: shop.detached(1))
    assert shop.process.poll() is None


def test_the_end_of_the_application_is_said(terminal: Any, shop: Exposed) -> None:
    shop.kill()
    terminal.send("till\r")
    terminal.expect("AttachError: shop")
    assert ended(terminal) == 1


def test_an_application_that_does_not_answer_can_be_left(terminal: Any, shop: Exposed) -> None:
    shop.process.send_signal(signal.SIGSTOP)
    terminal.send("till\r")
    terminal.expect("till")
    # Several signals that come together are one.
    while terminal.expect(["detached, so that", pexpect.TIMEOUT], timeout=0.5):
        terminal.sendintr()
    assert ended(terminal) == 1
    shop.process.send_signal(signal.SIGCONT)
    wait_for(lambda: shop.detached(1))


def test_cells_come_from_a_pipe_too(shop: Exposed, env: dict[str, str]) -> None:
    cells = "total = sum(basket.values())\nprint('total', total)\n"
    done = subprocess.run(
        [*_COMMAND, "shop"], input=cells, env=env, capture_output=True, text=True, timeout=240
    )
    assert "total 3\n" in done.stdout
    assert done.returncode == 0, done.stderr
    wait_for(lambda: shop.detached(1))


def test_there_has_to_be_such_an_application(shop: Exposed) -> None:
    for words, said in (
        (["shup"], "exposed are shop"),
        (["shop", "--instance", "1"], "has no instance 1"),
        (["not a name"], "'not a name' is not a name"),
    ):
        done = CliRunner().invoke(flame, ["attach", *words])
        assert done.exit_code == 1
        assert done.output.startswith("Error: ")
        assert said in done.output
