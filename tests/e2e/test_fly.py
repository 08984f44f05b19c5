"""Whole clusters on a fake Fly: whatever goes wrong, no machine is left and no token is shown."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import psutil
import pytest
from dask.distributed import Client

pytest.importorskip("aiohttp")

from dask_flame import BootError, FlameCluster
from dask_flame.backends.fly import FlyBackend
from dask_flame.backends.fly.metadata import COMPONENT, NAME, RUNNER
from dask_flame.errors import BackendError
from tests.backends.fly.world import ADDRESS, KNOWN_SPEED, SPEED, inside, settings
from tests.e2e.fly_calls import double, environment
from tests.fakes.fly import FakeFly
from tests.support.paths import ROOT
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process

TOKEN = "FlyV1 fm2_lJPECAAAAAAAtoken0one,fm2_lJPETAAAtoken0two"
#: The token, and each text that is as good as it.
SECRETS = (TOKEN, *TOKEN.removeprefix("FlyV1 ").split(","))


@pytest.fixture
def fly(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeFly]:
    """A fake Fly, and this process in one of its machines."""
    path = os.pathsep.join(p for p in (str(ROOT), *sys.path) if p)
    with FakeFly(
        speed=SPEED, private_ip=ADDRESS, token=TOKEN, limit=None, env={"PYTHONPATH": path}
    ) as fake:
        inside(fake, monkeypatch)
        with settings(fake):
            yield fake
        assert fake.violations == []


def flame(**options: Any) -> FlameCluster:
    return FlameCluster(**{"backend": FlyBackend, "dashboard_address": None, **options})


def runners(fly: FakeFly) -> Counter[str]:
    """Return how many machines were ever made for each runner."""
    there = [m["config"]["metadata"] for m in fly.machines(deleted=True)]
    return Counter(own[NAME] for own in there if own[COMPONENT] == RUNNER)


def kinds(cluster: FlameCluster) -> set[str]:
    return {event.kind for event in cluster.events}


def test_a_map_an_idle_pool_and_a_map_again(fly: FakeFly) -> None:
    with flame(max=3, idle_timeout="0.5s") as cluster, Client(cluster) as client:
        futures = client.map(double, range(12), pure=False)
        assert client.gather(futures) == [2 * x for x in range(12)]
        # Their results rest at home, whose address is IPv6 as all others are.
        wait_for(lambda: not cluster.runners)
        wait_for(lambda: fly.left() == [])
        assert client.submit(sum, futures, pure=False).result(timeout=60) == 132
        assert kinds(cluster) >= {"boot", "ready", "retire", "ended"}
    wait_for(lambda: fly.left() == [])
    assert set(runners(fly).values()) == {1}
    assert not fly.requests.of("*", status=429)


def test_the_reserve_gives_machines_and_takes_them_back(fly: FakeFly) -> None:
    with flame(max=2, idle_timeout="0.5s", reserve=2) as cluster, Client(cluster) as client:
        wait_for(lambda: Counter(m["state"] for m in fly.machines()) == {"created": 2})
        made = len(fly.requests.of("create"))
        for _ in range(2):
            assert client.gather(client.map(double, range(2), pure=False)) == [0, 2]
            wait_for(lambda: not cluster.runners)
            # What is idle returns, and counts as nothing that runs.
            wait_for(lambda: len(fly.machines()) == 2 and fly.running() == [])
        assert len(fly.requests.of("start")) >= 2
        assert made == 2
    wait_for(lambda: fly.left() == [])


def test_sixty_four_runners_through_the_limit(fly: FakeFly) -> None:
    """The creates, and what the user sees of them; their processes would be too many here."""
    # A program that ends at once is no runner: these sleep, and never register.
    fly._settings.pythons["registry.fly.io/flame:1"] = str(_sleeper(fly))
    with flame(max=64, boot_timeout="120s", name="many") as cluster, Client(cluster) as client:
        futures = client.map(double, range(64), pure=False)
        wait_for(lambda: len(fly.requests.of("create", status=200)) == 64, within=120)
        held = [event.reason for event in cluster.events if event.kind == "held"]
        assert any(f"/64, limited by Fly to {KNOWN_SPEED} a second" in text for text in held), held
        assert sum(len(e.runners) for e in cluster.events if e.kind == "boot") == 64
        assert set(runners(fly).values()) == {1}
        for future in futures:
            future.cancel()
    wait_for(lambda: fly.left() == [], within=120)


def _sleeper(fly: FakeFly) -> Path:
    program = fly._settings.folder / "python"
    program.write_text("#!/bin/sh\ntrap 'kill $!; exit 0' TERM\nsleep 600 & wait $!\n")
    program.chmod(0o755)
    return program


MISCHIEF: dict[str, Any] = {
    "refused": lambda fly: [fly.fail("create", status=s) for s in (429, 500, 502, 503, 504)],
    "lost": lambda fly: fly.fail("create", status=None, after=True, times=2),
    "late": lambda fly: fly.fail("create", status=504, after=True, hang=0.3, times=2),
    "hangs": lambda fly: fly.fail("*", status=None, hang=1.0, times=3),
    "undeletable": lambda fly: fly.fail("delete", status=503, times=4),
    "storm": lambda fly: fly.storm(2.0),
    "skew": lambda fly: fly.skew(-86_400),
    "ahead": lambda fly: fly.skew(86_400),
    "slow": lambda fly: fly.slow(0.2),
    "blind": lambda fly: fly.fail("list", status=500, times=4),
}


@pytest.mark.parametrize("what", MISCHIEF)
def test_after_mischief_all_calls_have_run_and_no_machine_is_left(fly: FakeFly, what: str) -> None:
    with flame(max=2, idle_timeout="60s") as cluster, Client(cluster) as client:
        MISCHIEF[what](fly)
        assert client.gather(client.map(double, range(6), pure=False)) == [2 * x for x in range(6)]
        assert "failed" not in kinds(cluster)
    wait_for(lambda: fly.left() == [])
    # However often it was asked for, each was made once.
    assert set(runners(fly).values()) == {1}


def test_a_machine_that_is_stuck_is_destroyed_and_replaced(fly: FakeFly) -> None:
    fly.stick()
    with flame(max=1, boot_timeout="5s") as cluster, Client(cluster) as client:
        future = client.submit(double, 1)
        wait_for(fly.stuck)
        cluster.resize(boot_timeout="60s")  # of those that come after it
        assert future.result(timeout=120) == 2
        late = [event.reason for event in cluster.events if event.runners == ("runner-1",)]
        assert any("boot_timeout=5 s" in reason for reason in late), cluster.events
        wait_for(lambda: sorted(fly.states().values()) == ["destroyed", "started"])
    wait_for(lambda: fly.left() == [])


def test_machines_that_die_are_replaced_and_their_calls_run_again(
    fly: FakeFly, tmp_path: Path
) -> None:
    def once(number: int) -> int:
        marker = tmp_path / str(number)
        if not marker.exists():
            marker.write_text("")
            time.sleep(600)
        return number

    ends = ("kill", "oom", "destroy")
    with flame(max=3, idle_timeout="60s") as cluster, Client(cluster) as client:
        futures = client.map(once, range(3), pure=False)
        wait_for(lambda: len(list(tmp_path.iterdir())) == 3)
        for name, end in zip(list(fly.states()), ends, strict=True):
            getattr(fly, end)(name)
        assert client.gather(futures) == [0, 1, 2]
        lost = " ".join(event.reason for event in cluster.events if event.kind == "lost")
    assert lost.count("SIGKILL") == 2
    assert "ran out of memory (limit 1024 MiB)" in lost
    wait_for(lambda: fly.left() == [])


def test_refusals_that_do_not_pass_are_the_callers(fly: FakeFly) -> None:
    with flame(max=1) as cluster, Client(cluster) as client:
        fly.revoke()
        with pytest.raises(BootError, match="unauthenticated") as caught:
            client.submit(double, 1).result(timeout=60)
        shown = str(caught.value) + repr(caught.value) + repr(cluster.events)
        fly.grant(TOKEN)
    assert not any(secret in shown for secret in SECRETS)
    wait_for(lambda: fly.left() == [])


DRIVER = """
import sys, time
from dask.distributed import Client
from dask_flame import FlameCluster
from dask_flame.backends.fly import FlyBackend

if __name__ == "__main__":
    def work(x):
        time.sleep(600)

    options = {"reserve": int(sys.argv[1]), "disconnect_grace": "2s", "dashboard_address": None}
    cluster = FlameCluster(backend=FlyBackend, max=3, **options)
    client = Client(cluster)
    futures = client.map(work, range(2), pure=False)
    while sum(runner.busy for runner in cluster.runners.values()) < 2:
        time.sleep(0.01)
    print("busy", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize(("reserve", "stuck"), [(0, False), (2, False), (0, True)])
def test_sigkill_of_the_driver_leaves_no_machine(
    fly: FakeFly, tmp_path: Path, reserve: int, stuck: bool
) -> None:
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(ROOT), *filter(None, sys.path))),
        "DASK_FLAME__FLY__RATE": str(KNOWN_SPEED),
        "DASK_FLAME__FLY__LOGS_API": fly.url,
    }
    with subprocess.Popen(
        [sys.executable, str(script), str(reserve)], stdout=subprocess.PIPE, text=True, env=env
    ) as driver:
        try:
            assert driver.stdout is not None
            while (line := driver.stdout.readline()) != "busy\n":
                assert line, fly.logs()
            if reserve:
                wait_for(lambda: Counter(m["state"] for m in fly.machines())["created"] == 2)
            if stuck:
                fly.stick()
                fly.kill(next(iter(fly.states())))  # its successor never starts
                wait_for(fly.stuck)
            beside = psutil.Process(driver.pid).children()
        finally:
            driver.kill()
    wait_for(lambda: fly.left() == [], within=90)
    # What removes machines that do not run looks for a while longer, and is gone then.
    assert beside
    assert psutil.wait_procs(beside, timeout=90)[1] == []


# The token


class _Everything(logging.Handler):
    """Collects all records of all loggers, with their arguments and errors."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts += [logging.Formatter().format(record), repr(record.__dict__)]


@pytest.fixture
def logged() -> Iterator[list[str]]:
    handler = _Everything()
    loggers = [logging.getLogger(name) for name in ("", "distributed", "dask_flame", "httpx")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
    yield handler.texts
    for logger, level in zip(loggers, levels, strict=True):
        logger.removeHandler(handler)
        logger.setLevel(level)


def test_no_token_is_anywhere(
    fly: FakeFly,
    logged: list[str],
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    """In any log, output, event, repr, error, machine, page or file of a cluster in trouble."""
    with (
        dask.config.set({"flame.fly.token": TOKEN, "flame.reports.keep": str(tmp_path / "kept")}),
        flame(max=2, idle_timeout="60s", dashboard_address="127.0.0.1:0", reserve=1) as cluster,
        Client(cluster) as client,
    ):
        fly.fail("create", status=500, after=True)
        fly.fail("create", status=401)
        fly.fail("create", status=None)
        backend = cluster.backend if hasattr(cluster, "backend") else None
        inside, configured = client.submit(environment, pure=False, retries=3).result(timeout=90)
        client.submit(print, "here I am").result(timeout=60)
        with pytest.raises(ZeroDivisionError):
            client.submit(lambda: 1 / 0).result(timeout=60)
        fly.revoke()
        try:
            with pytest.raises(BackendError, match="unauthenticated") as refused:
                flame(max=1)
            errors = [refused.value]
        finally:
            fly.grant(TOKEN)
        shown = [
            repr((cluster, client, cluster.events, cluster.runners, cluster.pools, backend)),
            cluster._repr_html_() if hasattr(cluster, "_repr_html_") else "",
            repr(cluster.manifest()),
            str(cluster.manifest()),
            json.dumps(cluster.get_logs()),
            repr(cluster.cost()),
            repr(vars(cluster)),
            repr(inside),
            repr(configured),
            *map(repr, errors),
            *map(str, errors),
        ]
        port = cluster.scheduler.services["dashboard"].port
        for page in ("json/identity.json", "sysmon", "metrics", "status"):
            shown.append(_page(f"http://127.0.0.1:{port}/{page}"))
    wait_for(lambda: fly.left() == [])
    printed = capfd.readouterr()
    machines = json.dumps(fly.machines(deleted=True))
    asked = repr([(r, r.body) for r in fly.requests])
    files = [path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file()]
    everything = {
        "shown": "\n".join(shown),
        "logged": "\n".join(logged) + caplog.text,
        "printed": printed.out + printed.err,
        "output of machines": fly.logs(),
        "machines": machines,
        "requests": asked,
        "files": "\n".join(files),
    }
    # The search finds what is there.
    assert "here I am" in everything["output of machines"]
    assert "runner-1" in everything["shown"] + everything["machines"]
    assert "unauthenticated" in everything["logged"] + everything["shown"]
    assert fly.requests.of("create", status=200)
    for where, text in everything.items():
        for secret in SECRETS:
            assert secret not in text, f"the token is in the {where}: {_around(text, secret)}"


def _page(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return str(answer.read())
    except OSError as error:
        return repr(error)


def _around(text: str, secret: str) -> str:
    at = text.index(secret)
    return text[max(0, at - 200) : at] + "<HERE>"


def test_the_watchdog_keeps_the_token_to_itself(fly: FakeFly) -> None:
    """Nobody reads it from the command lines of this user's processes."""
    with flame(max=1) as cluster, Client(cluster) as client:
        client.submit(double, 1).result(timeout=60)
        lines = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                lines.append(path.read_text(errors="replace"))
            except OSError:
                continue
        assert any("watchdog" in line for line in lines)
        assert not any(secret in line for line in lines for secret in SECRETS)
    wait_for(lambda: fly.left() == [])


def test_a_signal_of_the_terminal_ends_nothing_halfway(fly: FakeFly) -> None:
    with flame(max=1) as cluster, Client(cluster) as client:
        client.submit(double, 1).result(timeout=60)
        for pid in fly.pids:
            os.kill(pid, signal.SIGTERM)
        assert client.submit(double, 2, pure=False).result(timeout=90) == 4
    wait_for(lambda: fly.left() == [])
