"""A scheduler in a pod, for a driver outside of the cluster: end to end on the fake API server."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import importlib
import json
import os
import platform
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import dask
import pytest
import yaml
from click.testing import CliRunner
from dask.distributed import Client, Event, Security, Status
from distributed.comm import parse_host_port

import dask_flame
from dask_flame import (
    BudgetExhausted,
    FlameCluster,
    Pool,
    RunnerLost,
    on,
    stream,
)
from dask_flame.backends.kubernetes.api.client import JOBS, PODS
from dask_flame.backends.kubernetes.api.permissions import rules
from dask_flame.cli.commands import flame as command_line
from dask_flame.driver.hosts import remote as driver
from dask_flame.driver.open_clusters import open_clusters
from dask_flame.errors import BackendError, BootError, FlameError, PoolError
from tests.backends.kubernetes.test_backend import DRIVER
from tests.backends.kubernetes.test_inspector import stopped
from tests.driver.hosts.calls import (
    end_late,
    endless,
    fails,
    held_until,
    stops_itself,
    talk,
    whoami,
    whoami_once,
)
from tests.fakes.kubernetes import FakeKubernetes
from tests.fakes.kubernetes.access import EVERYTHING
from tests.support.gates import at_once
from tests.support.kubernetes_help import TEAM, Caller
from tests.support.other_python import other_python
from tests.support.paths import ROOT, free_port
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process

IMAGE = "ghcr.io/me/runner:1.0"
ROLE = ROOT / "deploy/kubernetes/role-remote.yaml"
RIGHTS = next(yaml.safe_load_all(ROLE.read_text()))["rules"]
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}

Start = Callable[..., FakeKubernetes]


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts a cluster with a restricted namespace, and gives the driver a kubeconfig of it."""
    started: list[FakeKubernetes] = []
    # All pods of the fake share this machine's ports.
    monkeypatch.setenv("DASK_FLAME__SCHEDULER__PORT", str(free_port()))
    monkeypatch.setenv("DASK_FLAME__SCHEDULER__DASHBOARD_PORT", str(free_port()))
    monkeypatch.setenv("DASK_FLAME__SCHEDULER__TIMEOUT", "30s")
    dask.config.refresh()

    def start(**options: Any) -> FakeKubernetes:
        # What calls import is in the image.
        image = {"PYTHONPATH": str(ROOT)}
        fake = FakeKubernetes(**{"namespaces": {"team": RESTRICTED}, "env": image, **options})
        fake.start()
        started.append(fake)
        fake.grant("driver", RIGHTS)
        monkeypatch.setenv("KUBECONFIG", fake.kubeconfig(tmp_path / "kubeconfig"))
        return fake

    yield start
    try:
        for fake in started:
            wait_for(fake.at_rest, what=f"nothing is left: {fake.left()}")
    finally:
        for fake in started:
            fake.close()
        monkeypatch.undo()
        dask.config.refresh()


@pytest.fixture
def cluster() -> Iterator[Callable[..., tuple[FlameCluster, Client]]]:
    made: list[Any] = []

    def make(**options: Any) -> tuple[FlameCluster, Client]:
        given = {"backend": "kubernetes", "image": IMAGE, "dashboard_address": None, "max": 2}
        cluster = FlameCluster(**{**given, **options})
        made.append(cluster)
        client = Client(cluster)
        made.append(client)
        return cluster, client

    yield make
    for thing in reversed(made):
        thing.close()


def pods(fake: FakeKubernetes, component: str = "worker") -> list[dict[str, Any]]:
    what = "dask.org/component"
    return [p for p in fake.objects("pods") if p["metadata"]["labels"].get(what) == component]


def test_calls_are_stopped_and_runs_are_kept(outside: Start, cluster: Any, tmp_path: Path) -> None:
    outside()
    with dask.config.set({"flame.reports.keep": str(tmp_path / "runs.db")}):
        flame, client = cluster(max=1)
        with dask_flame.run("an endless one"):
            future = client.submit(endless, key="endless")
            never = client.submit(talk, 0, key="never")
        wait_for(lambda: "endless" in flame.reports, within=60, what="reports")
        never.cancel()
        dask_flame.stop(future)
        assert future.result(timeout=60) == "endless was stopped by dask_flame.stop()"
        (present,) = dask_flame.runs(client)
        client.sync(flame._report_source.caught_up)
        exported = flame.reports.to_pandas()
        client.close()
        flame.close()
        (kept,) = dask_flame.runs()
    assert [run.name for run in (present, kept)] == ["an endless one"] * 2
    # The one that has never reported is kept too.
    assert [c.state for run in (present, kept) for c in run.calls.values()] == [
        *("done", "cancelled", "done", "cancelled")
    ]
    assert set(exported.run) == {"an endless one"}
    assert kept.calls["endless"].series["loss"].made > 0


def test_what_calls_print_is_shown(
    outside: Start, cluster: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    outside()
    with dask.config.set({"flame.prints.burst": 3, "flame.prints.rate": 1e-3}):
        _, client = cluster(max=1)
    client.submit(talk, 100, key="rate=0.1").result(timeout=60)
    seen = ""

    def shown(last: str) -> bool:
        nonlocal seen
        seen += capsys.readouterr().out
        return last in seen

    mine = "[runner-1 rate=0.1] "
    wait_for(lambda: shown(f"{mine}line 99\n"))
    head = "".join(f"{mine}line {i}\n" for i in range(3))
    tail = "".join(f"{mine}line {i}\n" for i in range(90, 100))
    said = f"{mine}\u2026 87 lines not shown; cluster.get_logs() has the last of them\n"
    assert seen == head + said + tail
    # The page, which the scheduler serves, has them too.
    lines = client.run_on_scheduler(lines_on_the_page, "rate=0.1")
    assert lines[-1] == "line 99"
    assert lines[0] == "line 0"


def lines_on_the_page(key: str, dask_scheduler: Any) -> Any:
    from dask_flame.dashboard.flame.actions import details
    from dask_flame.reports.scheduler.lookup import plugin_of

    return details(plugin_of(dask_scheduler), key)["lines"]


def test_runners_in_pods_are_looked_into_and_attached_to(outside: Start, cluster: Any) -> None:
    outside()
    flame, client = cluster(max=1, post_mortem=True, secrets={"TOKEN": "xyzzy-xyzzy"})
    call = client.submit(held_until, "end", key="the waiting one")
    wait_for(lambda: any(member.busy for member in flame.runners.values()))
    runner = flame.runners["runner-1"]

    def thread() -> Any:
        return next((t for t in runner.stacks().threads if t.call), None)

    assert wait_for(thread).call == "the waiting one"
    pid = runner.stacks().pid
    # Through the scheduler's pod: the driver reaches no other.
    with runner.attach() as attached:
        assert attached.run("import os; os.getpid()") == pid
        assert "getpid" in attached.complete("os.getp")
        assert attached.run("len('x' * 3_000_000)") == len(attached.run("'x' * 3_000_000"))
        Event("end", client=client).set()
        assert call.result()
        future = client.submit(fails, 0.5)
        with dask_flame.post_mortem(future) as pm:
            assert pm.frames[-1].locals == {"rate": "0.5", "losses": "[2.0, 0.0]"}
            assert pm.run("losses[0] * rate") == 1.0
        # A process on another machine cannot be read from here.
        silent = client.submit(stops_itself, key="the silent one")
        try:
            with pytest.raises(FlameError, match="the silent one; it is on another machine"):
                wait_for(lambda: runner.stacks() and False)
        finally:
            os.kill(pid, signal.SIGCONT)
        silent.result()
    assert "xyzzy" not in repr(runner.processes())


def test_calls_run_and_nothing_stays(outside: Start, cluster: Any) -> None:
    fake = outside()
    flame, client = cluster(max=3, idle_timeout="1s", secrets={"TOKEN": "xyzzy"})
    (head,) = pods(fake, "scheduler")
    (job,) = fake.objects("jobs")
    assert flame.scheduler.address.startswith(f"tls://{head['status']['podIP']}:")
    assert flame.scheduler_address.startswith("tls://127.0.0.1:")
    futures = client.map(whoami_once, [0.5] * 3, event="all run", pure=False)
    wait_for(lambda: sum(m.busy for m in flame.runners.values()) == 3)
    Event("all run", client=client).set()
    told = [(r.runner, r.step, r.values, r.thinned) for r in stream(futures)]
    assert sorted(told) == [(f"runner-{n}", 1, {"slept": 0.5}, 0) for n in (1, 2, 3)]
    assert sorted(client.gather(futures)) == [(f"runner-{n}", "xyzzy") for n in (1, 2, 3)]
    for pod in pods(fake):
        assert pod["metadata"]["ownerReferences"][0]["uid"] == job["metadata"]["uid"]
    # What is secret is in Secrets, and what only runners need is not in the scheduler's.
    private = ("xyzzy", "PRIVATE KEY", flame.security.tls_worker_key)
    for kind in ("pods", "jobs", "events"):
        text = json.dumps(fake.objects(kind))
        assert not any(secret in text for secret in private)
    volume = next(v for v in head["spec"]["volumes"] if "secret" in v)
    launch_secret = next(
        s for s in fake.objects("secrets")
        if s["metadata"]["name"] == volume["secret"]["secretName"]
    )  # fmt: skip
    assert "xyzzy" not in json.dumps(launch_secret)
    # What is known here is what is known there, as soon as it comes: on a connection of its own.
    wait_for(lambda: [e.kind for e in flame.events][:2] == ["boot", "ready"])
    steps = {"accepted", "started", "registered"}
    wait_for(lambda: {step for step, _ in flame.boots[0].steps} >= steps)
    assert [c.series["slept"].values[-1] for c in flame.reports.calls.values()] == [0.5] * 3
    assert {c.arguments for c in flame.reports.calls.values()} == {"seconds=0.5, event='all run'"}
    wait_for(lambda: not flame.runners, what="idle runners have gone")
    used = wait_for(lambda: (c := flame.cost()["default"]).busy_seconds >= 1 and c)
    assert used.busy_seconds < used.runner_seconds
    assert flame.cost() == {"default": used}  # nothing is used now
    assert [e.kind for e in flame.events].count("retire") >= 1
    assert client.gather(futures[0])[1] == "xyzzy"  # it has gone home, which is there
    assert client.submit(whoami).result(timeout=60)[0] == "runner-4"
    assert "1 ready" in wait_for(lambda: "1 ready" in repr(flame) and repr(flame))
    assert "runner-4" in flame._repr_html_()
    flame.close()
    wait_for(fake.at_rest)


def decoded(item: Any) -> str:
    """All texts of an object, and those in them that are encoded, once or twice."""
    if isinstance(item, dict | list):
        return "\n".join(
            decoded(part) for part in (item.values() if isinstance(item, dict) else item)
        )
    texts = [str(item)]
    for _ in range(2):
        with contextlib.suppress(ValueError):
            inside = base64.b64decode(texts[-1], validate=True).decode("latin1")
            with contextlib.suppress(ValueError):
                inside = decoded(json.loads(inside))
            texts.append(inside)
    return "\n".join(texts)


def test_the_drivers_values_are_sent_to_runners_alone(
    outside: Start, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = outside()
    monkeypatch.setenv("TOKEN", "v4lue-of-before")
    monkeypatch.setenv("FLAME_OTHER", "v4lue-other")
    options = {"secrets": ["TOKEN"], "env": {"FLAME_OTHER": None, "FLAME_PLAIN": "v4lue-plain"}}
    flame, client = cluster(max=1, single_use=True, **options)
    monkeypatch.setenv("TOKEN", "v4lue-of-now")
    assert client.submit(whoami, pure=False).result(timeout=60) == ("runner-1", "v4lue-of-now")
    assert flame.resize(max=2, secrets=["TOKEN"]).max == 2
    monkeypatch.delenv("TOKEN")
    line = r'secrets takes TOKEN from .* write os\.environ\["TOKEN"\] = '
    with pytest.raises(BootError, match=line):  # at once, and not after three attempts
        client.submit(whoami, pure=False).result(timeout=60)
    # Each attempt would be an event before the error.
    refused = wait_for(lambda: [e for e in flame.events if "refused" in e.reason])
    assert [e.kind for e in refused] == ["failed"]
    monkeypatch.setenv("TOKEN", "v4lue-of-later")
    assert client.submit(whoami, pure=False).result(timeout=60)[1] == "v4lue-of-later"
    # Dask cannot fetch the log of a runner that is ending.
    wait_for(lambda: not flame.runners, what="the end of the last runner")
    (head,) = pods(fake, "scheduler")
    volume = next(v for v in head["spec"]["volumes"] if "secret" in v)
    texts = {s["metadata"]["name"]: decoded(s["data"]) for s in fake.objects("secrets")}
    schedulers = texts.pop(volume["secret"]["secretName"])
    assert "disconnect_grace" in schedulers  # it is decoded
    assert "v4lue" not in schedulers
    for value in ("of-now", "of-later", "other", "plain"):
        assert any(f"v4lue-{value}" in text for text in texts.values())
    shown = [fake.objects(kind) for kind in ("pods", "jobs", "events", "networkpolicies")]
    shown += [flame.manifest(), flame.pools, flame, flame.events, flame.boots, flame.get_logs()]
    assert "v4lue" not in "".join(map(str, shown))


def test_policies_change_and_callbacks_are_called_here(outside: Start, cluster: Any) -> None:
    outside()
    grown: list[tuple[str, int]] = []
    pools = {
        "cpu": Pool(max=1, image=IMAGE, idle_timeout="10s", on_grow=lambda *a: grown.append(a)),
        "other": Pool(max=1, image=IMAGE),
    }
    with pytest.raises(PoolError, match="'nope'"):
        cluster(max=None, image=None, pools=pools)[0].resize("nope", max=2)
    (flame,) = open_clusters()
    client = Client(flame)
    assert flame.resize("cpu", max=2, env={"TOKEN": "later"}).max == 2
    assert set(at_once(flame, client, whoami, 2)) == {("cpu-1", "later"), ("cpu-2", "later")}
    wait_for(lambda: grown and grown[-1] == ("cpu", 2))
    (changed,) = wait_for(lambda: [e for e in flame.events if e.kind == "policy"])
    assert "max=2" in changed.reason
    assert "later" not in changed.reason
    assert flame.adapt(minimum=1).minimum == 1
    wait_for(lambda: [e for e in flame.events if e.reason.startswith("adapt")])
    client.wait_for_workers(2, timeout=60)
    running = lambda: [w for w in flame.workers.values() if w.status is Status.running]  # noqa: E731
    wait_for(lambda: len(running()) == 2)
    # Two of this pool, and one of the other.
    with pytest.raises(PoolError, match="4 runners are asked for, and max=2"):
        client.wait_for_workers(4, timeout=60)
    flame.adapt(minimum=0).stop()
    wait_for(lambda: [e for e in flame.events if "2 runners are kept" in e.reason])
    wait_for(lambda: "kept at 2 by adapt(...).stop()" in repr(flame))
    client.close()


def test_a_budget_is_followed_where_the_scheduler_is(outside: Start, cluster: Any) -> None:
    outside()
    flame, client = cluster(price=3600, budget="900 USD", idle_timeout="auto", max=1)
    running = client.submit(held_until, "go", pure=False)
    wait_for(lambda: sum(m.busy for m in flame.runners.values()) == 1, what="it runs")
    waiting = client.submit(held_until, "go", pure=False)
    used = flame.cost().budget.spent
    flame.budget = f"{2 * used + 1:.0f} USD"
    with pytest.raises(BudgetExhausted, match=f"of {flame.budget} .*write cluster.budget = "):
        waiting.result(timeout=60)
    # The events are those of the scheduler's process, and the figures are known here, too.
    wait_for(lambda: [e for e in flame.events if "no runner boots any more, idle" in e.reason])
    wait_for(lambda: flame.cost().budget.share > 1)
    assert f"of {flame.budget} (" in flame._repr_html_()
    told = [e.reason for e in flame.events if e.kind == "policy"]
    assert told[0].startswith(f'budget="{flame.budget}" (it was "900 USD"); ')
    with pytest.raises(BudgetExhausted):
        client.submit(held_until, "go", pure=False).result(timeout=60)
    Event("go", client=client).set()
    assert running.result(timeout=60)
    wait_for(lambda: not flame.runners, what="the runner has ended")
    # The figure of idle_timeout="auto" is the one of the scheduler's process.
    wait_for(lambda: "as a boot takes" in flame.fleets.fleets["default"].idle.why)
    assert "idle_timeout=auto (now " in repr(flame)
    flame.budget = None
    assert client.submit(held_until, "go", pure=False).result(timeout=60)
    assert flame.cost().budget is None


def heard(address: tuple[str, int], context: ssl.SSLContext | None) -> bytes:
    """What a port says to somebody who talks to it; nothing if it breaks the connection."""
    with contextlib.ExitStack() as stack:
        talking: socket.socket = stack.enter_context(socket.create_connection(address, 30))
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            if context is not None:
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
                talking = stack.enter_context(context.wrap_socket(talking))
            talking.sendall(bytes(100))
            return talking.recv(100)
    return b""


def test_the_forwarded_port_wants_a_certificate_of_the_cluster(
    outside: Start, cluster: Any
) -> None:
    """All users of this machine can connect to it."""
    outside()
    flame, client = cluster(max=1)
    address = parse_host_port(flame.scheduler_address)
    assert address[0] == "127.0.0.1"
    own, other = (
        security.get_connection_args("client")["ssl_context"]
        for security in (client.security, Security.temporary())
    )
    assert heard(address, None)[:1] in (b"", b"\x15")  # an alert of TLS
    assert heard(address, ssl.create_default_context()) == b""
    assert heard(address, other) == b""
    assert len(heard(address, own)) > 1
    assert client.submit(whoami).result(timeout=60)[0] == "runner-1"


SERVICES = [{"apiGroups": [""], "resources": ["services"], "verbs": ["create", "get"]}]


@pytest.mark.parametrize("kind", ["ClusterIP", "LoadBalancer"])
def test_it_may_be_reached_by_a_service(kind: str, outside: Start, cluster: Any) -> None:
    fake = outside()
    fake.grant("driver", [*RIGHTS, *SERVICES])
    cloud = [{"apiGroups": [""], "resources": ["services/status"], "verbs": ["patch"]}]
    fake.grant("cloud", cloud)
    found: list[Any] = []

    def give_an_address() -> None:
        found.append(wait_for(lambda: fake.objects("services"), within=60)[0])
        with Caller(fake, "cloud") as caller:
            caller.ok(
                "PATCH",
                f"{TEAM}/services/{found[0]['metadata']['name']}/status",
                json={"status": {"loadBalancer": {"ingress": [{"ip": "127.0.0.1"}]}}},
                headers={"Content-Type": "application/merge-patch+json"},
            )

    giving = threading.Thread(target=give_an_address)
    giving.start()
    try:
        with dask.config.set({"flame.scheduler.service": kind}):
            flame, client = cluster(max=1)
            port = dask.config.get("flame.scheduler.port")
            assert flame.scheduler_address == f"tls://127.0.0.1:{port}"
            kinds = [item["kind"] for item in flame.manifest()]
            assert kinds[:5] == ["Job", "Secret", "Secret", "Service", "NetworkPolicy"]
        assert client.submit(whoami).result(timeout=60)[0] == "runner-1"
    finally:
        giving.join()
    assert found[0]["spec"]["type"] == kind


def test_a_service_that_gets_no_address_or_is_none(outside: Start) -> None:
    fake = outside()

    def make(**settings: Any) -> None:
        with dask.config.set({f"flame.scheduler.{k}": v for k, v in settings.items()}):
            FlameCluster(backend="kubernetes", image=IMAGE, max=1, dashboard_address=None)

    with pytest.raises(PoolError, match=r"scheduler\.service='moon'"):
        make(service="moon")
    with pytest.raises(BackendError, match=r'(?s)resources: \["services"\]'):
        make(service="LoadBalancer")
    fake.grant("driver", [*RIGHTS, *SERVICES])
    with pytest.raises(BackendError, match="of type LoadBalancer has no address yet"):
        make(service="LoadBalancer", timeout="4s")
    wait_for(fake.at_rest)


def test_the_dashboard_is_on_this_machine(outside: Start, cluster: Any) -> None:
    fake = outside()
    wanted = free_port()
    flame, client = cluster(dashboard_address=f"127.0.0.1:{wanted}")
    assert flame.dashboard_link == f"http://127.0.0.1:{wanted}/status"
    client.submit(whoami).result(timeout=60)
    with urllib.request.urlopen(flame.flame_link, timeout=30) as page:
        assert page.status == 200
    # Nobody else in the cluster can look at it.
    (head,) = pods(fake, "scheduler")
    assert "8787" not in json.dumps(head)


def test_the_token_of_the_dashboard_travels_in_a_secret(outside: Start, cluster: Any) -> None:
    fake = outside()
    with dask.config.set({"flame.dashboard.token": "auto"}):
        flame, client = cluster(dashboard_address=f"127.0.0.1:{free_port()}", max=1)
        link, _, token = flame.dashboard_link.partition("?token=")
        assert len(token) > 40
        # The pod has no token of its own: all requests need that of the driver.
        with urllib.request.urlopen(flame.flame_link, timeout=30) as page:
            assert page.status == 200
        for wrong in (link, f"{link}?token={token}x"):
            with pytest.raises(urllib.error.HTTPError, match="403"):
                urllib.request.urlopen(wrong, timeout=30)
        assert client.submit(whoami).result(timeout=60)[0] == "runner-1"
        assert client.submit(dask.config.get, "flame.dashboard.token").result() == "auto"
        there = {kind: list(fake.objects(kind)) for kind in ("pods", "jobs", "secrets")}
        assert all(there.values())
        holding = [item for item in there.pop("secrets") if token in opened(item)]
        assert len(holding) == 1
        assert token not in json.dumps(there)
        assert token not in str(flame.manifest())
        assert token not in str(flame.get_logs())


def opened(secret: dict[str, Any]) -> str:
    """The contents of a Secret."""
    data = secret.get("data", {}).values()
    texts = [base64.b64decode(value).decode() for value in data]
    return "\n".join([*texts, *secret.get("stringData", {}).values()])


def test_a_connection_that_drops(outside: Start, cluster: Any) -> None:
    fake = outside()
    flame, client = cluster(disconnect_grace="20s")
    assert client.submit(whoami, pure=False).result(timeout=60)
    future = client.submit(whoami, 3.0, pure=False)
    wait_for(lambda: any(m.busy for m in flame.runners.values()))
    fake.down()
    time.sleep(1.0)  # as long as the network is away
    fake.up()
    name, _ = future.result(timeout=60)
    assert name == "runner-1"
    assert client.submit(whoami, pure=False).result(timeout=60)[0] == "runner-1"
    assert flame.resize(max=1).max == 1
    wait_for(lambda: any(e.kind == "policy" for e in flame.events))
    assert not [e for e in flame.events if e.kind in ("lost", "failed")]
    # The base class's view of the workers is alive, too.
    wait_for(lambda: len(flame.scheduler_info["workers"]) == len(flame.runners))


def test_each_connection_comes_back_by_itself(
    outside: Start, cluster: Any, caplog: pytest.LogCaptureFixture
) -> None:
    outside()
    flame, client = cluster(idle_timeout="1s")
    assert client.submit(whoami, pure=False).result(timeout=60)
    host, told = flame._host, flame._watch_worker_status_comm
    before = host._link._comm
    flame.loop.add_callback(host._link.cut)
    wait_for(lambda: host._link._comm not in (None, before))
    wait_for(lambda: not flame.runners and not flame.scheduler_info["workers"])
    assert flame._watch_worker_status_comm is told
    flame.loop.add_callback(told.abort)
    wait_for(told.closed)
    assert client.submit(whoami, pure=False).result(timeout=60)
    wait_for(lambda: flame.scheduler_info["n_workers"] == 1)
    wait_for(lambda: not flame.runners and not flame.scheduler_info["workers"])
    assert [r.getMessage() for r in caplog.records if r.levelname in ("WARNING", "ERROR")] == []


def test_what_is_not_in_the_image_is_said(
    outside: Start, cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside()
    (tmp_path / "only_here.py").write_text("def idle():\n    return True\n")
    monkeypatch.syspath_prepend(tmp_path)
    idle = importlib.import_module("only_here").idle
    with pytest.raises(BackendError, match="No module named 'only_here'; what the") as error:
        cluster(idle_check=idle)
    assert "x80" not in str(error.value)  # nor what was to be read
    flame, client = cluster()
    flame.resize(idle_check=idle)
    (said,) = wait_for(lambda: [e for e in flame.events if e.kind == "failed"])
    assert "No module named 'only_here'" in said.reason
    assert flame.resize(idle_check=None, max=1).max == 1
    wait_for(lambda: [e for e in flame.events if e.kind == "policy"])
    assert client.submit(whoami).result(timeout=60)[0] == "runner-1"


class Traced:
    """Notes the processes that it is unpickled in."""

    def __init__(self, file: str) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return unpickled, (self.file,)


def unpickled(file: str) -> Traced:
    with Path(file).open("a") as f:
        f.write(f"{os.getpid()}\n")
    return Traced(file)


def test_setup_is_for_runners_and_never_read_by_the_scheduler(
    outside: Start, cluster: Any, tmp_path: Path
) -> None:
    outside()
    traced = Traced(str(tmp_path / "read"))

    def load() -> Iterator[int]:
        assert traced.file
        yield os.getpid()
        (tmp_path / "ended").touch()

    def fail() -> None:
        raise ValueError(f"no model for {traced.file}")

    flame, client = cluster(max=1, idle_timeout="1s", boot_attempts=1, setup=load)
    pid = client.submit(lambda: dask_flame.setup_result(), pure=False).result(timeout=60)
    assert (tmp_path / "read").read_text() == f"{pid}\n"
    wait_for(lambda: flame.boots and flame.boots[0].after("registered"))
    assert {"setting up", "setup"} < {step for step, _ in flame.boots[0].steps}
    flame.resize(setup=fail)
    wait_for(lambda: not flame.runners)
    assert (tmp_path / "ended").exists()
    with pytest.raises(BootError, match=r"setup=fail has failed: ValueError: no model for "):
        client.submit(abs, 1).result(timeout=60)


def test_an_api_server_that_is_away_for_long(
    outside: Start, cluster: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """It is the tunnel: by default the fleet outlives it for longer than elsewhere."""
    fake = outside()
    flame, client = cluster()
    flame._sync_interval = 0.05  # so that distributed complains within these seconds
    assert flame.disconnect_grace == 120
    future = client.submit(whoami, 5.0, pure=False)
    wait_for(lambda: any(m.busy for m in flame.runners.values()))
    fake.down()
    time.sleep(12)  # longer than the grace that there is elsewhere
    fake.up()
    assert future.result(timeout=60)[0] == "runner-1"
    assert client.submit(whoami, pure=False).result(timeout=60)[0] == "runner-1"
    assert not [e for e in flame.events if e.kind in ("lost", "failed")]
    assert not [r.getMessage() for r in caplog.records if r.levelname in ("WARNING", "ERROR")]


def test_a_network_that_stays_away(
    outside: Start, cluster: Any, caplog: pytest.LogCaptureFixture
) -> None:
    fake = outside()
    flame, client = cluster(disconnect_grace="1s")
    assert flame.disconnect_grace == 1
    future = client.submit(whoami, 600, pure=False)
    wait_for(lambda: any(m.busy for m in flame.runners.values()))
    fake.down()
    # Kubernetes deletes what the scheduler's Job owned, though nobody can ask it to.
    wait_for(fake.at_rest, what=f"nothing is left: {fake.left()}")
    fake.up()
    wait_for(lambda: flame.status.name == "closed")
    (lost,) = [e for e in flame.events if e.kind == "lost" and "scheduler's pod" in e.reason]
    assert re.search(
        r"out of reach for \d+ s, which is more than disconnect_grace=1 s", lost.reason
    )
    # One sentence: in the error, and in one line of the log.
    with pytest.raises(CancelledError, match="disconnect_grace=1 s") as error:
        future.result()
    assert str(error.value).count("\n") == 1  # after what distributed says of its key
    lines = [r.getMessage() for r in caplog.records if r.levelname in ("WARNING", "ERROR")]
    assert [line for line in lines if "out of reach" in line] == [f"lost: {lost.reason}"]
    assert not [line for line in lines if "\n" in line]
    assert len(lines) == 1, lines


def test_closing_while_the_network_is_away(
    outside: Start, cluster: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fake = outside()
    monkeypatch.setattr("dask_flame.backends.kubernetes.backend._CLOSE_WITHIN", 0.5)
    flame, client = cluster(disconnect_grace="1s")
    future = client.submit(whoami, 600, pure=False)
    wait_for(lambda: any(m.busy for m in flame.runners.values()))
    fake.down()
    begun = time.monotonic()
    client.close()
    flame.close()
    assert time.monotonic() - begun < 30  # without the limit above, it takes longer
    assert "could not be deleted (no answer within 0.5 s); it ends by itself" in caplog.text
    wait_for(fake.at_rest, what=f"nothing is left: {fake.left()}")
    fake.up()
    del future


def test_a_driver_in_a_pod_may_have_it_so_too(
    outside: Start, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = outside()
    fake.create(DRIVER)
    wait_for(lambda: fake.objects("pods")[0]["status"].get("podIP"))
    monkeypatch.setenv("POD_NAME", "jupyter-me")
    flame, client = cluster(image=None, scheduler="pod")
    assert flame.disconnect_grace == 120
    (head,) = pods(fake, "scheduler")
    (job,) = fake.objects("jobs")
    assert head["spec"]["containers"][0]["image"] == "hub/image:1"
    assert job["metadata"]["ownerReferences"][0]["name"] == "jupyter-me"
    assert client.submit(whoami).result(timeout=60)[0] == "runner-1"


SCRIPT = f"""
import sys, time
from dask.distributed import Client
from dask_flame import FlameCluster

def work(seconds):
    time.sleep(seconds)

if __name__ == "__main__":
    print("begun", flush=True)
    cluster = FlameCluster(
        backend="kubernetes", image="{IMAGE}", max=3, dashboard_address=None, disconnect_grace="1s"
    )
    print("up", flush=True)
    client = Client(cluster)
    futures = client.map(work, [600, 600, 600], pure=False)
    print("submitted", flush=True)
    while sum(m.busy for m in cluster.runners.values()) < 3:
        time.sleep(0.01)
    print("busy", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize(
    ("moment", "end"),
    [
        ("submitted", signal.SIGKILL),
        ("busy", signal.SIGKILL),
        ("busy", signal.SIGTERM),
        ("busy", signal.SIGINT),
    ],
)
def test_nothing_outlives_the_driver(
    moment: str, end: signal.Signals, outside: Start, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    fake = outside()
    script = tmp_path / "driver.py"
    script.write_text(SCRIPT)
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as driver:
        try:
            assert driver.stdout is not None
            for line in driver.stdout:
                if line.strip() == moment:
                    break
        finally:
            driver.send_signal(end)
            driver.wait(timeout=120)
    wait_for(fake.at_rest, within=60, what=f"nothing is left: {fake.left()}")


SMALL = {"cpu": "100m", "memory": "1Gi"}
QUOTA = {
    "apiVersion": "v1",
    "kind": "ResourceQuota",
    "metadata": {"name": "few", "namespace": "team"},
    "spec": {"hard": {"pods": "0"}},
}


def waits(fake: FakeKubernetes, reason: str) -> bool:
    """Whether the scheduler's pod waits for this reason."""
    return any(reason in json.dumps(pod["status"]) for pod in pods(fake, "scheduler"))


@pytest.mark.parametrize(
    ("options", "there"),
    [
        ({}, lambda fake: waits(fake, '"running"')),
        ({"bad_images": {IMAGE: "none"}, "back_off": 60}, lambda fake: waits(fake, "ErrImagePull")),
        ({"nodes": [SMALL]}, lambda fake: waits(fake, "Insufficient cpu")),
        ({}, lambda fake: not pods(fake, "scheduler") and fake.objects("secrets")),
    ],
    ids=["running", "image", "room", "quota"],
)
def test_nothing_outlives_a_driver_that_had_just_begun(
    options: dict[str, Any], there: Callable[[FakeKubernetes], Any],
    outside: Start, tmp_path: Path, request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    fake = outside(**options)
    # Its scheduler, if it runs, never hears from it.
    fake.fail("get pods/portforward", times=10_000)
    if "quota" in request.node.name:
        fake.create(QUOTA)
    script = tmp_path / "driver.py"
    script.write_text(SCRIPT)
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as driver:
        try:
            wait_for(lambda: there(fake), within=60)
            # It has been there for a while.
            wait_for(lambda: fake.requests.count("patch", "jobs") > 1)
        finally:
            driver.kill()
    # The grace, 1 s, and 15 s, where nothing else runs on this machine.
    wait_for(fake.at_rest, within=60, what=f"nothing is left: {fake.left()}")


def test_a_driver_that_lives_may_take_its_time(
    outside: Start, cluster: Any, tmp_path: Path
) -> None:
    fake = outside(nodes=[SMALL])
    fake.grant("admin", EVERYTHING)
    config = fake.kubeconfig(tmp_path / "admin", user="admin")
    seen: list[Any] = []

    def make_room() -> None:
        # Beyond the deadline that the Job was made with.
        wait_for(lambda: fake.requests.count("patch", "jobs") > 4, within=60)
        seen.extend(states(config))
        fake.add_node({"cpu": 8, "memory": "16Gi"})

    making = threading.Thread(target=make_room)
    making.start()
    try:
        _, client = cluster(disconnect_grace=0.5, max=1)
    finally:
        making.join()
    assert seen == ["starting"]
    assert client.submit(whoami).result(timeout=60)[0] == "runner-1"
    (job,) = wait_for(
        lambda: [j for j in fake.objects("jobs") if "activeDeadlineSeconds" not in j["spec"]]
    )
    assert job["metadata"]["generation"] > 4
    assert states(config) == ["live"]


def states(kubeconfig: str) -> list[str]:
    """What `dask flame ps` says of each cluster."""
    command = ["ps", "--backend", "kubernetes", "--output", "json"]
    done = CliRunner().invoke(command_line, command, env={"KUBECONFIG": kubeconfig})
    return [cluster["state"] for cluster in json.loads(done.stdout)]


@pytest.mark.parametrize("how", ["stop", "delete", "delete the job", "force"])
def test_somebody_ends_it(
    how: str, outside: Start, cluster: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fake = outside()
    flame, client = cluster(name="mine")
    done = client.submit(whoami, pure=False)
    assert done.result(timeout=60)
    futures = client.map(whoami, [600, 601], pure=False)
    wait_for(lambda: sum(m.busy for m in flame.runners.values()) == 2)
    if how == "stop":
        stop(fake, tmp_path, "mine")
    elif how == "delete the job":
        fake.delete(fake.objects("jobs")[0])
    else:
        fake.delete(pods(fake, "scheduler")[0], grace=0 if how == "force" else None)
    words = "stopped with `dask flame stop`" if how == "stop" else "was deleted by somebody else"
    for future in (*futures, done):
        with pytest.raises(BootError, match=words) as error:
            future.result(timeout=60)
        assert "\n" not in str(error.value)
    wait_for(lambda: client.status == "closed")
    with pytest.raises(BootError, match=f"{words}.*make a new FlameCluster"):
        client.submit(whoami, pure=False)
    assert any(e.kind == "stopped" and words in e.reason for e in flame.events)
    lines = [r.getMessage() for r in caplog.records if r.levelname in ("WARNING", "ERROR")]
    assert len(lines) == 1, lines
    assert not [line for line in lines if "\n" in line]
    wait_for(fake.at_rest, what=f"nothing is left: {fake.left()}")


def stop(fake: FakeKubernetes, folder: Path, name: str) -> str:
    """Type `dask flame stop`; what it shows."""
    fake.grant("admin", EVERYTHING)
    config = fake.kubeconfig(folder / "admin", user="admin")
    command = ["stop", "--backend", "kubernetes", "--timeout", "120", name]
    done = CliRunner().invoke(command_line, command, env={"KUBECONFIG": config})
    assert done.exit_code == 0, done.output
    return done.stdout


def test_busy_pods_of_a_driver_that_is_gone_are_stopped_at_once(
    outside: Start, tmp_path: Path
) -> None:
    fake = outside()
    script = tmp_path / "driver.py"
    # A busy runner takes all the time that its pod has, if it is given that first.
    options = 'disconnect_grace="10m", shutdown_timeout="1h", name="far"'
    script.write_text(SCRIPT.replace('disconnect_grace="1s"', options))
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as driver:
        try:
            assert driver.stdout is not None
            assert "busy\n" in iter(driver.stdout.readline, "")
        finally:
            driver.kill()
    assert len(pods(fake)) == 3
    assert "may live on" in stop(fake, tmp_path, "far")
    stopped(fake)
    deleted = [r.resource for r in fake.requests if r.verb == "delete" and r.user == "admin"]
    assert deleted.index("jobs") >= 3


@pytest.mark.parametrize("late", [0.0, 2.0])
def test_a_scheduler_that_is_taken_away(
    late: float, outside: Start, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = driver.RemoteScheduler._ended

    def hears(self: driver.RemoteScheduler, why: str) -> None:
        # Of its pod's end, which may be after all that the scheduler itself has said.
        asyncio.get_running_loop().call_later(late, ended, self, why)

    monkeypatch.setattr(driver.RemoteScheduler, "_ended", hears)
    fake = outside()
    flame, client = cluster()
    future = client.submit(whoami, 600, pure=False)
    wait_for(lambda: any(m.busy for m in flame.runners.values()))
    (head,) = pods(fake, "scheduler")
    fake.evict(head)
    wait_for(lambda: flame.status.name == "closed")
    (lost,) = [e for e in flame.events if e.kind == "lost" and "scheduler's pod" in e.reason]
    assert "Evicted" in lost.reason or "preempted" in lost.reason
    assert "Warning" not in lost.reason  # among what it printed last
    wait_for(fake.at_rest, what=f"nothing is left: {fake.left()}")
    with pytest.raises(CancelledError, match=r"Evicted|preempted"):
        future.result()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bad_images": {IMAGE: "not found"}, "back_off": 0.2}, "ImagePullBackOff.*image"),
        ({"nodes": [{"cpu": "100m", "memory": "1Gi"}]}, r"0/1 nodes.*Insufficient cpu"),
        ({"admission": lambda verb, o: "no Jobs here" if o["kind"] == "Job" else None}, "no Jobs"),
    ],
)
def test_a_scheduler_that_cannot_start(
    options: dict[str, Any], words: str, outside: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = outside(**options)
    with (
        dask.config.set({"flame.scheduler.timeout": "2s"}),
        pytest.raises(BackendError, match=f"(?s)the scheduler's pod.*{words}"),
    ):
        FlameCluster(backend="kubernetes", image=IMAGE, max=1, dashboard_address=None)
    wait_for(fake.at_rest)


def test_a_scheduler_whose_pod_is_refused(
    outside: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fake = outside(admission=lambda verb, o: "no pods here" if o["kind"] == "Pod" else None)
    monkeypatch.setattr("dask_flame.backends.kubernetes.scheduler_pod._SEEN_WITHIN", 0.5)
    words = 'admission webhook "policy.fake.test" denied the request: no pods here'
    with (
        dask.config.set({"flame.scheduler.timeout": "2s"}),
        pytest.raises(BackendError, match=f"did not start within.*{words}"),
    ):
        FlameCluster(backend="kubernetes", image=IMAGE, max=1, dashboard_address=None)
    (said,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert said.startswith(f"the scheduler's pod is not there yet: {words}; relevant settings: ")
    wait_for(fake.at_rest)


def test_a_quota_that_keeps_the_schedulers_pod_away(
    outside: Start, cluster: Any, caplog: pytest.LogCaptureFixture
) -> None:
    fake = outside()
    quota = fake.create(QUOTA)
    words = "exceeded quota: few, requested: pods=1, used: pods=0, limited: pods=0"
    begun = time.monotonic()
    with (
        dask.config.set({"flame.scheduler.timeout": "10m"}),
        pytest.raises(BackendError, match=f"the scheduler's pod was refused: pods.*{words}.*cpus"),
    ):
        FlameCluster(backend="kubernetes", image=IMAGE, max=1, dashboard_address=None)
    # Not after the time that it has for its start.
    assert time.monotonic() - begun < 200
    (said,) = [r for r in caplog.records if r.levelname == "WARNING"]
    assert words in said.getMessage()
    assert said.created < time.time() - 5
    # One that is ended meanwhile keeps nobody away.
    making = threading.Timer(4, fake.delete, [quota])
    making.start()
    try:
        _, client = cluster(max=1)
    finally:
        making.join()
    assert client.submit(whoami).result(timeout=60)[0] == "runner-1"


def test_nobody_can_tell_why_there_is_no_pod(
    outside: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A webhook that cannot be tried answers no trial; what is left is where to look."""
    fake = outside(admission=lambda verb, o: "no pods here" if o["kind"] == "Pod" else None)
    fake.fail(lambda request: "dryRun" in request.query, status=400, times=10_000)
    monkeypatch.setattr("dask_flame.backends.kubernetes.scheduler_pod._SEEN_WITHIN", 0.5)
    monkeypatch.setattr("dask_flame.backends.kubernetes.scheduler_pod._PATIENCE", 0.5)
    where = "kubectl --namespace team describe job"
    with (
        dask.config.set({"flame.scheduler.timeout": "2s"}),
        pytest.raises(BackendError, match=f"did not start within.*{where}"),
    ):
        FlameCluster(backend="kubernetes", image=IMAGE, max=1, dashboard_address=None)
    (said,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert re.match(f"the scheduler's pod is not there yet: .*{where}", said)
    wait_for(fake.at_rest)


def test_what_the_scheduler_printed_is_in_the_error(outside: Start) -> None:
    fake = outside()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with (
            dask.config.set({"flame.scheduler.port": taken.getsockname()[1]}),
            pytest.raises(BackendError, match=r"(?s)exit code 1.*already in use"),
        ):
            FlameCluster(backend="kubernetes", image=IMAGE, max=1, dashboard_address=None)
    wait_for(fake.at_rest)


def test_another_version_there(outside: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    outside()
    monkeypatch.setattr("dask_flame.driver.hosts.remote.__version__", "0.0.0")
    with pytest.raises(BackendError, match=r"this driver 0\.0\.0; name an image"):
        FlameCluster(backend="kubernetes", image=IMAGE, max=1, dashboard_address=None)


def test_another_python_in_the_schedulers_image(outside: Start, tmp_path: Path) -> None:
    program, version = other_python(tmp_path)
    fake = outside(pythons={IMAGE: program})
    mine = platform.python_version()
    said = (
        rf"(?s)the scheduler's pod has Python {version}, and the driver has Python {mine}: .*image="
    )
    with pytest.raises(BackendError, match=said) as error:
        FlameCluster(backend="kubernetes", image=IMAGE, max=1, dashboard_address=None)
    assert "Traceback" not in str(error.value)
    wait_for(fake.at_rest)


def test_another_python_in_the_image_of_a_pool(
    outside: Start, cluster: Any, tmp_path: Path
) -> None:
    program, version = other_python(tmp_path)
    outside(pythons={"other:1": program})
    pools = {"good": Pool(max=1, image=IMAGE), "other": Pool(max=2, image="other:1")}
    flame, client = cluster(max=None, image=None, pools=pools)
    with on("other"):
        futures = client.map(lambda n: n + 1, range(2))
    with pytest.raises(BootError, match=f"has Python {version}, and the driver has Python"):
        client.gather(futures)
    assert client.submit(lambda: 3).result(timeout=60) == 3
    wait_for(lambda: sum(version in e.reason for e in flame.events) == 1)


def test_a_scheduler_that_is_not_reached(
    outside: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fake = outside()
    fake.fail("get pods/portforward", status=403, times=10_000)
    monkeypatch.setattr("dask_flame.driver.hosts.remote._HELLO_WITHIN", 2.0)
    monkeypatch.setattr("dask_flame.driver.hosts.remote._SAID_AFTER", 1.0)
    with pytest.raises(BackendError, match=r"not reached within 2 s: the server is not well"):
        FlameCluster(backend="kubernetes", image=IMAGE, max=1, dashboard_address=None)
    assert "is not reached yet: the server is not well" in caplog.text
    wait_for(fake.at_rest)


def test_rights_that_are_missing(outside: Start) -> None:
    fake = outside()
    fake.grant("driver", [r for r in RIGHTS if "pods/portforward" not in r["resources"]])
    with pytest.raises(BackendError) as error:
        FlameCluster(backend="kubernetes", image=IMAGE, max=1, dashboard_address=None)
    missing = [(PODS, "portforward", "create"), (PODS, "portforward", "get")]
    assert rules(missing) in str(error.value)
    poor = [{**rule, "verbs": [v for v in rule["verbs"] if v != "patch"]} for rule in RIGHTS]
    fake.grant("driver", poor)
    with pytest.raises(BackendError) as error:
        FlameCluster(backend="kubernetes", image=IMAGE, max=1, dashboard_address=None)
    assert rules([(JOBS, "", "patch")]) in str(error.value)
    assert fake.left() == []


def test_without_an_image(outside: Start) -> None:
    fake = outside()
    with pytest.raises(PoolError, match=r"a pod needs an image: .* flame\.kubernetes\.image"):
        FlameCluster(backend="kubernetes", max=1, dashboard_address=None)
    assert fake.left() == []


def test_runners_end_as_python_does_when_the_cluster_closes(
    outside: Start, cluster: Any, tmp_path: Path
) -> None:
    outside()
    _, client = cluster(max=1)
    client.submit(end_late, tmp_path).result(timeout=60)
    client.close()
    client.cluster.close()
    assert (tmp_path / "ended").exists()


def test_a_lifetime_that_is_over(outside: Start, cluster: Any) -> None:
    outside()
    flame, client = cluster(max_lifetime="6s")
    client.submit(whoami, pure=False)
    wait_for(lambda: flame.status.name == "closed")
    assert any("max_lifetime=6 s" in e.reason for e in flame.events)


def test_a_lost_runner_says_why(outside: Start, cluster: Any) -> None:
    fake = outside()
    flame, client = cluster(max=1)
    with on(rerun=False):
        future = client.submit(whoami, 600, pure=False)
    wait_for(lambda: any(m.busy for m in flame.runners.values()))
    (pod,) = pods(fake)
    fake.oom(pod)
    with pytest.raises(RunnerLost, match="OOMKilled"):
        future.result(timeout=60)


def test_only_where_the_backend_knows_how() -> None:
    with pytest.raises(PoolError, match=re.escape('write scheduler="auto"')):
        FlameCluster(max=1, scheduler="pod")
    with pytest.raises(PoolError, match="scheduler='moon'"):
        FlameCluster(max=1, scheduler="moon")


def test_kinds_of_pod_are_chosen_where_the_scheduler_is(outside: Start, cluster: Any) -> None:
    nodes = [
        {"cpu": 64, "memory": "256Gi"},
        *(
            {"cpu": 8, "memory": "64Gi", "nvidia.com/gpu": gpus, "labels": {"gpu": kind}}
            for kind, gpus in (("h100", 0), ("a100", 1), ("l4", 1))
        ),
    ]
    fake = outside(nodes=nodes)
    own = {"flame.kubernetes.gpu-label": "gpu", "flame.capacity-wait": "0.5s"}
    with dask.config.set({**own, "flame.capacity-retry": "1h"}):
        flame, client = cluster(
            gpus=1, gpu_kind=["h100", "a100"], price={"h100": 4, "a100": 2, "l4": 1}
        )
        assert client.submit(whoami, pure=False).result(timeout=60)[0] == "runner-2"
        wait_for(lambda: {n: m.kind for n, m in flame.runners.items()} == {"runner-2": "a100"})
        wait_for(lambda: [p["spec"]["nodeSelector"] for p in pods(fake)] == [{"gpu": "a100"}])
        reasons = [event.reason for event in flame.events if event.kind == "boot"]
        assert "1 of a100; h100 has none: Unschedulable: 0/4 nodes" in reasons[-1]
        # The driver passes a changed order on, too.
        flame.resize(gpu_kind=["h100", "l4", "a100"])
        futures = client.map(whoami, [1.0, 1.0], pure=False)
        there = {"runner-2": "a100", "runner-3": "l4"}
        wait_for(lambda: {n: m.kind for n, m in flame.runners.items()} == there, within=60)
        client.gather(futures)
        had = {"h100", "l4", "a100"}
        wait_for(lambda: {part.kind for part in flame.cost()["default"].kinds} == had)
        listed = CliRunner().invoke(command_line, ["ps", "--backend", "kubernetes", "--runners"])
        assert "KIND" in listed.output
        assert re.search(r"runner-2 .* a100 ", listed.output)
