"""Runners that are forked from a template: what they share, and what must not be forked."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask.config
import psutil
import pytest

import dask_flame.backends.local.fork_server as template_program
import dask_flame.backends.local.supervisor.__main__ as supervisor_program
from dask_flame.backends.local import LocalBackend
from dask_flame.backends.specs import BackendContext, RunnerSpec
from dask_flame.core.processes import MARK, NO_MARK, mark_of
from dask_flame.errors import BootError, BootTimeout
from dask_flame.testing.conformance import BackendConformance
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process

linux = pytest.mark.skipif(sys.platform != "linux", reason="templates are for Linux")


class TestWithoutTemplate(BackendConformance):
    @pytest.fixture
    def factory(self) -> Any:
        with dask.config.set({"flame.local.fork": False}):
            yield LocalBackend

    @pytest.fixture
    def driver(self) -> str:
        return "dask_flame.backends.local:LocalBackend"


def supervisor_of(cluster: Any) -> psutil.Process:
    return psutil.Process(cluster.backend._supervisor.pid)


def templates(cluster: Any) -> list[psutil.Process]:
    """The templates of a cluster: what is started as one, and has not become a runner."""
    found = []
    for process in supervisor_of(cluster).children():
        # One may end while it is looked at.
        with contextlib.suppress(psutil.Error):
            if "template" in process.cmdline():
                found.append(process)
    return found


def template(cluster: Any) -> psutil.Process:
    return wait_for(lambda: templates(cluster))[0]


@pytest.fixture
def imported(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kinds of templates that have imported all they need, one entry for each template."""
    kinds: list[str] = []
    hear = LocalBackend._receive

    def noting(self: LocalBackend, message: dict[str, Any]) -> None:
        if message["ev"] == "importing" and not message["module"]:
            kinds.append(message["key"])
        hear(self, message)

    monkeypatch.setattr(LocalBackend, "_receive", noting)
    return kinds


def look(dask_worker: Any) -> dict[str, Any]:
    """What a runner finds in itself."""
    here = "/proc/self/fd"
    open_here = []
    for descriptor in os.listdir(here):
        if os.path.exists(f"{here}/{descriptor}"):
            open_here.append(os.readlink(f"{here}/{descriptor}"))
    numpy = sys.modules.get("numpy")
    return {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "name": dask_worker.name,
        "mark": os.environ[MARK],
        "leads": os.getpgrp() == os.getsid(0) == os.getpid(),
        "temporary": tempfile.gettempdir(),
        "random": random.random(),
        "numpy": None if numpy is None else float(numpy.random.random()),
        "pipes": [link for link in open_here if link.startswith("pipe:")],
        "terminates": signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN,
        "threads": sorted(t.name for t in threading.enumerate()),
    }


@linux
def test_what_each_forked_runner_has_of_its_own(flame: Any) -> None:
    cluster, client = flame(min=4, max=4, preload=["numpy.random"])
    client.wait_for_workers(4, timeout=60)
    found = list(client.run(look).values())
    assert len(found) == 4
    supervisor = supervisor_of(cluster)
    for one in found:
        process = psutil.Process(one["pid"])
        assert one["parent"] == supervisor.pid
        assert [word for word in process.cmdline() if word] == ["dask-flame", one["name"]]
        assert mark_of(process) == one["mark"]
        assert one["mark"].endswith(f"/{one['name']}")
        assert one["leads"]
        assert Path(one["temporary"]).name == one["name"]
        # Its leash, and its output twice.
        assert len(one["pipes"]) == 3
        assert one["terminates"]
        assert not [name for name in one["threads"] if name not in ("MainThread", "flame-leash")]
    for what in ("random", "numpy", "temporary", "pid"):
        assert len({one[what] for one in found}) == 4, what
    leashes = [pipe for one in found for pipe in set(one["pipes"])]
    assert len(set(leashes)) == 8


@linux
def test_what_was_imported_before_is_shared(flame: Any) -> None:
    cluster, client = flame(min=4, max=4, preload=["pandas"])
    client.wait_for_workers(4, timeout=60)
    assert all(client.run(lambda: "pandas" in sys.modules).values())

    def memory(pid: int) -> tuple[int, int]:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        sizes = {words[0]: int(words[1]) for words in map(str.split, lines[1:])}
        return sizes["Rss:"], sizes["Pss:"]

    for worker in cluster.scheduler.workers.values():
        whole, share = memory(worker.pid)
        assert share < 0.6 * whole


@linux
@linux
def test_a_runner_imports_nothing_of_ours_after_its_fork(flame: Any) -> None:
    _, client = flame(max=1)
    script = "import sys, dask_flame.runner.__main__, dask_flame.runner.start\n"
    script += "from dask_flame.backends.local import fork_server\n"
    script += "fork_server._warm()\nprint(*sys.modules)"
    template = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout
    # Builtin, because the module of this test imports others.
    names = client.submit(
        eval, "__import__('dask_flame').report(step=1) and [*__import__('sys').modules]"
    )
    ours = {name for name in names.result() if name.startswith("dask_flame")}
    assert ours - set(template.split()) == set()


def test_exit_codes_and_signals_of_forked_runners(flame: Any) -> None:
    cluster, client = flame(max=1, boot_attempts=1)
    for end, why in (
        (lambda: os._exit(7), "exit code 7"),
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), "SIGSEGV"),
    ):
        future = client.submit(end, pure=False, retries=0)
        wait_for(lambda why=why: any(why in e.reason for e in cluster.events if e.kind == "lost"))
        future.cancel()
    assert client.submit(int, 3).result(timeout=60) == 3


def module(folder: Path, name: str, text: str) -> str:
    (folder / f"{name}.py").write_text(text)
    return name


THREAD = (
    "import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()"
)
SOCKET = "import socket\nheld = socket.socket()"
#: Notes that it is imported, and whether for the first time.
_SEEN = """
import pathlib
seen = pathlib.Path(__file__).with_name("seen")
first = not seen.exists()
seen.touch()
"""
LOOP = "import asyncio\nheld = asyncio.new_event_loop()"
FILE = "held = open(__file__)"
TITLE = (
    "import ctypes\n"
    "from dask_flame.core.processes import mark_address\n"
    "if (found := mark_address()) is not None:\n"
    "    ctypes.memset(found, 0, 8)\n"
)
PROCESS = (
    "import subprocess, sys\n"
    "held = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])"
)


@linux
@pytest.mark.parametrize(
    ("text", "why"),
    [
        (THREAD, "starts threads"),
        (SOCKET, "opens a socket"),
        (LOOP, "opens "),
        (PROCESS, "starts a process"),
        (FILE, "opens a file"),
        (TITLE, "writes over the environment"),
    ],
)
def test_a_preload_that_cannot_be_forked_is_named_and_runners_start_without(
    text: str,
    why: str,
    flame: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    first = module(tmp_path, "harmless_preload", "")
    second = module(tmp_path, "stubborn_preload", text)
    cluster, client = flame(max=1, preload=[first, second])
    assert client.submit(lambda: "stubborn_preload" in sys.modules).result(timeout=60)
    (said,) = [r.getMessage() for r in caplog.records if "preload=" in r.getMessage()]
    assert "preload='stubborn_preload'" in said
    assert why in said
    wait_for(lambda: not templates(cluster))

    def started() -> list[int]:
        below = supervisor_of(cluster).children(recursive=True)
        runners = {ws.pid for ws in cluster.scheduler.workers.values()}
        return [p.pid for p in below if p.pid not in runners and p.ppid() not in runners]

    # Nothing of what the template had begun.
    wait_for(lambda: not started())


@pytest.mark.parametrize("proc", ["/proc", "/nowhere"], ids=["told", "not told"])
@linux
def test_children_are_known_whether_the_kernel_tells_them_or_not(proc: str) -> None:
    def known(start: str, end: str = "") -> list[bool]:
        code = (
            "import os, subprocess\n"
            "from pathlib import Path\n"
            "from dask_flame.backends.local.fork_server import has_children\n"
            f"proc = Path({proc!r})\n"
            "before = has_children(proc)\n"
            f"{start}\n"
            "print(before, has_children(proc))\n"
            f"{end}"
        )
        said = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True)
        return [word == b"True" for word in said.stdout.split()]

    assert known("pass") == [False, False]
    assert known("child = subprocess.Popen(['sleep', '60'])", "child.kill()") == [False, True]
    dead = "pid = os.fork() or os._exit(0); os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)"
    assert known(dead) == [False, True]
    assert known(dead + "; os.waitpid(pid, 0)") == [False, False]


@linux
@pytest.mark.parametrize("env", [None, {"ITS": "own"}], ids=["first", "started"])
def test_what_a_preload_prints_is_shown_once_for_all_runners(
    env: dict[str, str] | None,
    flame: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    text = (
        "import os, warnings\n"
        "print('loading')\n"
        "warnings.warn('too old', stacklevel=2)\n"
        "os.write(1, b'from below\\n')\n"
    )
    name = module(tmp_path, "talking_preload", text)
    cluster, client = flame(min=3, max=3, preload=[name], env=env)
    client.wait_for_workers(3, timeout=60)
    seen = ""

    def shown() -> bool:
        nonlocal seen
        seen += capsys.readouterr().out
        return "[preload] from below\n" in seen and "[preload] loading\n" in seen

    wait_for(shown)
    assert client.run(print, "hello")  # what runners have yet to print, they print before this
    wait_for(lambda: shown() and seen.count("hello") == 3)
    assert seen.count("loading") == seen.count("from below") == 1
    assert seen.count("UserWarning: too old") == 1
    wait_for(lambda: "UserWarning: too old" in cluster.get_logs()["preload"])


@linux
def test_what_a_preload_prints_in_vain_is_not_shown(
    flame: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    name = module(tmp_path, "talking_thread", "print('loading')\n" + THREAD)
    _, client = flame(max=1, preload=[name])
    assert client.submit(int, 1).result(timeout=60) == 1
    seen = ""

    def shown() -> bool:
        nonlocal seen
        seen += capsys.readouterr().out
        return "[runner-1] loading\n" in seen

    wait_for(shown)
    assert "[preload]" not in seen


@linux
@pytest.mark.parametrize("fork", [True, False])
def test_a_preload_that_takes_too_long_is_named_with_the_timeout(
    fork: bool, flame: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    name = module(tmp_path, "slow_preload", f"{_SEEN}\nimport time; time.sleep(600)")

    def held() -> list[Any]:
        return [e for e in cluster.events if e.kind == "held"]

    with dask.config.set({"flame.local.fork": fork}):
        cluster, client = flame(max=1, preload=["json", name], boot_attempts=1)
        future = client.submit(int, 1)
        wait_for(held if fork else (tmp_path / "seen").exists)
        cluster.resize(boot_timeout="100ms")
        with pytest.raises(BootTimeout) as caught:
            future.result(timeout=60)
    said = str(caught.value)
    assert "preload=['json', 'slow_preload'] is imported within boot_timeout=0.1 s; where" in said
    assert 'write boot_timeout="0.4s"' in said
    if fork:
        assert "held up by the import of preload='slow_preload')" in said
        (told,) = held()
        assert told.reason == "the import of preload='slow_preload'"


#: Kills the process that a wave is forked by, once: before, or after, so many of its forks.
DIES = """
import os, signal
from pathlib import Path

template, forks = os.getpid(), dict()

def die(after):
    me = os.getpid()
    forks[me] = forks.get(me, 0) + after
    done = Path(__file__).with_name("died")
    if os.getppid() == template and forks[me] == {forks} and not done.exists() and {when}:
        done.touch()
        os.kill(os.getpid(), signal.SIGKILL)

os.register_at_fork(before=lambda: die(0), after_in_parent=lambda: die(1))
"""


@linux
@pytest.mark.parametrize(
    ("forks", "when"),
    [(0, "not after"), (1, "after"), (2, "not after"), (3, "after")],
    ids=["before the first", "after the first", "before the third", "after the last"],
)
def test_what_forks_a_wave_dies_alone(
    forks: int, when: str, flame: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has forked and not told of is ended, and all of the wave are there in the end."""
    monkeypatch.syspath_prepend(str(tmp_path))
    name = module(tmp_path, "deadly_preload", DIES.format(forks=forks, when=when))
    cluster, client = flame(min=3, max=3, preload=[name])
    client.wait_for_workers(3, timeout=60)
    assert (tmp_path / "died").exists()
    (kept,) = templates(cluster)  # it is none the worse
    pids = set(client.run(os.getpid).values())
    assert len(pids) == 3
    assert [e.kind for e in cluster.events if e.kind in ("failed", "lost", "retire")] == []
    assert {r for e in cluster.events if e.kind == "ready" for r in e.runners} == {
        "runner-1",
        "runner-2",
        "runner-3",
    }
    # Nobody else: a runner that was forked and not spoken of is gone.
    wait_for(
        lambda: (
            {p.pid for p in supervisor_of(cluster).children(recursive=True)} == pids | {kept.pid}
        )
    )
    assert sorted(client.gather(client.map(abs, range(-9, 0)))) == list(range(1, 10))


@linux
def test_a_preload_that_was_edited_is_imported_again(
    flame: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    name = module(tmp_path, "edited_preload", "answer = 1")
    cluster, client = flame(max=1, single_use=True, preload=[name])

    def answer() -> int:
        return sys.modules["edited_preload"].answer  # type: ignore[no-any-return]

    assert client.submit(answer, pure=False).result(timeout=60) == 1
    before = template(cluster).pid
    module(tmp_path, name, "answer = 1 + 1")
    assert client.submit(answer, pure=False).result(timeout=60) == 2
    wait_for(lambda: {process.pid for process in templates(cluster)} - {before})


@linux
def test_the_environment_is_the_drivers_of_now(flame: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAME_TEST_TODAY", "one")
    cluster, client = flame(max=1, single_use=True)

    def today() -> str | None:
        return os.environ.get("FLAME_TEST_TODAY")

    assert client.submit(today, pure=False).result(timeout=60) == "one"
    before = template(cluster).pid
    assert client.submit(today, pure=False).result(timeout=60) == "one"
    assert template(cluster).pid == before
    monkeypatch.setenv("FLAME_TEST_TODAY", "two")
    assert client.submit(today, pure=False).result(timeout=60) == "two"
    monkeypatch.delenv("FLAME_TEST_TODAY")
    assert client.submit(today, pure=False).result(timeout=60) is None
    wait_for(lambda: len(templates(cluster)) == 1, what="those of before are gone")


@linux
def test_the_environment_changes_while_runners_are_being_forked(
    flame: Any, monkeypatch: pytest.MonkeyPatch, imported: list[str]
) -> None:
    cluster, client = flame(max=3)
    before = template(cluster)
    # While it imports, runners start without it, and it would have nothing to be kept for.
    wait_for(lambda: imported)
    before.suspend()
    futures = client.map(int, [1, 2], pure=False)
    # Listed is not asked for: they get the environment of the moment in which they are.
    wait_for(lambda: len(cluster.backend._kind_of) == 2, what="the supervisor is asked for both")
    monkeypatch.setenv("FLAME_TEST_TODAY", "changed")
    assert client.submit(os.getenv, "FLAME_TEST_TODAY", pure=False).result(timeout=60) == "changed"
    assert any(name == "runner-3" for name in cluster.observed)
    before.resume()
    wait_for(lambda: len(cluster.observed) == 3, what="none of them is lost")
    assert client.gather(futures) == [1, 2]
    wait_for(lambda: not before.is_running(), what="the template of before has no use")
    assert not [e for e in cluster.events if e.kind in ("failed", "lost")]


@linux
def test_pools_that_need_the_same_share_a_template(flame: Any) -> None:
    from dask_flame import Pool

    pools = {"one": Pool(min=1, max=1), "two": Pool(min=1, max=1), "other": Pool(max=1, cpus=1)}
    cluster, client = flame(pools=pools)
    client.wait_for_workers(2, timeout=60)
    assert len(templates(cluster)) == 2


@linux
def test_a_template_that_is_killed_is_replaced(flame: Any, imported: list[str]) -> None:
    cluster, client = flame(max=2, single_use=True)
    # While it imports: then runners start without it.
    template(cluster).kill()
    assert client.submit(int, 1, pure=False).result(timeout=60) == 1
    # While it waits; and again, with what it is asked for on its way to it.
    for asked_before in (False, True):
        assert client.submit(int, 2, pure=False).result(timeout=60) == 2
        here = template(cluster)
        if asked_before:
            wait_for(lambda: len(imported) == 3, what="the two before it, and this one")
            here.suspend()
            futures = client.map(int, [3, 4], pure=False)
            wait_for(lambda: cluster.backend._kind_of, what="the supervisor is asked for a runner")
            here.kill()
            assert client.gather(futures) == [3, 4]
        else:
            here.kill()
            wait_for(lambda here=here: not here.is_running())
    assert client.submit(int, 5, pure=False).result(timeout=60) == 5
    assert template(cluster).is_running()


@linux
def test_a_runner_that_waits_for_its_template_can_be_ended(flame: Any) -> None:
    cluster, client = flame(max=1)
    here = template(cluster)
    here.suspend()
    future = client.submit(int, 1)
    wait_for(lambda: cluster.runners)
    cluster.scale(0)
    wait_for(lambda: not cluster.runners)
    here.resume()
    cluster.adapt(minimum=0, maximum=1)
    assert future.result(timeout=60) == 1


@linux
def test_a_preload_that_hangs_is_given_up_with_the_boot_that_waits_for_it(
    flame: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    once = (
        "import pathlib, time\n"
        "seen = pathlib.Path(__file__).with_name('seen')\n"
        "if not seen.exists():\n"
        "    seen.touch()\n"
        "    time.sleep(600)\n"
    )
    name = module(tmp_path, "hanging_preload", once)
    cluster, client = flame(max=1, preload=[name], boot_timeout=10)
    assert client.submit(int, 1).result(timeout=60) == 1
    (late,) = [e for e in cluster.events if e.kind == "retire"]
    assert "boot_timeout=10 s" in late.reason


@linux
def test_a_wave_larger_than_a_template_takes_at_once(flame: Any) -> None:
    from dask_flame.backends.local.fork_server import MOST_AT_ONCE

    many = MOST_AT_ONCE + 6
    cluster, client = flame(min=many, max=many)
    client.wait_for_workers(many, timeout=120)
    assert not [e for e in cluster.events if e.kind in ("failed", "lost")]
    assert len(set(client.run(os.getpid).values())) == many


@linux
def test_a_fork_takes_the_time_of_a_fork(flame: Any) -> None:
    """No import is left to do: what a runner imports after its fork is an import too many."""
    _, client = flame(max=1)

    def imported() -> list[str]:
        # What has been imported since the fork is not frozen.
        import gc

        fresh = {id(thing) for thing in gc.get_objects()}
        modules = [name for name, m in sys.modules.items() if id(m.__dict__) in fresh]
        return [name for name in modules if not name.startswith("test_")]

    new = client.submit(imported).result(timeout=60)
    assert len(new) < 20, new


def main_file() -> str:
    return str(vars(sys.modules["__main__"])["_program"].__file__)


@linux
def test_the_first_template_is_a_fork_of_the_supervisor_unless_its_pool_names_variables(
    flame: Any,
) -> None:
    cluster, client = flame(max=1)
    assert client.submit(main_file).result(timeout=60) == supervisor_program.__file__
    assert supervisor_of(cluster).environ()[MARK] == NO_MARK
    cluster, client = flame(max=1, env={"LD_LIBRARY_PATH": "/nowhere"})
    assert client.submit(main_file).result(timeout=60) == template_program.__file__
    assert client.submit(os.getenv, "LD_LIBRARY_PATH").result(timeout=60) == "/nowhere"
    assert supervisor_of(cluster).environ().get("LD_LIBRARY_PATH") != "/nowhere"


@linux
@pytest.mark.parametrize("said", ["nothing", "half a line", "another kind", "no fork", "this kind"])
def test_a_supervisor_forks_for_the_kind_that_it_was_started_for_only(said: str) -> None:
    kind = {"op": "kind", "key": "k", "env": dict(os.environ), "own": [], "preload": [], "path": []}
    kind |= {"flags": [], "cwd": None}
    line = json.dumps({**kind, "fork": said != "no fork"}).encode()
    words = {
        "nothing": b"",
        "half a line": line[:20],
        "another kind": line.replace(b'"k"', b'"other"') + b"\n",
    }.get(said, line + b"\n")
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            arguments = [
                str(theirs.fileno()),
                "test-supervisor",
                str(os.getpid()),
                "",
                "",
                "0",
                "k",
            ]
            supervisor = subprocess.Popen(
                [sys.executable, "-P", supervisor_program.__file__, *arguments],
                pass_fds=(theirs.fileno(),),
                env={**os.environ, MARK: NO_MARK},
            )
        try:
            ours.sendall(words)
            ours.settimeout(60)
            assert json.loads(ours.makefile("rb").readline())["ev"] == "hello"
            below = psutil.Process(supervisor.pid).children

            def names() -> list[bool]:
                return [child.cmdline()[:2] == ["dask-flame", "template"] for child in below()]

            wait_for(lambda: names() == [True] * (said in ("another kind", "this kind")))
            template = below()
        finally:
            ours.close()
            assert supervisor.wait(timeout=60) == 0
        wait_for(lambda: not any(child.is_running() for child in template))


@linux
@pytest.mark.asyncio
async def test_a_template_of_a_former_kind_goes_with_the_last_that_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    hangs = module(tmp_path, "hanging_preload", "import time\ntime.sleep(600)")
    ended: list[str] = []
    backend = LocalBackend(
        BackendContext(cluster="leaving", ended=lambda end: ended.append(end.name))
    )
    await backend.start()
    try:
        supervisor = psutil.Process(backend._supervisor.pid)  # type: ignore[union-attr]
        spec = RunnerSpec(
            name="waits",
            scheduler="tcp://127.0.0.1:1",
            concurrency=1,
            boot_timeout=60,
            preload=[hangs],
        )
        await backend.boot([spec])
        await asyncio.to_thread(wait_for, supervisor.children)
        (former,) = supervisor.children()
        # Another environment: the pool's runners are of another kind from now on.
        backend.expect([replace(spec, preload=[], env={"NEW": "kind"})])
        await asyncio.to_thread(wait_for, lambda: len(supervisor.children()) == 2)
        assert former.is_running()
        await backend.end(["waits"])
        assert ended == ["waits"]
        await asyncio.to_thread(wait_for, lambda: former not in supervisor.children())
    finally:
        await backend.close()


@linux
def test_the_supervisor_may_open_many_files_and_what_it_starts_as_many_as_usual(flame: Any) -> None:
    usual = resource.getrlimit(resource.RLIMIT_NOFILE)
    lower = (min(usual[0], 500), usual[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, lower)
    try:
        cluster, client = flame(max=1)
        assert client.submit(resource.getrlimit, resource.RLIMIT_NOFILE).result(timeout=60) == lower
        assert supervisor_of(cluster).rlimit(resource.RLIMIT_NOFILE) == (lower[1], lower[1])
        cluster, client = flame(max=1, env={"OTHER": "kind"})
        assert client.submit(resource.getrlimit, resource.RLIMIT_NOFILE).result(timeout=60) == lower
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, usual)


@linux
def test_a_mark_is_written_over_dots() -> None:
    script = (
        "import os, psutil\n"
        "from dask_flame.core.processes import MARK, set_command_line, write_mark\n"
        "write_mark('cluster-1/runner-2')\n"
        "set_command_line('runner-2')\n"
        "me = psutil.Process()\n"
        "print(me.environ()[MARK].rstrip('.'), [w for w in me.cmdline() if w])\n"
        "try:\n"
        "    write_mark('again')\n"
        "except ValueError as error:\n"
        "    print(error)\n"
    )
    environment = {**os.environ, MARK: NO_MARK}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        "cluster-1/runner-2 ['dask-flame', 'runner-2']",
        "there is no room for the mark 'again'",
    ]


def test_without_templates_where_they_are_not_wanted(flame: Any) -> None:
    with dask.config.set({"flame.local.fork": False}):
        cluster, client = flame(max=1)
        assert client.submit(int, 1).result(timeout=60) == 1
        assert not templates(cluster)
        process = psutil.Process(next(iter(cluster.scheduler.workers.values())).pid)
        assert "runner/__main__.py" in " ".join(process.cmdline())


@linux
def test_calls_start_processes_of_every_kind(flame: Any) -> None:
    _, client = flame(max=1)

    def starts() -> list[int]:
        import multiprocessing

        found = []
        for how in ("fork", "spawn"):
            with multiprocessing.get_context(how).Pool(1) as pool:
                found.append(pool.apply(abs, (-3,)))
        return found

    def ends() -> list[int | None]:
        import multiprocessing

        codes = []
        context = multiprocessing.get_context("fork")
        for number in (signal.SIGTERM, signal.SIGINT):
            ours, theirs = context.Pipe()

            def sleep(theirs: Any = theirs) -> None:
                theirs.send("there")
                time.sleep(600)

            process = context.Process(target=sleep)
            process.start()
            assert process.pid is not None
            if number is signal.SIGINT:
                ours.recv()
            os.kill(process.pid, number)
            process.join(60)
            codes.append(process.exitcode)
        return codes

    assert client.submit(starts).result(timeout=60) == [3, 3]
    # SIGINT is a KeyboardInterrupt there.
    assert client.submit(ends).result(timeout=60) == [-signal.SIGTERM, 1]


@pytest.mark.parametrize("fork", [True, False])
def test_a_preload_that_cannot_be_imported_is_told_in_one_line(
    fork: bool, flame: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    broken = module(tmp_path, "broken_preload", "def f():\n    return 1 / 0\nf()\n")
    with dask.config.set({"flame.local.fork": fork}):
        for name, why, frames in (
            ("no_such_module", "ModuleNotFoundError: No module named 'no_such_module'", 0),
            (broken, "ZeroDivisionError: division by zero", 2),
        ):
            _, client = flame(max=1, preload=[name], boot_attempts=1)
            with pytest.raises(BootError) as error:
                client.submit(abs, 1).result(timeout=60)
            told = str(error.value)
            assert f"preload={name!r} cannot be imported: {why}" in told
            # Of the module's own code, and none of ours.
            assert told.count("File ") == frames
