from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from concurrent.futures import CancelledError
from typing import Any

import dask
import dask.config
import pytest
from distributed import Client, Event, get_worker

import dask_flame
from dask_flame import FlameCluster
from dask_flame.backends import Backend
from dask_flame.core.immediate_send import ImmediateSender
from dask_flame.driver.control_loop import FlameAdaptive
from dask_flame.errors import BackendError, BootError, PoolError
from tests.driver.cluster_calls import _die, name_of_runner
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process


def boots(cluster: FlameCluster) -> list[int]:
    """Runners asked for, decision by decision."""
    return [len(e.runners) for e in cluster.events if e.kind == "boot"]


def test_one_wave_each_runner_used_once_and_gone_when_idle(flame: Any) -> None:
    cluster, client = flame(max=6, idle_timeout="1s")
    gate = Event("gate", client=client)
    futures = client.map(lambda _: gate.wait() and name_of_runner(), range(6))
    wait_for(lambda: sum(m.busy for m in cluster.runners.values()) == 6)
    gate.set()
    names = client.gather(futures)
    assert boots(cluster) == [6]
    assert len(set(names)) == 6
    wait_for(lambda: not cluster.runners, what="all runners gone")
    retired = [e for e in cluster.events if e.kind == "retire"]
    assert {e.reason for e in retired} == {"no call for idle_timeout=1 s"}
    assert sum(len(e.runners) for e in retired) == 6
    # The futures are still held: their results came home.
    assert client.gather(futures) == names


def test_demand_asks_for_no_more_than_max_and_counts_slots(flame: Any) -> None:
    cluster, client = flame(max=3, concurrency=2)
    assert len(client.gather(client.map(name_of_runner, range(20), pure=False))) == 20
    assert boots(cluster) == [3]


def test_boots_are_asked_for_by_events_and_not_by_a_poll(flame: Any) -> None:
    with dask.config.set({"distributed.adaptive.interval": "1h"}):
        cluster, client = flame(max=2, idle_timeout="100ms")
    assert client.submit(name_of_runner).result(timeout=60) == "runner-1"
    wait_for(lambda: not cluster.runners, what="it is retired by its timer alone")


def test_a_runner_with_brief_calls_is_not_idle(flame: Any) -> None:
    cluster, client = flame(max=1, idle_timeout="1s")
    start = last = now = time.monotonic()
    seen = 0
    while now < start + 3:
        if now > last + 0.6:
            # This machine was held up: the runner may have been idle for long enough.
            start, seen = now, len(cluster.events)
        last = now
        # Over before anybody has looked whether the runner is busy.
        assert client.submit(int, pure=False).result(timeout=60) == 0
        time.sleep(0.1)
        now = time.monotonic()
    assert [e.kind for e in cluster.events[seen:] if e.kind == "retire"] == []


def test_calls_that_follow_upon_each_other_are_decided_upon_together(flame: Any) -> None:
    cluster, client = flame(min=1, max=1)
    client.wait_for_workers(1, timeout=60)
    decided: list[int] = []
    decide = cluster._adaptive.decide
    cluster._adaptive.decide = lambda: (decided.append(1), decide())  # type: ignore[func-returns-value]

    def decisions() -> int:
        decided.clear()
        for i in range(100):
            client.submit(int, i, pure=False).result(timeout=60)
        return len(decided)

    # Where the machine is held up, its calls do not follow upon each other.
    wait_for(lambda: 0 < decisions() < 150, within=200)


def test_a_call_does_not_wait_for_what_was_said_before_it(flame: Any) -> None:
    # distributed lets 10 ms pass between two messages of a client: that a result is not wanted any
    # more, and the next call.
    cluster, client = flame(min=1, max=1)
    client.wait_for_workers(1, timeout=60)
    assert client.submit(int, pure=False).result(timeout=60) == 0
    sender = client.scheduler_comm
    assert isinstance(sender, ImmediateSender)
    assert sender.interval == 0
    # Nor to a runner and from it.
    (address,) = (a for a in cluster.scheduler.workers if a not in cluster.scheduler.resting)
    assert isinstance(cluster.scheduler.stream_comms[address], ImmediateSender)
    senders = client.run(
        lambda dask_worker: isinstance(dask_worker.batched_stream, ImmediateSender)
    )
    assert list(senders.values()) == [True]


def test_results_wait_for_others_only_while_many_calls_wait(flame: Any) -> None:
    cluster, client = flame(min=1, max=1)
    gate = Event("gate", client=client)
    first = client.submit(gate.wait, pure=False)
    wait_for(lambda: any(ws.processing for ws in cluster.scheduler.workers.values()))
    sender = cluster.scheduler.client_comms[client.id]
    assert isinstance(sender, ImmediateSender)
    few = client.map(int, range(3), pure=False)
    wait_for(lambda: cluster.scheduler.waiting() == 3)
    assert sender.interval == 0
    many = client.map(int, range(50), pure=False)
    wait_for(lambda: cluster.scheduler.waiting() == 53)
    assert sender.interval == 0.01
    gate.set()
    assert client.gather([*few, *many]) == [*range(3), *range(50)]
    assert sender.interval == 0
    del first


def test_min_runners_boot_with_the_cluster_and_are_replaced(flame: Any) -> None:
    cluster, client = flame(min=2, max=3, idle_timeout="100ms")
    client.wait_for_workers(2, timeout=60)
    with pytest.raises(Exception, match=r"runner|worker"):
        client.submit(_die, retries=0, pure=False).result(timeout=60)
    wait_for(lambda: len(cluster.observed) == 2)
    wait_for(lambda: cluster.plan == cluster.requested == cluster.observed)
    assert sum(e.kind == "lost" for e in cluster.events) >= 1


def test_scale_and_adapt(flame: Any) -> None:
    cluster, client = flame(max=4, idle_timeout="100ms")
    cluster.scale(2)
    client.wait_for_workers(2, timeout=60)
    adaptive = cluster.adapt(minimum=0, maximum=3)
    assert isinstance(adaptive, FlameAdaptive)
    assert (adaptive.minimum, adaptive.maximum) == (0, 3)
    wait_for(lambda: not cluster.runners)
    assert (cluster.pools["default"].min, cluster.pools["default"].max) == (0, 3)
    with pytest.raises(ValueError, match=r"minimum=5 is more than maximum=3; write cluster\.adapt"):
        cluster.adapt(minimum=5)
    with pytest.raises(ValueError, match=r"maximum=0\.5 is not a whole number of 0 or more"):
        cluster.adapt(maximum=0.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="n=-1 is not a whole number of 0 or more; write n=4"):
        cluster.scale(-1)
    with pytest.raises(ValueError, match=r"adapt\(\) does not take min; write cluster.adapt"):
        cluster.adapt(min=1)
    with pytest.raises(ValueError, match="n=-1 is not a whole number of 0 or more; write n=4"):
        cluster.scale(-1)


def test_scaling_down_leaves_busy_runners_to_finish(flame: Any) -> None:
    cluster, client = flame(min=2, max=2)
    client.wait_for_workers(2, timeout=60)
    gate = Event("gate", client=client)
    future = client.submit(lambda: gate.wait() and name_of_runner())
    wait_for(lambda: any(m.busy for m in cluster.runners.values()))
    cluster.scale(0)
    wait_for(lambda: len(cluster.runners) == 1)
    gate.set()
    assert future.result() in {"runner-1", "runner-2"}
    wait_for(lambda: not cluster.runners)
    later = client.submit(int, 9)
    wait_for(lambda: cluster.scheduler.waiting() == 1)
    assert not cluster.runners
    cluster.adapt(maximum=1)
    assert later.result(timeout=60) == 9
    assert sum(e.kind == "lost" for e in cluster.events) == 0


def test_what_a_cluster_shows_of_itself(flame: Any) -> None:
    cluster, client = flame(max=2, name="mine", dashboard_address="127.0.0.1:0")
    client.submit(print, "hello").result(timeout=60)
    assert "FlameCluster(mine, 'flame://127.0.0.1:/" in repr(cluster)
    wait_for(lambda: "1 ready of 0..2" in repr(cluster))
    assert "mine" in cluster._repr_html_()
    assert "0 to 2 runners" in cluster._repr_html_()
    assert cluster.dashboard_link.startswith("http://127.0.0.1:")
    assert cluster.flame_link == cluster.dashboard_link.replace("/status", "/flame")
    wait_for(lambda: "hello" in cluster.get_logs()["runner-1"])
    logs = cluster.get_logs()
    assert "demand of 1 slot calls for 1" in logs["Cluster"]
    assert "runner-1" in str(cluster.events)
    assert cluster.events[0].kind == "boot"
    assert str(dask_flame.__version__)


def test_the_notebook_widget_shows_the_pool(flame: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ipywidgets")
    cluster, _ = flame(max=2)
    bundles: list[Any] = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: bundles.append(data))
    cluster._ipython_display_()
    widget, page = bundles
    assert "application/vnd.jupyter.widget-view+json" in widget
    assert "0 to 2 runners" in page["text/html"]
    cluster._widget().close()


@pytest.mark.asyncio
async def test_asynchronous_use() -> None:
    async with (
        FlameCluster(max=2, asynchronous=True, dashboard_address=None) as cluster,
        Client(cluster, asynchronous=True) as client,
    ):
        assert await client.gather(client.map(abs, [-1, -2])) == [1, 2]
        cluster.adapt(maximum=3)
        assert cluster.pools["default"].max == 3
    assert not cluster.runners


@pytest.mark.asyncio
async def test_an_awaited_cluster_is_a_started_one_and_closing_it_twice_is_once() -> None:
    cluster = await FlameCluster(max=1, asynchronous=True, dashboard_address=None)
    await asyncio.gather(cluster.close(), cluster.close())
    await cluster.close()


def test_context_managers_and_a_client_without_one() -> None:
    with FlameCluster(max=1, dashboard_address=None) as cluster:
        client = cluster.get_client()
        assert client.submit(int, 4).result(timeout=60) == 4
        client.close()
    assert repr(cluster) == f"FlameCluster({cluster.name}, closed)"


def test_two_clusters_side_by_side(flame: Any) -> None:
    first, one = flame(max=1)
    second, two = flame(max=1)
    futures = one.submit(int, 1), two.submit(int, 2)
    assert [f.result(timeout=60) for f in futures] == [1, 2]
    assert first.name != second.name


def test_tls_between_all_parts(flame: Any) -> None:
    cluster, client = flame(max=1, security=True)
    assert cluster.scheduler_address.startswith("tls://")
    assert client.submit(int, 6).result(timeout=60) == 6
    key = cluster.security.tls_worker_key
    assert key not in repr(cluster) + str(cluster.events) + str(cluster.get_logs())


def test_local_modules_are_found_on_runners(
    flame: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_local_module.py").write_text("def answer():\n    return 42\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import my_local_module  # type: ignore[import-not-found]

    _, client = flame(max=1)
    assert client.submit(my_local_module.answer).result(timeout=60) == 42


def test_options_reach_the_runner(flame: Any) -> None:
    _, client = flame(max=1, memory="1 GiB", env={"MINE": "yes"}, cpus=2, preload=["json.tool"])

    def look() -> tuple[Any, ...]:
        import os
        import sys

        worker = get_worker()
        return (
            worker.memory_manager.memory_limit,
            os.environ["MINE"],
            os.environ["OMP_NUM_THREADS"],
            "json.tool" in sys.modules,
        )

    assert client.submit(look).result(timeout=60) == (2**30, "yes", "2", True)


def test_a_cluster_may_be_closed_before_its_client() -> None:
    cluster = FlameCluster(max=1, dashboard_address=None)
    client = Client(cluster)
    assert client.submit(int, 4).result(timeout=60) == 4
    cluster.close()
    assert client.status == "closed"
    client.close()


def test_a_cluster_ends_after_its_max_lifetime_whatever_runs(flame: Any) -> None:
    cluster, client = flame(max=1, max_lifetime="6s")
    running = client.submit(time.sleep, 600)
    with dask.annotate(rerun=False):
        waiting = client.submit(time.sleep, 601)
    wait_for(lambda: cluster.status.name == "closed", what="it has closed by itself")
    assert not cluster.runners
    (lease,) = (e for e in cluster.events if e.kind == "lease")
    assert lease.reason == "max_lifetime=6 s has passed"
    wait_for(lambda: client.status == "closed")
    for future in (running, waiting):
        with pytest.raises(CancelledError, match=r'max_lifetime=6 s.* such as max_lifetime="8h"'):
            future.result()


def test_without_a_dashboard_there_is_no_link_to_it(flame: Any) -> None:
    cluster, client = flame(max=1, dashboard_address=None)
    assert cluster.dashboard_link == cluster.flame_link == client.dashboard_link == ""


# What bad input gets


def test_a_function_that_raises_raises_here(flame: Any) -> None:
    cluster, client = flame(max=1)
    with pytest.raises(ZeroDivisionError):
        client.submit(lambda: 1 / 0).result(timeout=60)
    assert client.submit(int, 1).result() == 1
    assert len(cluster.runners) == 1


def test_an_unpicklable_function_is_refused_here_and_boots_nothing(flame: Any) -> None:
    cluster, client = flame(max=1)
    lock = threading.Lock()
    with pytest.raises(TypeError, match=r"pickle|serialize"):
        client.submit(lambda: lock).result(timeout=60)
    assert not cluster.runners


def test_a_runner_that_cannot_start_fails_what_waits_with_the_reason(flame: Any) -> None:
    cluster, client = flame(max=4, preload=["no_such_module_here"], boot_attempts=2)
    futures = client.map(name_of_runner, range(4))
    with pytest.raises(BootError) as caught:
        client.gather(futures)
    assert "No module named 'no_such_module_here'" in str(caught.value)
    assert "2 boots failed in a row (boot_attempts)" in str(caught.value)
    assert boots(cluster) == [4, 1]
    wait_for(lambda: not cluster.runners)
    # What comes later gets a try of its own.
    with pytest.raises(BootError):
        client.submit(name_of_runner).result(timeout=60)


def test_a_backend_that_cannot_start_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from dask_flame.backends.local import LocalBackend

    class Broken(LocalBackend):
        async def start(self) -> None:
            raise BackendError("no room here")

    with pytest.raises(BackendError, match="no room here"):
        FlameCluster(backend=Broken, dashboard_address=None)


def test_closing_ends_all_although_the_backend_cannot_end_runners() -> None:
    from dask_flame.backends.local import LocalBackend

    class Deaf(LocalBackend):
        async def end(self, *args: Any, **kwargs: Any) -> None:
            raise OSError("nobody answers")

    with FlameCluster(min=1, backend=Deaf, dashboard_address=None) as cluster:
        wait_for(lambda: cluster.observed)


@pytest.mark.parametrize("deaf", [0, 2])
def test_a_boot_that_was_refused_is_tried_again_although_the_backend_cannot_list(
    deaf: int, flame: Any
) -> None:
    from dask_flame.backends.local import LocalBackend

    class Deaf(LocalBackend):
        refused = unheard = 0

        async def boot(self, specs: Any) -> None:
            if not self.refused:
                self.refused += 1
                raise OSError("no quota")
            await super().boot(specs)

        async def list(self) -> set[str]:
            if self.unheard < deaf:
                self.unheard += 1
                raise OSError("nobody answers")
            return await super().list()

    cluster, client = flame(max=1, backend=Deaf)
    assert client.submit(name_of_runner).result(timeout=60) == "runner-2"
    (failed,) = (e for e in cluster.events if e.kind == "failed")
    assert failed.runners == ("runner-1",)
    assert "could not be asked for: OSError: no quota" in failed.reason


def test_a_mistake_in_a_backend_is_shown_with_its_trace_once_for_each_text(
    flame: Any, caplog: pytest.LogCaptureFixture
) -> None:
    from dask_flame.backends.local import LocalBackend

    class Mistaken(LocalBackend):
        boots = 0

        async def boot(self, specs: Any) -> None:
            self.boots += 1
            if self.boots < 3:
                raise KeyError("slots")
            await super().boot(specs)

    _, client = flame(max=1, backend=Mistaken, boot_attempts=5)
    assert client.submit(name_of_runner).result(timeout=60) == "runner-3"
    (record,) = (r for r in caplog.records if "no BackendError" in r.getMessage())
    assert record.getMessage().startswith("Mistaken.boot raised KeyError: 'slots'")
    assert record.exc_info is not None


def test_a_backend_that_cannot_list_its_runners_says_why(flame: Any) -> None:
    from dask_flame.backends.local import LocalBackend

    class Deaf(LocalBackend):
        deaf = False

        async def list(self) -> set[str]:
            if self.deaf:
                raise TypeError("no such column")
            return await super().list()

    cluster, client = flame(max=1, backend=Deaf, idle_timeout="0.1s")
    cluster.backend.deaf = True
    client.submit(int).result(timeout=60)

    def said() -> bool:
        return any(
            "list its runners: TypeError: no such column" in e.reason for e in cluster.events
        )

    wait_for(said)
    cluster.backend.deaf = False


def test_the_same_trouble_of_a_backend_is_one_event(flame: Any) -> None:
    cluster, _ = flame(max=1)
    for why in ("no answer", "no answer", "late", "", ""):
        cluster.loop.add_callback(cluster.backend.trouble, "", why)
    wait_for(lambda: any(e.reason == "over: late" for e in cluster.events))
    held = [e.reason for e in cluster.events if e.kind == "held"]
    assert held == ["no answer", "late", "over: late"]


def test_a_backend_that_is_not_complete_is_told_what_it_lacks() -> None:
    class Half(Backend):
        async def start(self) -> None: ...

    with pytest.raises(PoolError, match=r"backend=Half lacks methods.*: boot, close, end, list"):
        FlameCluster(backend=Half)


def test_an_error_in_closing_is_raised_when_all_else_is_closed() -> None:
    from dask_flame.backends.local import LocalBackend

    class Late(LocalBackend):
        async def close(self) -> None:
            await super().close()
            raise OSError("lost the answer")

    cluster = FlameCluster(max=1, backend=Late, dashboard_address=None)
    with pytest.raises(OSError, match="lost the answer"):
        cluster.close()
    assert cluster.status.name == "closed"


def test_names_of_events_are_logged(flame: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="dask_flame"):
        _, client = flame(max=1, silence_logs=None)
        client.submit(int, 1).result(timeout=60)
    assert "boot: runner-1: demand of 1 slot" in caplog.text


def test_the_exported_names() -> None:
    assert dir(dask_flame) == [
        "AttachError",
        "BackendError",
        "BootError",
        "BootTimeout",
        "BudgetExhausted",
        "CallFailed",
        "CallStopped",
        "CallTimeout",
        "CellError",
        "FlameCluster",
        "FlameError",
        "Lease",
        "Pool",
        "PoolError",
        "Prints",
        "Report",
        "Reports",
        "RunnerLost",
        "__version__",
        "applications",
        "attach",
        "call",
        "cast",
        "connect",
        "devices",
        "expose",
        "fetch",
        "label",
        "on",
        "place",
        "post_mortem",
        "recover",
        "report",
        "reports_of",
        "resume_clients",
        "run",
        "runs",
        "setup_result",
        "stop",
        "stream",
        "track",
        "watch",
    ]
    for name in dir(dask_flame):
        assert getattr(dask_flame, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = dask_flame.nonsense


def test_logs_while_a_runner_ends(flame: Any, caplog: pytest.LogCaptureFixture) -> None:
    cluster, client = flame(min=2, max=2)
    client.wait_for_workers(2)
    address, pid = next(iter(client.run(os.getpid).items()))

    async def logs() -> Any:
        os.kill(pid, signal.SIGSTOP)
        asked = asyncio.ensure_future(cluster._get_logs())
        while not cluster.scheduler.rpc.occupied.get(address):  # noqa: ASYNC110 - no event for it
            await asyncio.sleep(0.01)
        os.kill(pid, signal.SIGKILL)
        return await asked

    found = cluster.sync(logs)
    assert address not in found
    assert {"Cluster", "Scheduler"} <= found.keys()
    assert "broadcast" not in caplog.text
