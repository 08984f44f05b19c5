from __future__ import annotations

import asyncio
import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import dask.config
import psutil
import pytest
import threadpoolctl
from distributed import Client, wait

import dask_flame
from dask_flame import Pool
from dask_flame.backends import RunnerSpec
from dask_flame.backends.local import LocalBackend
from dask_flame.errors import BootError, PoolError, RunnerLost
from dask_flame.testing import marked_processes
from dask_flame.testing.conformance import BackendConformance
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process


class TestLocal(BackendConformance):
    @pytest.fixture
    def factory(self) -> type[LocalBackend]:
        return LocalBackend

    @pytest.fixture
    def driver(self) -> str:
        return "dask_flame.backends.local:LocalBackend"


def start_helpers(folder: str) -> int:
    """Start what a call may start: a child, one in a session of its own, one that is orphaned."""
    import subprocess

    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    subprocess.Popen(sleep)
    subprocess.Popen(sleep, start_new_session=True)
    orphan = (
        "import os, subprocess, sys; "
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], "
        "start_new_session=True)"
    )
    subprocess.run([sys.executable, "-c", orphan], check=True)
    Path(folder, "started").touch()
    time.sleep(600)
    return 0


def processes_of(cluster: Any) -> list[psutil.Process]:
    return marked_processes(f"{cluster.name}-")


@pytest.fixture
def helped(flame: Any, tmp_path: Path) -> Any:
    """A cluster with one busy runner whose call has started three processes."""
    cluster, client = flame(max=1)
    future = client.submit(start_helpers, str(tmp_path))
    wait_for((tmp_path / "started").exists)
    wait_for(lambda: len(processes_of(cluster)) == 4, what="a runner and three helpers")
    return cluster, client, future


def test_closing_the_cluster_ends_what_calls_have_started(helped: Any) -> None:
    cluster, client, _ = helped
    client.close()
    cluster.close()
    assert processes_of(cluster) == []


def test_ending_a_runner_ends_what_its_calls_have_started(helped: Any) -> None:
    cluster, _, _ = helped
    before = {p.pid for p in processes_of(cluster)}
    (runner,) = cluster.runners
    cluster.sync(cluster.backend.end, [runner])
    wait_for(lambda: not before & {p.pid for p in processes_of(cluster)})


def test_a_killed_runner_takes_what_its_calls_have_started_along(helped: Any) -> None:
    cluster, _, _ = helped
    before = {p.pid for p in processes_of(cluster)}
    ws = next(iter(cluster.scheduler.workers.values()))
    os.kill(ws.pid, signal.SIGKILL)
    wait_for(lambda: not before & {p.pid for p in processes_of(cluster)})
    wait_for(lambda: any(e.kind == "lost" and "SIGKILL" in e.reason for e in cluster.events))


def test_a_killed_supervisor_takes_all_runners_along_and_the_calls_run_again(
    flame: Any, tmp_path: Path
) -> None:
    cluster, client = flame(max=1)
    assert client.submit(int, 7).result() == 7
    before = {p.pid for p in processes_of(cluster)}
    scratch = cluster.backend.scratch
    supervisor = psutil.Process(next(iter(before))).parent()
    assert supervisor is not None
    supervisor.kill()
    wait_for(lambda: not before & {p.pid for p in processes_of(cluster)})
    assert client.submit(int, 8).result(timeout=60) == 8
    wait_for(lambda: not Path(scratch).exists())


def test_a_runner_that_holds_the_interpreter_ends_too(flame: Any) -> None:
    cluster, client = flame(max=1)

    def hold() -> None:
        import re

        re.match(r"(a+)+$", "a" * 60 + "b")  # one C call, for years, without a thread switch

    future = client.submit(hold)
    wait_for(lambda: cluster.runners and all(m.busy for m in cluster.runners.values()))
    time.sleep(0.2)
    del future
    client.close()
    cluster.close()
    assert processes_of(cluster) == []


def test_prints_are_shown_with_the_runner_they_came_from(
    flame: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    _, client = flame(max=1)
    wait(client.submit(print, "hello\nfrom afar", flush=True, key="far"))
    seen = ""

    def shown() -> bool:
        nonlocal seen
        seen += capsys.readouterr().out
        return "[runner-1 far] hello\n[runner-1 far] from afar\n" in seen

    wait_for(shown)


def test_secrets_are_variables_of_runners_and_shown_nowhere(flame: Any) -> None:
    cluster, client = flame(max=1, secrets={"TOKEN": "xyzzy"}, env={"PLAIN": "1"})
    read = client.submit(lambda: [os.environ.get(n) for n in ("TOKEN", "PLAIN")])
    assert read.result(timeout=60) == ["xyzzy", "1"]
    cluster.resize(secrets={"TOKEN": "plugh"})
    shown = repr(cluster) + repr(cluster.pools) + str(cluster.events) + str(cluster.boots)
    assert "xyzzy" not in shown
    assert "plugh" not in shown
    there = {"TOKEN": {"name": "there", "key": "k"}}
    for make in (partial(flame, max=1), cluster.resize):
        with pytest.raises(
            PoolError, match=r"write secrets=\{\"TOKEN\": os.environ.*, or secrets="
        ):
            make(secrets=there)
    assert cluster.pools["default"].secrets == {"TOKEN": "plugh"}


@pytest.mark.parametrize("option", ["env", "secrets"])
def test_a_variable_has_the_value_that_the_driver_has_when_a_runner_boots(
    flame: Any, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLAME_TOKEN", "v4lue-of-before")
    cluster, client = flame(max=1, single_use=True, **{option: {"FLAME_TOKEN": None}})
    monkeypatch.setenv("FLAME_TOKEN", "v4lue-of-now")
    assert client.submit(os.getenv, "FLAME_TOKEN", pure=False).result(timeout=60) == "v4lue-of-now"
    wait_for(lambda: not cluster.runners, what="the end of the runner after its call")
    monkeypatch.delenv("FLAME_TOKEN")
    assert cluster.resize(max=2).max == 2
    line = f'{option} takes FLAME_TOKEN from .* write os.environ\\["FLAME_TOKEN"\\] = '
    with pytest.raises(BootError, match=line):  # at once, and not after three attempts
        client.submit(os.getenv, "FLAME_TOKEN", pure=False).result(timeout=60)
    with pytest.raises(PoolError, match=line):
        cluster.manifest()
    assert len([e for e in cluster.events if e.kind == "failed" and "was refused" in e.reason]) == 1
    monkeypatch.setenv("FLAME_TOKEN", "v4lue-of-later")
    later = client.submit(os.getenv, "FLAME_TOKEN", pure=False).result(timeout=60)
    assert later == "v4lue-of-later"
    # Dask cannot fetch the log of a runner that is ending.
    wait_for(lambda: not cluster.runners, what="the end of the last runner")
    shown = [repr(cluster), cluster._repr_html_(), repr(cluster.pools), str(cluster.events)]
    shown += [str(cluster.boots), str(cluster.manifest()), str(cluster.get_logs())]
    assert "v4lue" not in "".join(shown)
    assert "FLAME_TOKEN" in shown[2]


def test_the_log_of_a_failed_call_has_no_secret(
    flame: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = "entirely ordinary words"  # a form that no rule takes for a secret
    monkeypatch.setenv("FLAME_WORDS", value)
    cluster, client = flame(max=1, secrets=["FLAME_WORDS"], env={"DB_PASSWORD": "plain text 2"})

    def fail() -> None:
        dask_flame.report(step=1, loss=0.5)
        said = os.environ["FLAME_WORDS"], os.environ["DB_PASSWORD"]
        raise ValueError(f"not opened by {said[0]}, {said[1]}")

    failed = client.submit(fail, pure=False)
    with pytest.raises(ValueError, match=f"not opened by {value}, plain text 2"):
        failed.result(timeout=60)  # the driver's error is as it was raised
    logs = wait_for(lambda: "Compute Failed" in (t := str(cluster.get_logs())) and t)
    assert "not opened by" in logs
    assert value not in logs
    assert "plain text 2" not in logs
    (call,) = cluster.reports.calls.values()
    assert wait_for(lambda: call.why) == "ValueError('not opened by …, …')"


def test_an_import_that_fails_shows_no_secret(flame: Any, tmp_path: Path) -> None:
    (tmp_path / "flame_opener.py").write_text(
        "import os\nraise ValueError('not opened by ' + os.environ['FLAME_WORDS'])\n"
    )
    path = {"PYTHONPATH": str(tmp_path)}
    words = {"FLAME_WORDS": "entirely ordinary words"}
    cluster, client = flame(
        max=1, secrets=words, env=path, preload=["flame_opener"], boot_attempts=1
    )
    with pytest.raises(BootError, match="not opened by …") as error:
        client.submit(abs, 1).result(timeout=60)
    shown = str(error.value) + str(cluster.events) + str(cluster.get_logs())
    assert "ordinary" not in shown


def _threads(*modules: str) -> dict[str, int]:
    """Return the numbers of threads as the libraries themselves report them (runner)."""
    for module in modules:
        importlib.import_module(module)
    loaded = threadpoolctl.threadpool_info()
    numbers = {str(library["internal_api"]): int(library["num_threads"]) for library in loaded}
    if "torch" in sys.modules:
        numbers["torch"] = sys.modules["torch"].get_num_threads()
    return numbers


def _libraries(client: Client, pool: str, *modules: str) -> dict[str, int]:
    with dask_flame.on(pool):
        return dict(client.submit(_threads, *modules, pure=False).result(timeout=180))


def test_libraries_use_the_threads_of_one_call(flame: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    pools = {
        "alone": Pool(max=1, cpus=2),
        "shared": Pool(max=1, cpus=4, concurrency=2, preload=["numpy"]),
        "less": Pool(max=1, cpus=2, concurrency=2),
        "own": Pool(max=1, cpus=1, env={"OMP_NUM_THREADS": "2"}),
        "none": Pool(max=1, concurrency=2),
    }
    cluster, client = flame(pools=pools)
    numbers = {pool: _libraries(client, pool, "numpy") for pool in pools}
    found = {pool: number["openblas"] for pool, number in numbers.items()}
    assert found == {"alone": 2, "shared": 2, "less": 1, "own": 2, "none": 1}
    # A variable of the driver's has precedence over Dask's, as for Dask's own workers.
    cluster.close()
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")
    _, client = flame(max=1)
    assert _libraries(client, "default", "numpy")["openblas"] == 2


def test_torch_uses_the_threads_of_one_call_forked_or_not(flame: Any) -> None:
    pytest.importorskip("torch")
    pools = {
        "own": Pool(max=1, cpus=2, env={"OMP_NUM_THREADS": "1"}),
        "forked": Pool(max=1, cpus=2, preload=["torch"], idle_timeout="100ms", boot_timeout="5m"),
    }
    cluster, client = flame(pools=pools)
    assert _libraries(client, "forked", "torch")["torch"] == 2
    assert _libraries(client, "own", "torch")["torch"] == 1
    # Forked from another template, as the environment of this one has been read.
    cluster.resize("forked", cpus=1)
    wait_for(lambda: not cluster.fleets.fleets["forked"].members, what="the end of the idle runner")
    assert _libraries(client, "forked", "torch")["torch"] == 1


def _die(words: bytes) -> None:
    os.write(2, words)
    os._exit(9)


def test_last_words_are_shown_and_in_the_error_though_they_do_not_end_a_line(
    flame: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster, client = flame(max=1)
    with dask.annotate(rerun=False):
        lost = client.submit(_die, b"first\nfatal: no newline", key="it")
    with pytest.raises(RunnerLost) as error:
        lost.result(timeout=60)
    assert str(error.value).endswith(
        "exit code 9; it is not run again (rerun=False); it printed last:\n"
        "    first\n    fatal: no newline"
    )
    seen = ""

    def shown() -> bool:
        nonlocal seen
        seen += capsys.readouterr().out
        return "[runner-1 it] first\n[runner-1 it] fatal: no newline\n" in seen

    wait_for(shown)
    assert "fatal: no newline" in str(cluster.get_logs()["runner-1"])


def test_orders_travel_neither_in_arguments_nor_in_the_environment(flame: Any) -> None:
    cluster, client = flame(max=1, security=True)
    assert client.submit(int, 1).result() == 1
    key = cluster.security.tls_worker_key
    assert key
    for process in processes_of(cluster):
        assert key not in "\0".join(process.cmdline())
        assert key not in "\0".join(process.environ().values())


def test_a_supervisor_that_is_killed_takes_along_nobody_elses_runners(flame: Any) -> None:
    one, first = flame(max=1, name="same")
    two, second = flame(max=1, name="same")
    assert [c.submit(os.getpid).result(timeout=60) > 0 for c in (first, second)] == [True, True]
    before = second.submit(os.getpid, pure=False).result()
    ws = next(iter(one.scheduler.workers.values()))
    supervisor = psutil.Process(ws.pid).parent()
    assert supervisor is not None
    supervisor.kill()
    wait_for(lambda: any(e.kind == "lost" for e in one.events))
    assert second.submit(os.getpid, pure=False).result() == before
    assert not any(e.kind == "lost" for e in two.events)


def test_orders_larger_than_a_pipe_arrive(flame: Any) -> None:
    large = {f"key-{i}": "x" * 1000 for i in range(300)}
    with dask.config.set({"flame-test": large, "flame-test-path": Path("/a/b")}):
        _, client = flame(max=1)
        seen = client.submit(lambda: dask.config.get("flame-test")).result(timeout=60)
        path = client.submit(lambda: dask.config.get("flame-test-path")).result()
    assert seen == large
    assert path == "/a/b"


def test_what_cannot_be_asked_for_fails_with_the_reason_and_later_calls_run(flame: Any) -> None:
    cluster, client = flame(max=1, boot_attempts=1)
    with dask.config.set({"distributed.nanny.pre-spawn-environ": 5}):
        with pytest.raises(BootError, match="could not be asked for: AttributeError"):
            client.submit(int, 1).result(timeout=60)
        wait_for(lambda: not cluster.runners)
    assert client.submit(int, 2).result(timeout=60) == 2


def test_a_working_directory_that_was_deleted(
    flame: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    monkeypatch.syspath_prepend("")
    gone.rmdir()
    _, client = flame(max=1)
    assert client.submit(int, 2).result(timeout=60) == 2


@pytest.mark.parametrize("output", ["closed", "broken pipe", "ascii", "nobody reads"])
def test_a_driver_whose_output_cannot_be_written_goes_on(output: str, tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from dask.distributed import Client\n"
        "from dask_flame import FlameCluster\n"
        "runner = {'PYTHONIOENCODING': 'utf-8'}\n"
        "with (FlameCluster(max=1, dashboard_address=None, env=runner) as c,\n"
        "      Client(c) as client):\n"
        "    if sys.argv[2] == 'closed': sys.stdout.close()\n"
        "    f = lambda i: [print('\u2600' * 1000, flush=True) for _ in range(200)] and i\n"
        "    for i in range(3):\n"
        "        assert client.submit(f, i).result(timeout=60) == i\n"
        "    ended = [e for e in c.events if e.kind in ('lost', 'failed')]\n"
        "open(sys.argv[1], 'w').write(str(ended))\n"
    )
    # Ends as soon as its output was written; a pipe is full after 64 KiB.
    environment = {**os.environ, "PYTHONIOENCODING": "ascii" if output == "ascii" else "utf-8"}
    said = tmp_path / "said"
    driver = subprocess.Popen(
        [sys.executable, "-c", script, str(said), output],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
    )
    assert driver.stdout is not None
    if output == "broken pipe":
        driver.stdout.close()
    if output == "ascii":
        driver.communicate(timeout=60)
    wait_for(lambda: said.exists() and said.read_text(), 120)
    assert said.read_text() == "[]"
    driver.stdout.close()
    driver.wait(timeout=120)


def test_a_boot_that_is_accepted_after_it_was_given_up_is_ended(flame: Any) -> None:
    gate = threading.Event()

    class Late(LocalBackend):
        async def boot(self, specs: Sequence[RunnerSpec]) -> None:
            await asyncio.to_thread(gate.wait)
            await super().boot(specs)
            booted.set()

    booted = threading.Event()
    cluster, client = flame(max=1, backend=Late, boot_timeout="100ms", boot_attempts=1)
    with pytest.raises(BootError, match="did not register within boot_timeout"):
        client.submit(int, 1).result(timeout=60)
    wait_for(lambda: not cluster.runners)
    gate.set()
    assert booted.wait(40)
    wait_for(lambda: not cluster.sync(cluster.backend.list), what="the late runner is ended")
    assert processes_of(cluster) == []
