"""An application is exposed to its user alone, in each of its processes, until it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import stat
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import dask_flame
from dask_flame.attached import places
from dask_flame.attached.application import attachment
from dask_flame.attached.application.server import MOST_ATTACHED, MOST_BEGUN
from dask_flame.attached.client.application import Application
from dask_flame.attached.client.channel import connected
from dask_flame.attached.tokens import prove_to_application
from dask_flame.errors import AttachError
from tests.support import other_user
from tests.support.applications import SHOP, Program, program
from tests.support.other_user import ATTACKER, VICTIM, as_user, attack, shared_folder
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process

FORKING = """
import os, sys, time, warnings
warnings.simplefilter("error")
import dask_flame
dask_flame.expose("forking")
if child := os.fork():
    print("ready", flush=True)
    sys.stdin.readline()
    os.kill(child, 9)
    os.waitpid(child, 0)
else:
    while True: time.sleep(0.1)
"""

STUCK = """
import ctypes, sys
import dask_flame
dask_flame.expose("stuck", log=False)
print("ready", flush=True)
if {in_c}:
    ctypes.CDLL(None).pause()
while True: pass
"""

NOTEBOOK = """
import os, sys
import dask_flame
app = dask_flame.attach("shop")
app.run_cell("kept = bytearray(50_000_000)\\nprint('loops')\\nwhile True: pass",
             on_output=lambda output: print(output["text"], flush=True), timeout=None)
"""


def names() -> list[int]:
    return [one.pid for one in places.instances()]


def test_names_and_loggers_are_checked() -> None:
    for name in ("", "a b", "../x", "-x", "x" * 65, None):
        with pytest.raises(AttachError, match="is not a name for an application"):
            dask_flame.expose(name)  # type: ignore[arg-type]
    with pytest.raises(AttachError, match="is not a logger"):
        dask_flame.expose("shop", log=3)  # type: ignore[arg-type]
    with pytest.raises(AttachError, match="no application is exposed"):
        dask_flame.attach("shop")


def test_exposing_loads_little_and_ends(folder: Path) -> None:
    code = """
        import sys, threading
        import dask_flame
        exposed = dask_flame.expose("shop")
        loaded = {"asyncio", "dask", "distributed", "IPython", "psutil", "tornado"}
        print(sorted(loaded & set(sys.modules)), threading.active_count(), exposed)
        exposed.close()
        print(threading.active_count())
        dask_flame.expose("again")
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    first, second = done.stdout.splitlines()
    assert first.startswith("[] 2 <Exposed 'shop', pid ")
    assert second == "1"
    assert not folder.exists()


def test_the_socket_is_for_its_user_alone(shop: Program, folder: Path) -> None:
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (entry,) = folder.iterdir()
    assert stat.S_IMODE(entry.stat().st_mode) == 0o600
    shop.end()
    assert not folder.exists()


def test_a_socket_of_a_killed_application_is_removed(shop: Program, folder: Path) -> None:
    assert names() == [shop.pid]
    shop.process.kill()
    shop.process.wait()
    assert list(folder.iterdir())
    assert names() == []
    assert not folder.exists()


def test_several_instances_are_listed(shop: Program, tmp_path: Path) -> None:
    with program(SHOP, tmp_path / "second.py") as second:
        with pytest.raises(AttachError) as caught:
            dask_flame.attach("shop")
        said = str(caught.value)
        for one in (shop, second):
            assert f"pid {one.pid}, started 20" in said
        assert "second.py" in said
        assert 'dask_flame.attach("shop", instance=' in said
        with dask_flame.attach("shop", instance=second.pid) as app:
            assert app.pid == second.pid
        with pytest.raises(AttachError, match="has no instance 1:"):
            dask_flame.attach("shop", instance=1)
        listed = {one.pid: one for one in dask_flame.applications()}
        assert listed.keys() == {shop.pid, second.pid}
        assert "shop.py" in listed[shop.pid].command


def test_a_forked_process_is_an_instance_of_its_own(tmp_path: Path) -> None:
    with program(FORKING, tmp_path / "forking.py") as running:
        wait_for(lambda: len(names()) == 2, what="the forked process listens")
        (child,) = set(names()) - {running.pid}
        for pid in (running.pid, child):
            with dask_flame.attach("forking", instance=pid) as app:
                assert app.run("os.getpid()") == pid
        running.end()
        assert running.process.returncode == 0, running.log
        assert running.log.count("has attached") == 2
        assert "Warning" not in running.log
        assert names() == []


def test_a_fork_does_not_keep_its_parents_notebooks(tmp_path: Path) -> None:
    source = FORKING.replace(
        "if child := os.fork():", "sys.stdin.readline()\nif child := os.fork():"
    )
    source = source.replace('expose("forking")', 'expose("forking")\nprint("ready", flush=True)')
    source = source.replace('"error"', '"ignore"')  # a fork with the threads of a notebook
    with program(source, tmp_path / "forking.py") as running:
        app = dask_flame.attach("forking")
        assert running.process.stdin is not None
        running.process.stdin.write("\n")
        running.process.stdin.flush()
        wait_for(lambda: len(names()) == 2, what="the forked process listens")
        (child,) = set(names()) - {running.pid}
        assert app.run("os.getpid()") == running.pid
        running.process.kill()
        wait_for(lambda: not app.attached, what="the end of its connection")
        with dask_flame.attach("forking", instance=child) as other:
            assert other.run("os.getpid()") == child
        os.kill(child, signal.SIGKILL)
        wait_for(lambda: names() == [], what="the end of the forked process")
        app.detach()


@pytest.mark.parametrize("in_c", [False, True])
def test_an_application_that_is_stuck_can_be_attached_to(tmp_path: Path, in_c: bool) -> None:
    with (
        program(STUCK.format(in_c=in_c), tmp_path / "stuck.py") as running,
        dask_flame.attach("stuck") as app,
    ):
        frame = "sys._current_frames()[threading.main_thread().ident]"
        assert app.run(f"import threading\n{frame}.f_lineno") == (7 if in_c else 8)
        assert running.log == ""


def test_readonly_runs_nothing(tmp_path: Path) -> None:
    source = SHOP.replace('expose("shop")', 'expose("shop", readonly=True)')
    with program(source, tmp_path / "shop.py") as running, dask_flame.attach("shop") as app:
        assert app.ask("about")["readonly"] is True
        assert app.is_complete("for x in y:")["status"] == "incomplete"
        for refused in (
            lambda: app.run("basket.goods.clear()"),
            lambda: app.run(print, 1),
            lambda: app.complete("basket."),
            lambda: app.inspect("basket"),
            lambda: app["basket"],
        ):
            with pytest.raises(AttachError, match="exposed with readonly=True"):
                refused()
        with pytest.raises(AttachError, match="is not a question; there are about"):
            app.ask("nothing")
        with pytest.raises(AttachError, match="unexpected keyword argument 'more'"):
            app.ask("about", more=1)
        app.detach()
        assert running.end() == ""


def test_an_answer_in_parts_ends_when_nobody_wants_more(app: Application) -> None:
    app.run(
        "from dask_flame.attached.application.questions import question\n"
        "ends = []\n"
        "@question('count')\n"
        "def count(asked, *, begin=0):\n"
        "    try:\n"
        "        while asked.wait(0.001):\n"
        "            yield begin\n"
        "            begin += 1\n"
        "    finally:\n"
        "        ends.append(begin)\n"
        "@question('fails')\n"
        "def fails(asked): raise FileNotFoundError('no file')\n"
        "0"
    )
    answers = app.ask("count", begin=5)
    assert [next(answers) for _ in range(3)] == [5, 6, 7]
    answers.close()
    wait_for(lambda: app.run("len(ends)") == 1, what="the end of the answer")
    with pytest.raises(AttachError, match="FileNotFoundError: no file"):
        app.ask("fails")


def test_a_killed_notebook_leaves_nothing(shop: Program) -> None:
    with dask_flame.attach("shop") as app:
        app.run("import dask_flame.attached.application.ipython, gc, os")  # stays
        streams = "[type(s).__name__ for s in (sys.stdout.behind, sys.stderr.behind)]"
        streams += ", os._exit.__qualname__, sys.__stdout__ is sys.stdout.behind"
        before = app.run(streams)
        assert before == (["TextIOWrapper", "TextIOWrapper"], "_exit", True)
        # Its own, the one that accepts, and the one of this attachment.
        wait_for(lambda: shop.threads == 3, what="the end of the other threads")
        files = shop.files
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        notebook = subprocess.Popen(
            [sys.executable, "-c", NOTEBOOK], stdout=subprocess.PIPE, text=True, env=environment
        )
        assert notebook.stdout is not None
        assert notebook.stdout.readline() == "loops\n"
        assert shop.threads > 3
        notebook.kill()
        notebook.communicate()
        wait_for(lambda: "has detached" in shop.log, what="the end of the attachment")
        wait_for(lambda: (shop.threads, shop.files) == (3, files), what="the end of its threads")
        held = "[len(o) for o in gc.get_objects() if type(o) is dict and 'kept' in o]"
        assert app.run(f"gc.collect(); {held}") == []
        # Each is replaced once, by this cell.
        assert app.run(streams) == before
    assert shop.end() == ""


def test_many_attachments_leak_nothing(shop: Program) -> None:
    def rounds(count: int) -> None:
        for number in range(count):
            with dask_flame.attach("shop") as app:
                assert app.run(f"x = bytes(100_000)\nprint(end='')\n{number}") == number
                app.complete("basket.")
                app.run_cell("1/0")

    def state() -> tuple[int, int, int, int]:
        with dask_flame.attach("shop") as app:
            return app.run(
                "import gc, linecache, threading, logging\ngc.collect()\n"
                "(len(sys.modules), len(linecache.cache), len(gc.get_objects()), "
                "len(logging.root.manager.loggerDict))"
            )

    rounds(20)
    wait_for(lambda: shop.threads == 2, what="the end of the threads")
    files, before, memory = shop.files, state(), resident(shop.pid)
    rounds(200)
    wait_for(lambda: shop.threads == 2, what="the end of the threads")
    wait_for(lambda: shop.files == files, what="the end of the connections")
    after = state()
    assert after[0] == before[0]
    assert after[1] <= before[1] + 5
    assert after[2] < before[2] + 500
    assert resident(shop.pid) < memory + 20e6  # 200 times 100 kB, and more
    assert {t.name for t in threading.enumerate()}.isdisjoint({"dask-flame-attached"})


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_what_is_no_message_ends_the_connection(shop: Program) -> None:
    (instance,) = places.instances("shop")
    for data in (b"GET / HTTP/1.1\r\n\r\n", b"\0\0\0\4[1]\0", b"\xff" * 100):
        sock = connected(instance.path)
        sock.setblocking(True)
        with sock:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):
                while sock.recv(65536):
                    pass
    with dask_flame.attach("shop") as app:
        assert app.run("1") == 1


def test_who_says_nothing_keeps_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attachment, "_GREET_WITHIN", 0.5)
    with dask_flame.expose("shop", log=False, token="0123456789abcdef") as exposed:
        (instance,) = places.instances("shop")
        server = exposed._server
        port = server._sockets[1].getsockname()[1]
        with contextlib.ExitStack() as silent:
            # One sends a byte at times, which is never a proof.
            slow = silent.enter_context(socket.create_connection((places.LOOPBACK, port)))
            for _ in range(MOST_ATTACHED):
                silent.enter_context(socket.create_connection((places.LOOPBACK, port)))
                silent.enter_context(connected(instance.path))

            def sent() -> bool:
                try:
                    slow.send(b"x")
                except OSError:
                    return True
                return False

            wait_for(sent, what="the slow one is left")
            wait_for(lambda: not server._attached, what="the places are free")
            with dask_flame.attach("shop") as app:
                # It stays beyond the limit for greetings.
                assert app.run("import time\ntime.sleep(1)\n1") == 1


def test_strangers_on_the_port_take_no_place_of_others(shop_port: int) -> None:
    with contextlib.ExitStack() as silent:
        for _ in range(2 * MOST_ATTACHED):
            silent.enter_context(socket.create_connection((places.LOOPBACK, shop_port)))
        with dask_flame.attach("shop") as app:
            assert app.run("1") == 1


def test_strangers_on_the_port_keep_nobody_with_the_token_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    token = "0123456789abcdef"

    def proves(port: int) -> None:
        with socket.create_connection((places.LOOPBACK, port), timeout=60) as sock:
            prove_to_application(sock, token.encode())

    with (
        dask_flame.expose("shop", log=False, token=token) as exposed,
        contextlib.ExitStack() as all,
    ):
        port = exposed._server._sockets[1].getsockname()[1]
        for _ in range(3):
            # More than there are places: the oldest gives its own to who comes.
            for _ in range(MOST_BEGUN + 8):
                all.enter_context(socket.create_connection((places.LOOPBACK, port)))
            proves(port)
            wait_for(lambda: len(exposed._server._attached) <= MOST_BEGUN)
        # Only notebooks that have attached keep others out, which is said.
        monkeypatch.setattr("dask_flame.attached.application.server.MOST_ATTACHED", 1)
        with dask_flame.attach("shop"):
            wait_for(lambda: any(one.greeted for one in exposed._server._attached))
            with pytest.raises(AttachError, match="too many notebooks are attached"):
                proves(port)


def test_secrets_in_command_lines_are_hidden(tmp_path: Path) -> None:
    with program(SHOP, tmp_path / "shop --password=hunter2.py") as running:
        (found,) = dask_flame.applications()
        with dask_flame.attach("shop") as app:
            shown = [found.command, str(app.about), str(app.ask("about")), str(app.processes)]
        with pytest.raises(AttachError, match=f"pid {running.pid}") as caught:
            dask_flame.attach("shop", instance=1)
        for text in (*shown, str(caught.value)):
            assert "--password=" in text
            assert "hunter2" not in text


@pytest.fixture
def shop_port() -> Iterator[int]:
    """The port of an application of this process, which has a token."""
    with dask_flame.expose("shop", log=False, token="0123456789abcdef") as exposed:
        yield exposed._server._sockets[1].getsockname()[1]


@pytest.mark.skipif(bool(other_user.cannot()), reason=other_user.cannot() or "-")
class TestOtherUsers:
    def test_another_user_gets_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with shared_folder() as shared:
            home = shared / "home"
            home.mkdir()
            os.chown(home, VICTIM, VICTIM)
            folder = shared / "sockets"
            monkeypatch.setenv(places.FOLDER, str(folder))
            with program(SHOP, home / "shop.py", as_user(VICTIM)) as running:
                (path,) = map(str, folder.iterdir())
                code = """
import dask_flame
from dask_flame.attached import places
result = [[one.pid for one in places.instances()]]
try:
    socket.socket(socket.AF_UNIX).connect(args[0])
except OSError as error:
    result.append(error.errno)
try:
    dask_flame.attach("shop")
except Exception as error:
    result.append(str(error))
"""
                modules = ("dask_flame.attached.client.attaching",)
                found, number, said = attack(code, path, modules=modules)
                assert found == []
                assert number == 13  # permission denied
                assert "no application of this user" in said
                # Whoever passes the folder, such as root, is refused by the application...
                with pytest.raises(AttachError, match="belongs to"):
                    connected(path)
                sock = socket.socket(socket.AF_UNIX)
                with sock:
                    sock.connect(path)
                    sock.settimeout(60)
                    assert sock.recv(100) == b""
                wait_for(lambda: "was refused: it is another user" in running.log)
                assert names() == []  # ... whose folder is another user's

    def test_a_folder_of_another_user_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with shared_folder() as shared:
            folder = shared / "sockets"
            folder.mkdir(mode=0o700)
            os.chown(folder, ATTACKER, ATTACKER)
            monkeypatch.setenv(places.FOLDER, str(folder))
            with pytest.raises(AttachError, match=f"another user.*{places.FOLDER}="):
                dask_flame.expose("shop")
            folder.rmdir()
            folder.mkdir(mode=0o755)
            folder.chmod(0o755)
            with pytest.raises(AttachError, match="others may enter it"):
                dask_flame.expose("shop")
